"""Complete recordings to all of their dims, for code that iterates over samples and timesteps."""

from __future__ import annotations

from typing import Any

import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.kinds import expect
from emerdiff_probe.schema import BATCH, GUIDANCE, RECORDING, SAMPLE, STEP, TIMESTEP, TOKEN
from emerdiff_probe.store.plan import IMAGE
from emerdiff_probe.store.reading import leaf_nodes

__all__ = ["complete", "with_samples"]


def complete(run: xr.DataTree) -> xr.DataTree:
    """Return a recording with dims for samples and timesteps, even if one was selected.

    ``run.isel(sample=0)`` and ``run.isel(timestep=-1)`` are recordings of one sample and of one
    timestep.

    Args:
        run: A recording.

    Raises:
        InputError: The tree is not a recording, or has no timesteps.
    """
    expect(run, RECORDING)
    if TIMESTEP not in run.coords:
        raise InputError(
            "this recording has no timesteps: text encoders and the autoencoder run once a run. "
            "Take its sites one by one, as with ep.site(recording, name)"
        )
    leaves = {path: leaf.to_dataset(inherit=False) for path, leaf in leaf_nodes(run).items()}
    dims = {path: set(leaf["value"].dims) for path, leaf in leaves.items()}
    missing = []
    if not all(each & {SAMPLE, BATCH} for each in dims.values()):
        missing.append(SAMPLE)
    if not all(TIMESTEP in each for path, each in dims.items() if path != IMAGE):
        missing.append(TIMESTEP)
    if not missing:
        return run
    root = _root(run.to_dataset(), missing)
    return xr.DataTree.from_dict(
        {"/": root, **{path: _leaf(leaf, path, missing) for path, leaf in leaves.items()}}
    )


def with_samples(run: xr.DataTree) -> xr.DataTree:
    """Return a complete recording in which unidentified batch rows count as samples, too.

    Args:
        run: A recording.

    Raises:
        InputError: The tree is not a recording.
    """
    run = complete(run)
    if not any(BATCH in leaf["value"].dims for leaf in run.leaves):
        return run
    leaves = {path: leaf.to_dataset(inherit=False) for path, leaf in leaf_nodes(run).items()}
    renamed = {
        path: node.rename({BATCH: SAMPLE}) if BATCH in node.dims else node
        for path, node in {"/": run.to_dataset(), **leaves}.items()
    }
    return xr.DataTree.from_dict(renamed)


def _root(root: xr.Dataset, missing: list[str]) -> xr.Dataset:
    coords: dict[Any, Any] = {}
    for name, coord in root.coords.items():
        dim = TIMESTEP if name in (TIMESTEP, STEP) else SAMPLE
        if dim in missing and dim not in coord.dims and name not in (GUIDANCE, TOKEN):
            coords[name] = coord.variable.expand_dims(dim)
    return root.drop_vars(list(coords)).assign_coords(coords)


def _leaf(leaf: xr.Dataset, path: str, missing: list[str]) -> xr.Dataset:
    value: Any = leaf["value"].variable
    if SAMPLE in missing:
        value = value.expand_dims(SAMPLE)
    if TIMESTEP in missing and path != IMAGE:
        value = value.expand_dims(TIMESTEP)
    front = [dim for dim in (SAMPLE, BATCH, GUIDANCE, TIMESTEP) if dim in value.dims]
    coords = {name: coord for name, coord in leaf.coords.items() if coord.dims}
    return xr.Dataset({"value": value.transpose(*front, ...)}, coords=coords)
