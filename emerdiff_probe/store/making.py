"""Create empty recordings and arrays.

Zarr takes some 10 ms to create an array. A recording has hundreds, in few forms: Zarr creates one
of each dtype, and the metadata of the others are copies with another shape.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.codecs
from numpy.typing import NDArray

from emerdiff_probe.errors import StoreError
from emerdiff_probe.paths import Held, free_bytes, made_at_once
from emerdiff_probe.schema import SAMPLE
from emerdiff_probe.store.chunks import FLAT, fill_of, write_chunk
from emerdiff_probe.store.plan import LATENTS, TOKEN_TEXT, Plan, size_text
from emerdiff_probe.store.positions import BLOCK, POSITIONS, Positions, counted
from emerdiff_probe.store.sealing import METADATA, consolidate, labelled, with_checksums
from emerdiff_probe.store.texts import TEXT, portable
from emerdiff_probe.store.values import RESTART

__all__ = ["lay_out", "make_recording", "new_array", "positions_of"]


def make_recording(path: Path, plan: Plan, held: Held) -> None:
    """Create an empty recording atomically: a folder of this name is never incomplete.

    Args:
        path: The folder.
        plan: The plan of what it will hold.
        held: The right to write there.

    Raises:
        StoreError: The disk has too little room, or the folder cannot be written.
    """
    free = free_bytes(path)
    if plan.nbytes > free:
        raise StoreError(
            f"the recording takes {size_text(plan.nbytes)} and '{path.parent}' has "
            f"{size_text(free)} free; record fewer sites, samples or timesteps, or choose "
            "another disk"
        )
    with made_at_once(path, held=held) as making:
        lay_out(making, plan, resumable=True)


def lay_out(folder: Path, plan: Plan, *, resumable: bool) -> None:
    """Create the arrays and labels of a recording in a folder, which may have chunks already.

    Args:
        folder: The folder.
        plan: The plan of what it holds.
        resumable: Whether to create the array of commits, too.
    """
    with warnings.catch_warnings():
        # Folders of chunks whose arrays do not exist yet.
        warnings.filterwarnings("ignore", "Object at .* is not recognized")
        root = portable(with_checksums(plan.root()))
        root.to_zarr(folder, mode="a", zarr_format=3, consolidated=False)
    maker = _Maker(folder)
    for leaf in plan.leaves:
        value = (plan.dims(leaf), plan.shape(leaf), plan.chunks(leaf), leaf.dtype)
        maker.array(f"{leaf.path}/value", *value)
        for dim, places in plan.coords(leaf).items():
            maker.coordinate(f"{leaf.path}/{dim}", (dim,), places)
        if leaf.words is not None:
            maker.coordinate(f"{leaf.path}/{TOKEN_TEXT}", plan.word_dims(leaf), leaf.words)
    if resumable:
        latents = next(leaf for leaf in plan.leaves if leaf.path == LATENTS)
        shape = (len(plan.samples), len(plan.blocks), *latents.shape)
        dims, chunks = (SAMPLE, BLOCK, *latents.dims), (1, 1, *latents.shape)
        maker.array(f"{RESTART}/value", dims, shape, chunks, "float32")
    numbers = positions_of(plan, resumable=resumable).shape
    dims, chunks = ("row", "part", "column"), (1, 1, numbers[-1])
    maker.array(f"{POSITIONS}/value", dims, numbers, chunks, "uint32")
    consolidate(folder)


def positions_of(plan: Plan, *, resumable: bool) -> Positions:
    """Return where the number of each chunk of a recording is that is laid out in a folder.

    Args:
        plan: What it holds.
        resumable: Whether there are commits.
    """
    arrays = {
        f"{leaf.path}/value": counted(plan.dims(leaf), plan.shape(leaf), plan.chunks(leaf))
        for leaf in plan.leaves
    }
    if resumable:
        alone = {"y": 1, "x": 1, "channel": 1}
        arrays[f"{RESTART}/value"] = {SAMPLE: len(plan.samples), BLOCK: len(plan.blocks), **alone}
    return Positions(arrays)


class _Maker:
    """Create the arrays of one new store."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._root = zarr.open_group(folder, mode="r+")
        self._group = (folder / METADATA).read_text()
        self._group = json.dumps({**json.loads(self._group), "attributes": {}})
        self._forms: dict[str, dict[str, Any]] = {}

    def array(
        self,
        path: str,
        dims: tuple[str, ...],
        shape: tuple[int, ...],
        chunks: tuple[int, ...],
        dtype: str,
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        place = self._folder / path
        self._make_groups(place.parent)
        if dtype not in self._forms:
            new_array(self._root, path, dims, shape, chunks, dtype)
            self._forms[dtype] = json.loads((place / METADATA).read_text())
        grid = {"name": "regular", "configuration": {"chunk_shape": chunks}}
        own = {"shape": shape, "chunk_grid": grid, "dimension_names": dims}
        own["attributes"] = attributes or {}
        place.mkdir(exist_ok=True)
        (place / METADATA).write_text(json.dumps(self._forms[dtype] | own))

    def coordinate(self, path: str, dims: tuple[str, ...], values: NDArray[Any]) -> None:
        if values.dtype.kind == "U":
            texts = self._root.create_array(
                path,
                shape=values.shape,
                dtype=TEXT,
                dimension_names=dims,
                attributes=labelled(values),
            )
            # Zarr writes texts in the order of memory, whatever the order of axes.
            texts[...] = np.ascontiguousarray(values)
        else:
            shape, kind = values.shape, values.dtype.name
            self.array(path, dims, shape, shape, kind, labelled(values))
            write_chunk(self._folder / path, (0,), values, values.shape)

    def _make_groups(self, folder: Path) -> None:
        if not (folder / METADATA).exists():
            self._make_groups(folder.parent)
            folder.mkdir(exist_ok=True)
            (folder / METADATA).write_text(self._group)


def new_array(
    group: Any,
    name: str,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: str,
    *,
    shards: tuple[int, ...] | None = None,
) -> Any:
    """Create the empty array of a leaf.

    Args:
        group: The group to create it in.
        name: The name of the array.
        dims: The names of its dims.
        shape: The sizes of its dims.
        chunks: The sizes of the pieces that are read.
        dtype: The NumPy dtype.
        shards: The sizes of the files, if they hold several chunks.
    """
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=dtype,
        dimension_names=dims,
        chunk_key_encoding=FLAT,
        fill_value=fill_of(np.dtype(dtype)),
        # Activations hardly compress; a checksum detects damage.
        compressors=zarr.codecs.Crc32cCodec(),
        config={"write_empty_chunks": True},
    )
