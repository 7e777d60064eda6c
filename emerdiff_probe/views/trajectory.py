"""Draw the course of a run, timestep by timestep: latents, predicted images, the result."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go
import xarray as xr

from emerdiff_probe import store
from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import principal_components
from emerdiff_probe.schema import RGB, SAMPLE, TIMESTEP, X, Y
from emerdiff_probe.timesteps import labels, matching
from emerdiff_probe.views.maps import chosen_calls, described, endings, extent, places
from emerdiff_probe.views.panels import as_bytes, panels, picture, title

__all__ = ["trajectory"]


def trajectory(
    run: xr.DataTree,
    timesteps: Sequence[float] | None = None,
    *,
    predicted: xr.DataArray | None = None,
    sample: int = 0,
) -> go.Figure:
    """Draw the latents x_t of a run at timesteps, and the image that it ends with.

    Args:
        run: A recording.
        timesteps: The timesteps to show; by default five from the first to the last.
        predicted: Images of the predicted x_0, drawn below: (timestep, y, x, rgb), optionally with
            sample; uint8, or floats from 0 to 1.
        sample: The position of the sample.

    Returns:
        A figure with the latents in their first three principal components. These are fitted to the
        last latents shown, which have structure, while the first are noise.

    Raises:
        InputError: A timestep or sample was not recorded, or the images are of other timesteps.
    """
    run = store.with_samples(run)
    at, steps = chosen_calls(run, timesteps)
    latents = places(store.site(run, store.LATENTS), sample=sample).isel({TIMESTEP: at}).load()
    end = endings(run).isel({SAMPLE: sample}).transpose(Y, X, RGB)
    size = extent(end)
    last = principal_components(latents.isel({TIMESTEP: -1}))
    colours = last.colours(latents).isel({SAMPLE: 0})
    strips = {"latents x_t, principal colours": colours}
    if predicted is not None:
        one = predicted.isel({SAMPLE: sample}) if SAMPLE in predicted.dims else predicted
        strips["predicted x_0"] = one.isel({TIMESTEP: _same_calls(run, one, at)})
    model, source = described(run, sample)
    columns = len(steps) + 1
    figure = panels(
        size,
        (len(strips), columns),
        side=150,
        heading=title(f"{model}: from noise to the picture", source, 30 + 20 * columns),
        columns=[*(f"t = {step}" for step in steps), str(end.name)],
        rows=list(strips),
    )
    for row, strip in enumerate(strips.values(), start=1):
        for column in range(len(steps)):
            pixels = as_bytes(strip.isel({TIMESTEP: column}).transpose(Y, X, RGB).values)
            figure.add_trace(picture(pixels, size), row, column + 1)
        figure.add_trace(picture(end.values, size), row, columns)
    return figure


def _same_calls(run: xr.DataTree, predicted: xr.DataArray, at: Sequence[int]) -> list[int]:
    """Return the positions of a recording's calls in other images; the last at each timestep."""
    recorded = run.to_dataset()[TIMESTEP].values.tolist()
    there = predicted[TIMESTEP].values.tolist()
    found = []
    for position in at:
        same = matching(there, recorded[position])
        if not same:
            raise InputError(
                f"predicted has no timestep {recorded[position]}; it has "
                f"{', '.join(labels(predicted))}"
            )
        visit = matching(recorded, recorded[position]).index(position)
        found.append(same[min(visit, len(same) - 1)])
    return found
