"""Copy recordings: with chunks for another way of reading, or packed into one file."""

from __future__ import annotations

import json
import math
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import xarray as xr
import zarr

from emerdiff_probe.errors import ConfigError, StoreError
from emerdiff_probe.paths import LOCK, Held, local, made_at_once
from emerdiff_probe.schema import TIMESTEP, X, Y
from emerdiff_probe.store.address import Address, local_folder, opened
from emerdiff_probe.store.chunks import PARTIAL
from emerdiff_probe.store.making import new_array
from emerdiff_probe.store.plan import IMAGE, LATENTS, block_length
from emerdiff_probe.store.positions import POSITIONS, Positions, counted, number_of
from emerdiff_probe.store.reading import leaf_nodes, open_recording
from emerdiff_probe.store.sealing import consolidate, labelled, with_checksums
from emerdiff_probe.store.summary import LAYOUT
from emerdiff_probe.store.texts import TEXT, portable
from emerdiff_probe.store.values import RESTART
from emerdiff_probe.store.whole import complete

__all__ = ["Layout", "pack", "rechunk"]

Layout = Literal["steps", "points"]

_POINT_BYTES: Final = 2**17


def rechunk(run: xr.DataTree | Address, layout: Layout, path: str | os.PathLike[str]) -> Path:
    """Copy a recording into a folder, chunked for another way of reading.

    Args:
        run: A recording, or the address of one. It must be complete.
        layout: "points" to read one place at all timesteps: chunks of some 100 KiB hold a few
            neighbouring locations at all timesteps, and all chunks of a sample and site share a
            file. "steps" to read whole layers at some timesteps, as recordings are written.
        path: The new folder, which appears under its name once it is complete. Open it like any
            recording. At any time, memory holds one sample of one site.

    Returns:
        The folder.

    Raises:
        ConfigError: There is no such layout.
        StoreError: The recording is incomplete, or the folder exists or cannot be written.
    """
    if layout not in ("steps", "points"):
        raise ConfigError(f"layout is {layout!r}; choose 'steps' or 'points'")
    tree = complete(open_recording(run) if isinstance(run, str | os.PathLike) else run)
    _check_whole(tree)
    leaves = {path: leaf.to_dataset(inherit=False) for path, leaf in leaf_nodes(tree).items()}
    # Values are read as float32, whatever their precision on disk.
    recorded = json.loads(tree.attrs.get("config", "{}")).get("dtype")
    dtypes = {
        name: np.dtype((recorded if name not in (LATENTS, IMAGE) else None) or leaf["value"].dtype)
        for name, leaf in leaves.items()
    }
    block = block_length(
        sum(_step_bytes(leaf["value"], dtypes[name]) for name, leaf in leaves.items()),
        tree.sizes[TIMESTEP],
    )
    new = local_folder(path)
    with Held(new, store=True) as held, made_at_once(new, held=held) as making:
        about = with_checksums(tree.to_dataset().assign_attrs({LAYOUT: layout}))
        portable(about.drop_encoding()).to_zarr(making, zarr_format=3, consolidated=False)
        root = zarr.open_group(making, mode="r+")
        cuts = {
            name: _chunks(leaf["value"], dtypes[name], layout, block)
            for name, leaf in leaves.items()
        }
        positions = Positions(
            {
                f"{name}/value": counted(
                    tuple(map(str, leaf["value"].dims)), leaf["value"].shape, cuts[name]
                )
                for name, leaf in leaves.items()
            }
        )
        numbers = np.zeros(positions.shape, np.uint32)
        for name, leaf in leaves.items():
            values = leaf["value"]
            group = root.create_group(name)
            array = new_array(
                group,
                "value",
                tuple(map(str, values.dims)),
                values.shape,
                cuts[name],
                str(dtypes[name]),
                shards=(1, *values.shape[1:]) if layout == "points" else None,
            )
            for dim, labels in leaf.coords.items():
                _write_labels(group, str(dim), labels)
            for row in range(values.shape[0]):
                own = values[row : row + 1].values.astype(dtypes[name])
                array[row : row + 1] = own
                for index in positions.chunks(f"{name}/value", row):
                    corner = zip(index[1:], cuts[name][1:], strict=True)
                    part = own[:, *(slice(at * cut, (at + 1) * cut) for at, cut in corner)]
                    position = positions.of(f"{name}/value", index)
                    numbers[position] = number_of(f"{name}/value", index, part)
        dims, chunks = ("row", "part", "column"), (1, *numbers.shape[1:])
        table = new_array(
            root.create_group(POSITIONS), "value", dims, numbers.shape, chunks, "uint32"
        )
        table[...] = numbers
        consolidate(making)
    return new


def _write_labels(group: zarr.Group, name: str, labels: xr.DataArray) -> None:
    dtype = TEXT if labels.dtype.kind == "U" else labels.dtype
    dims = list(map(str, labels.dims))
    array = group.create_array(
        name,
        shape=labels.shape,
        dtype=dtype,
        dimension_names=dims,
        attributes=labelled(labels.values),
    )
    array[...] = labels.values


def _step_bytes(values: xr.DataArray, dtype: np.dtype[Any]) -> int:
    """Return the number of bytes of one sample at one timestep."""
    if TIMESTEP not in values.dims:
        return 0
    return values.size * dtype.itemsize // (values.shape[0] * values.sizes[TIMESTEP])


def _chunks(
    values: xr.DataArray, dtype: np.dtype[Any], layout: Layout, block: int
) -> tuple[int, ...]:
    rows = str(values.dims[0])  # samples, or a batch
    sizes = {str(dim): size for dim, size in values.sizes.items()} | {rows: 1}
    if layout == "steps" and TIMESTEP in sizes:
        sizes[TIMESTEP] = block
    if layout == "points" and {TIMESTEP, Y, X} <= sizes.keys():
        while math.prod(sizes.values()) * dtype.itemsize > _POINT_BYTES:
            # Halve the longer side first, so that chunks fill their file.
            halved = [dim for dim in (Y, X) if sizes[dim] % 2 == 0]
            if not halved:
                break
            sizes[max(halved, key=sizes.__getitem__)] //= 2
    return tuple(sizes.values())


def _check_whole(tree: xr.DataTree) -> None:
    # These arrays are small, and NaN where nothing is committed yet.
    if LATENTS not in tree.children:
        return
    there = np.isfinite(tree[LATENTS]["value"]).all()
    if not bool(there):
        raise StoreError(
            "the recording is incomplete; record again with the same settings to resume it, then "
            "copy it"
        )


def pack(path: str | os.PathLike[str], file: str | os.PathLike[str]) -> Path:
    """Pack a recording into one zip file, which can be opened as it is.

    Whatever is committed is packed, even while recording continues; `info` tells how much that is.
    A packed recording cannot be resumed until it is unpacked.

    Args:
        path: The folder of the recording.
        file: The new file, ending in ``.zip``; it appears under its name once it is complete. It is
            not compressed, because activations hardly compress. Equal recordings give equal bytes.

    Returns:
        The file.

    Raises:
        StoreError: The folder is not a recording, or the file exists or cannot be written.
    """
    folder = local_folder(path)
    opened(folder)
    # List commits first, so that everything they refer to exists when it is listed.
    commits = _files(folder / RESTART)
    others = [each for each in _files(folder) if (folder / RESTART) not in each.parents]
    new = local(file)
    with made_at_once(new) as making, zipfile.ZipFile(making, "w") as packed:
        for each in [*others, *commits]:
            # the first date that zip knows, for equal bytes
            name = zipfile.ZipInfo(each.relative_to(folder).as_posix())
            with each.open("rb") as source, packed.open(name, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 2**20)
    return new


def _files(folder: Path) -> list[Path]:
    """Return all files of a recording, except a writer's lock and files that are being written."""
    own = (each for each in folder.rglob("*") if each != folder / LOCK)
    found = sorted(each for each in own if each.suffix != PARTIAL)
    for each in found:
        if each.is_symlink():
            raise StoreError(
                f"'{each}' is a link, which may lead out of the recording; replace it by the file "
                "itself"
            )
    return [each for each in found if each.is_file()]
