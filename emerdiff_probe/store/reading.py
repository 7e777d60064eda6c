"""Opening what was recorded; needs no torch."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import xarray as xr
import zarr

from emerdiff_probe import schema
from emerdiff_probe.errors import SiteError, StoreError, closest
from emerdiff_probe.schema import TIMESTEP
from emerdiff_probe.sites import Site
from emerdiff_probe.store.plan import IMAGE, LATENTS, leaf_path

__all__ = ["RESTART", "Info", "chunks_of", "committed", "info", "open_recording"]
__all__ += ["root_attributes", "site"]

RESTART: Final = "restart"
"""Group of latents that a run goes on from; a block of timesteps is committed by its own."""


def committed(path: Path) -> set[tuple[int, ...]]:
    """Sample and block of all that is committed."""
    return {index[:2] for index in chunks_of(path, f"{RESTART}/value")}


def chunks_of(path: Path, array: str) -> set[tuple[int, ...]]:
    """Indices of the chunks that an array has on disk."""
    folder = path / array / "c"
    return {
        tuple(int(part) for part in file.relative_to(folder).parts)
        for file in folder.rglob("*")
        if file.is_file() and file.name.isdigit()
    }


def root_attributes(path: Path) -> dict[str, Any]:
    """What a recording says of itself.

    Raises:
        StoreError: It is no recording.
    """
    try:
        attributes = dict(zarr.open_group(path, mode="r").attrs)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise StoreError(f"'{path}' is no recording: {error}") from error
    if attributes.get("schema") != schema.RECORDING:
        raise StoreError(
            f"'{path}' is no recording that this version knows: its schema is "
            f"{attributes.get('schema')!r}, not {schema.RECORDING!r}"
        )
    return attributes


def open_recording(path: str | os.PathLike[str]) -> xr.DataTree:
    """Opens a recording that was streamed to a folder; values are read when they are needed.

    Args:
        path: The folder. It may still be written to: what is not committed yet is NaN.

    Raises:
        StoreError: It is no recording, or a committed block has lost a file.
    """
    path = Path(path)
    root_attributes(path)
    _check_whole(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = xr.open_datatree(path, engine="zarr", chunks={}, consolidated=True)
    return tree.filter(lambda node: not node.path.startswith(f"/{RESTART}"))


def _check_whole(path: Path) -> None:
    """See that no file is missing of any block that is committed."""
    expected = committed(path)
    for array in path.rglob("value/zarr.json"):
        name = str(array.parent.relative_to(path))
        # An attention's port "value" is a group of that name.
        dims = json.loads(array.read_text()).get("dimension_names", ())
        if name.startswith(RESTART) or TIMESTEP not in dims:
            continue
        axis = dims.index(TIMESTEP)
        there = {(index[0], index[axis]) for index in chunks_of(path, name)}
        if lost := sorted(expected - there):
            sample, block = lost[0]
            raise StoreError(
                f"'{path}' has lost {len(lost)} chunks of {name!r}, the first that of sample "
                f"{sample}, block {block} of timesteps; take them from a copy, or delete "
                f"'{path / RESTART / 'value' / 'c' / str(sample)}' and record again"
            )


@dataclass(frozen=True)
class Info:
    """What is in a store.

    Attributes:
        sites: Names of the sites recorded.
        samples: A text for each sample.
        timesteps: From the most noise to the least.
        committed: Share of the blocks that are there, in [0, 1].
        finished: Whether the last picture is there too.
        nbytes: On disk.
        model: Of which model, as `Denoiser.description` says.
        config: All that decides the values.
        versions: Of the packages that made it.
    """

    sites: tuple[str, ...]
    samples: tuple[str, ...]
    timesteps: tuple[int, ...]
    committed: float
    finished: bool
    nbytes: int
    model: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]


def info(path: str | os.PathLike[str]) -> Info:
    """What is in a store and how complete it is; no values are read.

    Raises:
        StoreError: It is no recording.
    """
    path = Path(path)
    attributes = root_attributes(path)
    config = json.loads(attributes["config"])
    samples, blocks = json.loads((path / RESTART / "value/zarr.json").read_text())["shape"][:2]
    return Info(
        sites=tuple(config["sites"]),
        samples=tuple(map(_described, config["sources"].values())),
        timesteps=tuple(config["timesteps"]),
        committed=len(committed(path)) / (samples * blocks),
        finished=len(chunks_of(path, f"{IMAGE}/value")) == samples,
        nbytes=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        model=json.loads(attributes["model"]),
        config=config,
        versions=json.loads(attributes["versions"]),
    )


def _described(source: dict[str, Any]) -> str:
    if source["source"] != "prompt":
        return str(source["source"])
    return f"{source['prompt']!r}, seed {source['seed']}"


def site(run: xr.DataTree, name: str) -> xr.DataArray:
    """The values of a site, with the timesteps, prompts and seeds of the recording.

    Args:
        run: A recording.
        name: Of the site, as ``mid_block`` or ``up_blocks.1.attentions.0:out``; or "image" or
            "latents".

    Returns:
        Dims as recorded: sample, guidance where there is any, timestep, then those of the site.

    Raises:
        SiteError: The recording has no such site; gives the closest.
    """
    path = name if name in (IMAGE, LATENTS) else leaf_path(Site.parse(name))
    leaves = {node.path.strip("/"): node for node in run.leaves}
    if path not in leaves:
        known = map(_site_name, leaves)
        wanted = _site_name(path)
        raise SiteError(f"no site {wanted!r} in this recording; {closest(wanted, known)}")
    values = leaves[path]["value"]
    about = {
        coord: array
        for coord, array in run.to_dataset().coords.items()
        if set(array.dims) <= set(values.dims)
    }
    return values.assign_coords(about).rename(name)


def _site_name(leaf: str) -> str:
    path, _, port = leaf.rpartition("/")
    return f"{path.replace('/', '.')}:{port}" if path else port
