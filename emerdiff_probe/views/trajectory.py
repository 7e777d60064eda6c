"""What a run makes of noise, timestep by timestep: latents, predicted pictures, the end."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import xarray as xr

from emerdiff_probe import analysis, store
from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import RGB, SAMPLE, TIMESTEP, X, Y
from emerdiff_probe.views.maps import chosen_timesteps, described, places
from emerdiff_probe.views.panels import as_bytes, panels, picture, title

__all__ = ["trajectory"]


def trajectory(
    run: xr.DataTree,
    timesteps: Sequence[int] | None = None,
    *,
    predicted: xr.DataArray | None = None,
    sample: int = 0,
) -> go.Figure:
    """The latents x_t of a run at timesteps, and the picture that it ends with.

    Args:
        run: A recording.
        timesteps: By default five from the first to the last.
        predicted: Pictures of the predicted x_0, to stand below: (timestep, y, x, rgb), perhaps
            with sample; uint8, or floats from 0 to 1.
        sample: Position of the sample.

    Returns:
        Latents in their first three principal components, which the last latents shown decide:
        those have a form, where the first are noise.

    Raises:
        InputError: Something that was not recorded, or pictures of other timesteps.
    """
    steps = chosen_timesteps(run, timesteps)
    latents = places(store.site(run, store.LATENTS), sample=sample).sel({TIMESTEP: steps}).load()
    end = store.site(run, store.IMAGE).isel({SAMPLE: sample}).transpose(Y, X, RGB)
    size = end.sizes[Y], end.sizes[X]
    last = analysis.principal_components(latents.isel({TIMESTEP: -1}))
    colours = last.colours(latents).isel({SAMPLE: 0})
    strips = {"latents x_t, principal colours": colours}
    if predicted is not None:
        one = predicted.isel({SAMPLE: sample}) if SAMPLE in predicted.dims else predicted
        if missing := [step for step in steps if step not in one[TIMESTEP].values]:
            raise InputError(
                f"predicted has no timesteps {missing}; it has "
                f"{', '.join(map(str, one[TIMESTEP].values))}"
            )
        strips["predicted x_0"] = one.sel({TIMESTEP: steps})
    model, source = described(run, sample)
    columns = len(steps) + 1
    figure = panels(
        size,
        (len(strips), columns),
        side=150,
        heading=title(f"{model}: from noise to the picture", source, 30 + 20 * columns),
        columns=[*(f"t = {step}" for step in steps), "picture"],
        rows=list(strips),
    )
    for row, strip in enumerate(strips.values(), start=1):
        for column, step in enumerate(steps, start=1):
            pixels = as_bytes(strip.sel({TIMESTEP: step}).transpose(Y, X, RGB).values)
            figure.add_trace(picture(pixels, size), row, column)
        figure.add_trace(picture(end.values, size), row, columns)
    return figure
