"""Show what an intervention does to an image: before, after, the difference, and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.kinds import described
from emerdiff_probe.views.colours import SEQUENTIAL
from emerdiff_probe.views.panels import as_bytes, panels, picture, pixel_map, title

__all__ = ["Replayed", "effect"]

_SIDE: Final = 250
_SEEN: Final = 0.05
"""The smallest visible difference, on a scale from 0 to 1."""


class Replayed(Protocol):
    """The parts of a run, such as `emerdiff_probe.runs.Run`, that the figure shows."""

    @property
    def reconstruction(self) -> NDArray[np.float32]:
        """Return the image that the run ends with, (height, width, 3), in [0, 1]."""

    @property
    def size(self) -> tuple[int, int]:
        """Return the height and width of the image in its own size, in pixels."""

    @property
    def interventions(self) -> Sequence[Any]:
        """Return the interventions that it ran under."""


def effect(run: Replayed, edited: Replayed) -> go.Figure:
    """Show what interventions do to an image.

    For example::

        ep.views.effect(run, run.replay(ep.Ablate("mid_block")))

    Args:
        run: The run before.
        edited: The run of the same noise under interventions, from
            `emerdiff_probe.runs.Run.replay`.

    Returns:
        The images that both runs end with and the norm over RGB of their difference, on axes in
        pixels of the image's own size. The title gives the mean absolute difference in grey levels
        (0 to 255), the root mean square as decibels of the peak (PSNR, inf where nothing changed),
        and the share of pixels in which a channel changes by more than 5 % of the range.

    Raises:
        InputError: An argument is not a run, or the images of the runs differ in size.
    """
    for each in (run, edited):
        if not hasattr(each, "reconstruction"):
            raise InputError(
                f"this is {described(each)}, not a run; ep.invert(model, image) returns "
                "one, and run.replay(...) the edited one"
            )
    before, after = (np.asarray(each.reconstruction, np.float32) for each in (run, edited))
    if before.shape != after.shape:
        raise InputError(
            f"the runs have images of shapes {before.shape} and {after.shape}; compare a run with "
            "the result of its run.replay(...)"
        )
    changed = np.abs(after - before)
    error = float(np.square(after - before).mean(dtype=np.float64))
    decibels = 10 * np.log10(1 / error) if error else np.inf
    numbers = (
        f"mean difference {255 * changed.mean():.1f} of 255 · {decibels:.1f} dB · "
        f"{(changed.max(-1) > _SEEN).mean():.0%} of the pixels change by more than {_SEEN:.0%}"
    )
    under = ", ".join(map(repr, edited.interventions[len(run.interventions) :]))
    figure = panels(
        run.size,
        (1, 3),
        side=_SIDE,
        heading=title(numbers, under),
        titles=["before", "after", "difference"],
        scales=[{"colorscale": SEQUENTIAL, "cmin": 0}],
    )
    figure.add_trace(picture(as_bytes(before), run.size), 1, 1)
    figure.add_trace(picture(as_bytes(after), run.size), 1, 2)
    norms = np.linalg.norm(after - before, axis=-1)
    template = "y %{y:.1f}, x %{x:.1f}: %{z:.3g}"
    figure.add_trace(pixel_map(norms, run.size, template, scale=1), 1, 3)
    return figure
