"""Open recordings, and read a site or a place from one, without torch."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError, SiteError, StoreError, closest
from emerdiff_probe.kinds import expect
from emerdiff_probe.schema import RECORDING, X, Y
from emerdiff_probe.sites import Site, select
from emerdiff_probe.store.address import Address, as_it_claims, by_size, opened
from emerdiff_probe.store.plan import IMAGE, LATENTS, TOKEN_TEXT, leaf_path
from emerdiff_probe.store.sealing import WHOLE, checked_labels
from emerdiff_probe.store.values import dims_of, leaves_of, restart_of, table_of, values_of

__all__ = ["at", "gather", "leaf_nodes", "open_recording", "site", "sites_of"]


def open_recording(address: Address) -> xr.DataTree:
    """Open a recording; values are read lazily, as float32.

    Args:
        address: A folder, a zip file that `pack` made, or an address that fsspec understands, such
            as ``s3://bucket/run.zarr``. It may still be written to: values that are not committed
            yet are NaN.

    Returns:
        The recording; for images of several sizes, a tree of recordings by ``{height}x{width}``.

    Raises:
        StoreError: There is no recording. Later, when values are read: a chunk is damaged or lost;
            the message names its file. All other chunks can be read.
    """
    if sizes := by_size(address):
        return xr.DataTree(
            children={name: open_recording(folder) for name, folder in sizes.items()}
        )
    with as_it_claims(address):
        return _opened_tree(opened(address), str(address))


def _opened_tree(root: zarr.Group, place: str) -> xr.DataTree:
    arrays = {path: node for path, node in root.members(max_depth=None)}
    restart, table = restart_of(root), table_of(root, place)
    nodes: dict[str, xr.Dataset] = {"/": _root_labels(root, place)}
    # All images have one size, so positions are the same on all grids of one size.
    indexed: dict[tuple[str, int], NDArray[Any]] = {}
    labelled: dict[tuple[tuple[str, int], ...], xr.Coordinates] = {}
    for leaf, array in leaves_of(root):
        dims = tuple(zip(dims_of(array), array.shape, strict=True))
        damage = None
        for dim, size in dims:
            if (dim, size) not in indexed and f"{leaf}/{dim}" in arrays:
                try:
                    indexed[dim, size] = checked_labels(arrays[f"{leaf}/{dim}"], place)
                except StoreError as error:
                    damage = error
        if damage is not None or dims not in labelled:
            known = {dim: indexed.get((dim, size)) for dim, size in dims}
            labelled[dims] = xr.Coordinates(
                {dim: (dim, values) for dim, values in known.items() if values is not None}
            )
        words: dict[str, Any] = {}
        if f"{leaf}/{TOKEN_TEXT}" in arrays:
            own = arrays[f"{leaf}/{TOKEN_TEXT}"]
            try:
                words[TOKEN_TEXT] = (dims_of(own), checked_labels(own, place))
            except StoreError as error:
                damage = error
        number = functools.partial(table.number, f"{leaf}/value")
        values = values_of(array, f"{leaf}/value", place, restart, damage=damage, number=number)
        node = xr.Dataset({"value": (dims_of(array), values)}, coords=labelled[dims])
        nodes[leaf] = node.assign_coords(words)
        rows = dims_of(array)[0]
        if rows not in nodes["/"].coords:  # as in stores of earlier versions
            nodes["/"] = nodes["/"].assign_coords({rows: np.arange(array.shape[0])})
    return xr.DataTree.from_dict(nodes)


def _root_labels(root: zarr.Group, place: str) -> xr.Dataset:
    """Return the samples, timesteps and provenance in the root."""
    labels = {name: (dims_of(array), checked_labels(array, place)) for name, array in root.arrays()}
    # xarray's own list of the variables that are coordinates; here all are.
    attributes = {
        name: each for name, each in root.attrs.items() if name not in (WHOLE, "coordinates")
    }
    return xr.Dataset(coords=labels, attrs=attributes)


def site(run: xr.DataTree, name: str) -> xr.DataArray:
    """Return the values of a site, with the timesteps, prompts and seeds of the recording.

    Args:
        run: A recording.
        name: The name of the site, such as ``mid_block`` or ``up_blocks.1.attentions.0:out``; or
            "image" or "latents".

    Returns:
        An array with the dims recorded: sample, guidance if there is any, timestep, then those of
        the site.

    Raises:
        SiteError: The recording has no such site; the message names the closest.
        InputError: The tree is not a recording.
    """
    expect(run, RECORDING)
    path = name if name in (IMAGE, LATENTS) else leaf_path(Site.parse(name))
    leaves = leaf_nodes(run)
    if path not in leaves:
        known = map(_site_name, leaves)
        wanted = _site_name(path)
        raise SiteError(f"no site {wanted!r} in this recording; {closest(wanted, known)}")
    values = leaves[path]["value"]
    if values.dtype == np.float16:  # a tree that no reader made
        values = values.astype(np.float32)
    about = {
        coord: array
        for coord, array in run.to_dataset().coords.items()
        if set(array.dims) <= set(values.dims)
    }
    return values.assign_coords(about).rename(name)


def leaf_nodes(run: xr.DataTree) -> dict[str, xr.DataTree]:
    """Return the leaves of a recording by their path in it; it may be a part of a larger tree."""
    return {node.path.removeprefix(run.path).strip("/"): node for node in run.leaves}


def sites_of(run: xr.DataTree) -> list[Site]:
    """Return the sites of a recording, in the model's order if it is known."""
    expect(run, RECORDING)
    names = list(map(_site_name, leaf_nodes(run)))
    recorded = json.loads(run.attrs.get("config", "{}")).get("sites", [])
    order = {name: number for number, name in enumerate(recorded)}
    names.sort(key=lambda name: order.get(name, len(order)))
    return [Site.parse(name) for name in names if name not in (IMAGE, LATENTS)]


def _site_name(leaf: str) -> str:
    path, _, port = leaf.rpartition("/")
    return f"{path.replace('/', '.')}:{port}" if path else port


def gather(
    run: xr.DataTree, sites: str | Sequence[str] = "*", *, y: float, x: float
) -> dict[str, xr.DataArray]:
    """Return the values of layers at one place of the image, at every timestep.

    The result is a dictionary, because layers differ in their channels and one dataset could not
    name them all ``channel``.

    Args:
        run: A recording.
        sites: A pattern for `emerdiff_probe.sites.select`, or several.
        y: The distance from the top in pixels; the centre of pixel i is i + 0.5. Each site returns
            its nearest location.
        x: The distance from the left in pixels.

    Returns:
        The values by the name of each site that has locations (keys and values of a text have
        none), with dims (sample[, guidance], timestep[, head], channel) and the centre of the
        location as coordinates. Values of a recording in a store are read lazily.

    Raises:
        SiteError: The recording has no such site.
        InputError: The place is outside the image.
    """
    pattern = sites if isinstance(sites, str) else ",".join(sites)
    names = [str(each) for each in select(sites_of(run), pattern)]
    return {
        name: at(values, y, x) for name in names if {Y, X} <= set((values := site(run, name)).dims)
    }


def at(values: xr.DataArray, y: float, x: float) -> xr.DataArray:
    """Return the values at the location nearest to a place of the image.

    Args:
        values: An array with dims y and x, in pixels.
        y: The distance from the top in pixels.
        x: The distance from the left in pixels.

    Raises:
        InputError: The place is outside the image.
    """
    # The first and the last centre lie half a cell from the edge.
    height, width = (float(values[dim][0] + values[dim][-1]) for dim in (Y, X))
    if not (0 <= y <= height and 0 <= x <= width):
        raise InputError(
            f"y={y:g}, x={x:g} is outside the image; choose y from 0 to {height:g} and "
            f"x from 0 to {width:g}, in pixels"
        )
    return values.sel({Y: y, X: x}, method="nearest")
