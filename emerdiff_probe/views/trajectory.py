"""What a run makes of noise, timestep by timestep: latents, predicted pictures, the end."""

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
    """Positions in other pictures of the calls of a recording; the last of those at a timestep."""
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
