"""Take every measure at every site and timestep of a recording, in one labelled dataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from emerdiff_probe import store
from emerdiff_probe.errors import InputError, closest
from emerdiff_probe.layers.features import Labels, features
from emerdiff_probe.layers.measures import (
    MEASURES,
    LayerMeasure,
    Measure,
    PairMeasure,
    Surroundings,
)
from emerdiff_probe.schema import CHANNEL, STEP, TIMESTEP, X, Y
from emerdiff_probe.sites import select
from emerdiff_probe.timesteps import positions

__all__ = ["atlas"]

_Summaries = dict[tuple[str, int], NDArray[Any]]
"""Summary of each site and position of a timestep."""


def atlas(
    run: xr.DataTree,
    measures: Sequence[str | Measure] = ("effective_rank", "massive", "similarity"),
    *,
    sites: str = "*",
    timesteps: Sequence[float] | None = None,
    labels: Labels | None = None,
    ignore: int | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Measure a whole recording, site by site and timestep by timestep.

    Memory holds one site at a time, and of that only the timesteps that are stored together.

    Args:
        run: Recording, as `emerdiff_probe.open` returns it.
        measures: Names from `MEASURES` (``effective_rank``, ``massive``, ``principal``,
            ``similarity``; with labels also ``probe``, ``explained``, ``labels``; between sites
            ``cka``, ``clusters``), or measure objects with settings of their own.
        sites: Pattern of sites, as ``model.sites`` takes it. Sites without locations, such as the
            keys of a text, are left out.
        timesteps: Timesteps to measure; by default all that were recorded. One that was visited
            twice is measured twice; the coordinate ``step`` tells the calls apart.
        labels: True classes (sample, y, x), integers, at any size: one image for each sample.
        ignore: Label whose pixels do not count.
        progress: Whether to show a bar with the time left.

    Returns:
        Variables (site, timestep), some with further dims of their own; measures between sites
        (site, timestep, site2), symmetric in the sites. `LayerMeasure` and `PairMeasure` name them.
        Attribute ``measures`` holds the settings. NaN where a number has no meaning, such as the
        CKA of a constant layer.

    Raises:
        InputError: A measure or timestep does not exist; labels that a measure needs are missing or
            belong to other images; or the recording is not complete.
        SiteError: No site matches.
    """
    run = store.with_samples(run)
    chosen = _chosen(measures)
    names = _sites(run, sites)
    root = run.to_dataset()
    at = list(range(root.sizes[TIMESTEP])) if timesteps is None else positions(root, timesteps)
    calls = {name: root[name].isel({TIMESTEP: at}) for name in (TIMESTEP, STEP) if name in root}
    grids = [_grid(run, name) for name in names]
    about = Surroundings(
        store.site(run, store.IMAGE).load() if store.IMAGE in run.children else None,
        (min(rows for rows, _ in grids), min(columns for _, columns in grids)),
        labels,
        ignore,
    )
    alone = [each for each in chosen if isinstance(each, LayerMeasure)]
    between = [each for each in chosen if isinstance(each, PairMeasure)]
    summaries: list[_Summaries] = [{} for _ in between]
    rows = []
    with tqdm(total=len(names) * len(at), desc="atlas", disable=not progress) as bar:
        for name in names:
            cells = []
            for call, layer in enumerate(_layers(run, name, at)):
                values = [measure.measure(layer, about) for measure in alone]
                cells.append(xr.Dataset({k: v for each in values for k, v in each.items()}))
                for pair, kept in zip(between, summaries, strict=True):
                    kept[name, call] = pair.summary(layer, about)
                bar.update()
            rows.append(xr.concat(cells, TIMESTEP, join="outer"))
    # Of small classes a coarse grid has none: they are NaN there.
    grid = xr.concat(rows, "site", join="outer").assign_coords({"site": names})
    compared = (
        _compared(pair, kept, names, len(at), progress)
        for pair, kept in zip(between, summaries, strict=True)
    )
    return (
        xr.merge([grid, *compared], join="exact")
        .assign_coords(calls)
        .assign_coords(
            rows=("site", [count for count, _ in grids]),
            columns=("site", [count for _, count in grids]),
        )
        .assign_attrs(measures=", ".join(map(repr, chosen)))
    )


def _compared(
    pair: PairMeasure, summaries: _Summaries, names: list[str], calls: int, progress: bool
) -> xr.Dataset:
    """Compare every two sites at every call."""
    values: dict[str, NDArray[np.float64]] = {}
    shape = (len(names), calls, len(names))
    corners = list(combinations_with_replacement(range(len(names)), 2))
    for one, other in tqdm(corners, desc=type(pair).__name__, disable=not progress):
        for column in range(calls):
            first, second = (summaries[names[row], column] for row in (one, other))
            for key, value in pair.compare(first, second).items():
                cube = values.setdefault(key, np.full(shape, np.nan))
                cube[one, column, other] = cube[other, column, one] = value
    dims = ("site", TIMESTEP, "site2")
    coords = {"site": names, "site2": names}
    return xr.Dataset({key: (dims, cube) for key, cube in values.items()}, coords)


def _layers(run: xr.DataTree, site: str, at: Sequence[int]) -> Iterator[xr.DataArray]:
    """Yield the features of a site at each timestep; load those stored together at once."""
    values = features(run, site).isel({TIMESTEP: list(at)})
    lengths = values.variable.chunksizes.get(TIMESTEP, (len(at),))
    ends = np.cumsum(lengths)
    for first, last in zip(ends - lengths, ends, strict=True):
        block = values.isel({TIMESTEP: slice(first, last)}).load()
        for position in range(last - first):
            yield block.isel({TIMESTEP: position}, drop=True)


def _chosen(measures: Sequence[str | Measure]) -> list[Measure]:
    for each in measures:
        if isinstance(each, str) and each not in MEASURES:
            raise InputError(f"no measure {each!r}; {closest(each, MEASURES)}")
        if not isinstance(each, str | LayerMeasure | PairMeasure):
            raise InputError(
                f"{each!r} is not a measure; give a name ({', '.join(MEASURES)}), or an object "
                "that has the methods of LayerMeasure or PairMeasure"
            )
    if not measures:
        raise InputError(f"measures is empty; choose from {', '.join(MEASURES)}")
    return [MEASURES[each] if isinstance(each, str) else each for each in measures]


def _sites(run: xr.DataTree, pattern: str) -> list[str]:
    """Return the sites with locations that match a pattern, in the model's order."""
    known = [
        each
        for each in store.sites_of(run)
        if {Y, X, CHANNEL} <= set(run[store.leaf_path(each)]["value"].dims)
    ]
    return [str(site) for site in select(known, pattern)]


def _grid(run: xr.DataTree, site: str) -> tuple[int, int]:
    sizes = store.site(run, site).sizes
    return sizes[Y], sizes[X]
