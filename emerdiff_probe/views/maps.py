"""Select the part of a recording that a figure shows: sites, timesteps, sample and head.

All functions take and return labelled arrays, so that figures only draw.
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
    """Return the sites of a recording that have locations, in the model's order or the order given.

    Args:
        run: A recording.
        sites: A pattern, as for ``model.sites``, or names.

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
    """Return the positions of the given timesteps, or of a few from the first to the last.

    Args:
        run: A recording.
        timesteps: The timesteps; one that was visited twice stands for both calls.

    Returns:
        The positions along the dim ``timestep``, and their names, no two of them equal.

    Raises:
        InputError: A timestep was not recorded.
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
    """Return one sample of a recorded array, with all heads in one channel axis, or one head alone.

    Args:
        values: An array from `emerdiff_probe.site`, with dims y, x and channel.
        sample: The position of the sample.
        guidance: The half of a guided call; by default "cond".
        head: The number of a head of an attention port.

    Returns:
        An array ([timestep,] y, x, channel), read lazily.

    Raises:
        InputError: There is no such sample, half or head; or the site has no locations.
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
        raise InputError(
            f"guidance is {guidance!r}, but this was recorded without guidance; omit it"
        )
    if head is not None and HEAD not in values.dims:
        raise InputError(f"head is {head}, but this site has no heads; omit it")
    if head is not None:
        values = _at(values, HEAD, head)
    return by_location(values).isel({SAMPLE: 0})


def _at(values: xr.DataArray, dim: str, position: int) -> xr.DataArray:
    count = values.sizes[dim]
    if not 0 <= position < count:
        raise InputError(f"{dim} is {position}; choose 0 to {count - 1}")
    return values.isel({dim: position})


def magnitude(values: xr.DataArray) -> xr.DataArray:
    """Return the root mean square over channels, comparable between layers of any width."""
    return ((values**2).mean(CHANNEL) ** 0.5).rename("magnitude")


def one_channel(values: xr.DataArray, channel: int) -> xr.DataArray:
    """Return one channel.

    Raises:
        InputError: There is no channel of that number.
    """
    return _at(values, CHANNEL, channel).rename(f"channel {channel}")


def extent(values: xr.DataArray | xr.Dataset) -> tuple[int, int]:
    """Return the height and width of the image that an array with y and x covers, in pixels.

    Its positions are centres of cells, so the first is half a cell from the edge.
    """
    return round(float(values[Y][0] + values[Y][-1])), round(float(values[X][0] + values[X][-1]))


def endings(run: xr.DataTree) -> xr.DataArray:
    """Return the images that runs end with, (sample, y, x, rgb), uint8; grey where unknown.

    The name of the array serves as the title of a panel.
    """
    if store.IMAGE in run.children:
        return store.site(run, store.IMAGE).rename("picture")
    latents = store.site(run, store.LATENTS)
    places = {dim: latents[dim].values for dim in (Y, X)}
    grey = np.full((latents.sizes[SAMPLE], *map(len, places.values()), 3), 128, np.uint8)
    return xr.DataArray(grey, dims=(SAMPLE, Y, X, RGB), coords=places, name="no picture")


def described(run: xr.DataTree, sample: int = 0) -> tuple[str, str]:
    """Return the model of a recording, and the prompt or image of a sample, as text."""
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
