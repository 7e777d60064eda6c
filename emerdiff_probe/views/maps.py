"""What of a recording a figure shows: which sites, timesteps, sample and head, and in what numbers.

Everything takes and gives labelled arrays, so that a figure draws and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import numpy as np
import xarray as xr

from emerdiff_probe import store
from emerdiff_probe.errors import InputError
from emerdiff_probe.locations import by_location
from emerdiff_probe.schema import CHANNEL, GUIDANCE, HEAD, RGB, SAMPLE, TIMESTEP, X, Y
from emerdiff_probe.sites import select
from emerdiff_probe.timesteps import labels, positions

__all__ = [
    "chosen_calls",
    "chosen_sites",
    "described",
    "endings",
    "extent",
    "magnitude",
    "one_channel",
    "places",
]

_FEW: Final = 5


def chosen_sites(run: xr.DataTree, sites: str | Sequence[str]) -> list[str]:
    """The sites of a recording that have places, in the model's order, or in the order given.

    Args:
        run: A recording.
        sites: A pattern, as ``model.sites`` takes it, or names.

    Raises:
        SiteError: There is no such site.
    """
    known = [
        each
        for each in store.sites_of(run)
        if {Y, X, CHANNEL} <= set(run[store.leaf_path(each)]["value"].dims)
    ]
    patterns = [sites] if isinstance(sites, str) else sites
    found = [str(site) for pattern in patterns for site in select(known, pattern)]
    return list(dict.fromkeys(found))


def chosen_calls(
    run: xr.DataTree, timesteps: Sequence[float] | None = None
) -> tuple[list[int], list[str]]:
    """Return positions of timesteps, those asked for or a few from the first to the last.

    Args:
        run: A recording.
        timesteps: Of one that was visited twice both calls are given.

    Returns:
        Positions along the dim ``timestep``, and their names, no two of them equal.

    Raises:
        InputError: One was not recorded.
    """
    root = run.to_dataset()
    count = root.sizes[TIMESTEP]
    if timesteps is None:
        at = np.linspace(0, count - 1, min(count, _FEW)).round().astype(int).tolist()
    else:
        at = positions(root, timesteps)
    return at, labels(root, at)


def places(
    values: xr.DataArray, *, sample: int = 0, guidance: str | None = None, head: int | None = None
) -> xr.DataArray:
    """One sample of a recorded array, its heads joined to one channel axis, or one head alone.

    Args:
        values: As `emerdiff_probe.site` gives it, with y, x and channel.
        sample: Position of the sample.
        guidance: Half of a guided call; by default "cond".
        head: Of an attention port.

    Returns:
        ([timestep,] y, x, channel); read when it is needed.

    Raises:
        InputError: No such sample, half or head; or no places.
    """
    if SAMPLE in values.dims:
        values = _at(values, SAMPLE, sample)
    if GUIDANCE in values.dims:
        halves = values[GUIDANCE].values.tolist()
        half = guidance or "cond"
        if half not in halves:
            raise InputError(f"guidance is {half!r}; choose one of {', '.join(halves)}")
        values = values.sel({GUIDANCE: half})
    elif guidance is not None:
        raise InputError(f"guidance is {guidance!r}, but this was recorded without; leave it out")
    if head is not None and HEAD not in values.dims:
        raise InputError(f"head is {head}, but this site has none; leave it out")
    if head is not None:
        values = _at(values, HEAD, head)
    return by_location(values).isel({SAMPLE: 0})


def _at(values: xr.DataArray, dim: str, position: int) -> xr.DataArray:
    count = values.sizes[dim]
    if not 0 <= position < count:
        raise InputError(f"{dim} is {position}; choose 0 to {count - 1}")
    return values.isel({dim: position})


def magnitude(values: xr.DataArray) -> xr.DataArray:
    """The root mean square over channels, which layers of any width share a scale of."""
    return ((values**2).mean(CHANNEL) ** 0.5).rename("magnitude")


def one_channel(values: xr.DataArray, channel: int) -> xr.DataArray:
    """One channel.

    Raises:
        InputError: There is none of that number.
    """
    return _at(values, CHANNEL, channel).rename(f"channel {channel}")


def extent(values: xr.DataArray | xr.Dataset) -> tuple[int, int]:
    """Height and width of the picture that what has y and x spans, in pixels.

    Its places are centres of cells, so the first is half a cell from the edge.
    """
    return round(float(values[Y][0] + values[Y][-1])), round(float(values[X][0] + values[X][-1]))


def endings(run: xr.DataTree) -> xr.DataArray:
    """Return the pictures that runs end with, (sample, y, x, rgb), uint8; grey where none is known.

    Their name is for a panel's title.
    """
    if store.IMAGE in run.children:
        return store.site(run, store.IMAGE).rename("picture")
    latents = store.site(run, store.LATENTS)
    places = {dim: latents[dim].values for dim in (Y, X)}
    grey = np.full((latents.sizes[SAMPLE], *map(len, places.values()), 3), 128, np.uint8)
    return xr.DataArray(grey, dims=(SAMPLE, Y, X, RGB), coords=places, name="no picture")


def described(run: xr.DataTree, sample: int = 0) -> tuple[str, str]:
    """The model of a recording, and the prompt or picture of a sample, in words."""
    root = store.with_samples(run).to_dataset()
    model = json.loads(run.attrs.get("model", "{}")).get("name") or "model"
    if "source" not in root:
        return model, f"row {sample}"
    about = {
        name: root[name].isel({SAMPLE: sample}).values.item()
        for name in ("source", "prompt", "seed")
    }
    if not str(about["source"]).startswith("prompt"):
        return model, str(about["source"])
    return model, f"prompt {about['prompt']!r}, seed {about['seed']}"
