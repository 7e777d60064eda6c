"""Read the values of a recording; what is damaged or lost raises an error that names it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Any, Final

import dask.array as da
import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.sync import sync

from emerdiff_probe.errors import StoreError, first_line
from emerdiff_probe.schema import TIMESTEP
from emerdiff_probe.store.chunks import chunk_index, chunk_name
from emerdiff_probe.store.plan import IMAGE
from emerdiff_probe.store.positions import POSITIONS, Positions, Table, counted, number_of
from emerdiff_probe.store.precision import single_dtype

__all__ = [
    "RESTART",
    "chunks_in",
    "dims_of",
    "leaves_of",
    "mark_of",
    "picture_of",
    "restart_of",
    "table_of",
    "values_of",
    "whole_rows",
]

RESTART: Final = "restart"
"""The group of latents that a run resumes from; writing its own commits a block of timesteps."""

Index = tuple[slice | int, ...]
Chunk = tuple[int, ...]


def leaves_of(root: zarr.Group) -> Iterator[tuple[str, Any]]:
    """Yield the path and array of every leaf of a store."""
    for path, node in root.members(max_depth=None):
        leaf, _, name = path.rpartition("/")
        # The port "value" of an attention is a group of that name.
        own = leaf not in (RESTART, POSITIONS)
        if name == "value" and isinstance(node, zarr.Array) and own:
            yield leaf, node


def restart_of(root: zarr.Group) -> Any:
    """Return the array of commits of a store, (sample, block, ...); None for a copy."""
    return root[f"{RESTART}/value"] if RESTART in root else None


def table_of(root: zarr.Group, place: str) -> Table:
    """Return the numbers of a store's chunks.

    Args:
        root: Root of the store.
        place: Where the store lies, for messages.
    """
    arrays = dict(leaves_of(root))
    if RESTART in root:
        arrays[RESTART] = restart_of(root)
    found = Positions(
        {
            f"{path}/value": counted(dims_of(array), array.shape, array.chunks)
            for path, array in arrays.items()
        }
    )
    return Table(root[f"{POSITIONS}/value"], found, place)


def mark_of(sample: int, block: int) -> str:
    """Return the file that commits a block of timesteps of a sample and holds the next latents.

    >>> mark_of(0, 2)
    'restart/value/c.0.2.0.0.0'
    """
    return f"{RESTART}/value/{chunk_name((sample, block, 0, 0, 0))}"


def picture_of(sample: int) -> str:
    """Return the file with the image that the run of a sample ended with.

    >>> picture_of(3)
    'image/value/c.3.0.0.0'
    """
    return f"{IMAGE}/value/{chunk_name((sample, 0, 0, 0))}"


def chunks_in(array: Any) -> set[tuple[int, ...]]:
    """Return the indices of the chunks that an array has, wherever its store lies."""

    async def listed() -> list[str]:
        return [name async for name in array.store.list_prefix(f"{array.store_path.path}/")]

    return {index for name in sync(listed()) if (index := chunk_index(name.rpartition("/")[2]))}


def whole_rows(
    committed: Set[tuple[int, ...]], blocks: int, pictures: Set[tuple[int, ...]] | None
) -> set[int]:
    """Return the rows of the samples that are complete.

    Args:
        committed: The indices of the chunks of the array of commits.
        blocks: The number of blocks of timesteps of each sample.
        pictures: The indices of the chunks of images, which are written last; None if there are
            none.

    >>> whole_rows({(0, 0), (0, 1), (1, 0)}, 2, None)
    {0}
    """
    counted = Counter(index[0] for index in committed)
    rows = {row for row, count in counted.items() if count == blocks}
    return rows if pictures is None else rows & {index[0] for index in pictures}


def dims_of(array: Any) -> tuple[str, ...]:
    """Return the names of an array's dims."""
    return tuple(array.metadata.dimension_names or ())


def values_of(
    array: Any,
    path: str,
    place: str,
    restart: Any = None,
    *,
    growing: bool = False,
    damage: StoreError | None = None,
    number: Callable[[Chunk], int | None],
) -> da.Array:
    """Return the values of an array, read lazily chunk by chunk, in single precision.

    Args:
        array: The Zarr array.
        path: The path of the array in the store, for messages.
        place: The address of the store, for messages.
        restart: The result of `restart_of` for a recording.
        growing: Whether chunks may be missing without a record of it.
        damage: An error that describes damaged labels, without which no values are returned.
        number: Returns the `number_of` a chunk from when it was written, or None if unknown.

    Raises:
        StoreError: On reading: labels are damaged, or a chunk is damaged, lost although its block
            is committed, or in the place of another; the message names its file. Chunks that are
            not committed are NaN.
    """
    return da.from_array(
        _Values(array, path, place, restart, growing, damage, number),
        chunks=array.chunks,
        name=False,
        fancy=False,  # then it receives only slices and numbers
        meta=np.empty((0,) * array.ndim, single_dtype(np.dtype(array.dtype))),
    )


@dataclass(frozen=True, eq=False)
class _Values:
    """An array that dask reads from.

    Attributes:
        array: The Zarr array.
        path: The path of the array in the store.
        place: The address of the store.
        restart: The array of commits of a recording, if there is one.
        growing: Whether chunks may be missing without a record of it.
        damage: An error that describes damaged labels, if they are.
        number: Returns the number of a chunk.
    """

    array: Any
    path: str
    place: str
    restart: Any
    growing: bool
    damage: StoreError | None
    number: Callable[[Chunk], int | None]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return single_dtype(np.dtype(self.array.dtype))

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: Index) -> NDArray[Any]:
        if self.damage is not None:
            raise self.damage
        # Read a chunk as a whole, since its checksums are of the whole.
        values = self._read(index)
        if wrong := self._wrong(index, values):
            # Another process that records may have committed it in the meantime.
            values = self._read(index)
            if wrong := self._wrong(index, values):
                raise self._error(index, wrong)
        return values[self._within(index)].astype(self.dtype, copy=False)

    def _read(self, index: Index) -> NDArray[Any]:
        """Return the whole chunk of a read."""
        corner = self._inner(index)
        region = tuple(
            slice(at * cut, min((at + 1) * cut, size))
            for at, cut, size in zip(corner, self.array.chunks, self.shape, strict=True)
        )
        try:
            return np.asarray(self.array[region])
        except Exception as error:  # each file system and each codec raises errors of its own
            raise self._error(index, f"cannot be read ({first_line(error)}) in") from error

    def _wrong(self, index: Index, values: NDArray[Any]) -> str:
        """Return what is wrong with a chunk; nothing if it is merely not committed."""
        if not self._complete(index, values):
            return "has lost" if self._committed(index) else ""
        chunk = self._inner(index)
        number = self.number(chunk)
        if number is None or number == number_of(self.path, chunk, values):
            return ""
        return "has values that belong elsewhere in"

    def _complete(self, index: Index, values: NDArray[Any]) -> bool:
        """Return whether nothing is missing: values are finite, and black images have a file."""
        if values.dtype.kind == "f":
            return not np.isnan(values).any()
        if values.any():
            return True
        chunk = self.array.metadata.encode_chunk_key(self._chunk(index))
        return bool(sync((self.array.store_path / chunk).exists()))

    def _committed(self, index: Index) -> bool:
        """Return whether everything that a read touches is committed."""
        if self.restart is None:
            return not self.growing
        if TIMESTEP not in dims_of(self.array):
            return True  # an image, which zeros could be mistaken for
        first, last = (self._commit(index, end) for end in (0, -1))
        try:
            marks = self.restart[first[0] : last[0] + 1, first[1] : last[1] + 1]
        except Exception:  # A damaged mark still marks a commit.
            return True
        return bool(np.isfinite(marks).all())

    def _commit(self, index: Index, end: int) -> tuple[int, int]:
        """Return the sample and block of the first (0) or last (-1) value of a read."""
        where, axis = self._position(index, end), dims_of(self.array).index(TIMESTEP)
        return where[0], where[axis] // self.array.chunks[axis]

    def _position(self, index: Index, end: int) -> list[int]:
        return [
            range(size)[part][end] if isinstance(part, slice) else int(part)
            for size, part in zip(self.shape, index, strict=True)
        ]

    def _inner(self, index: Index) -> Chunk:
        """Return the index of the chunk of a read; dask reads from one at a time."""
        return tuple(
            position // size
            for position, size in zip(self._position(index, 0), self.array.chunks, strict=True)
        )

    def _within(self, index: Index) -> Index:
        """Return the index of a read within its chunk."""
        starts = (at * cut for at, cut in zip(self._inner(index), self.array.chunks, strict=True))
        return tuple(
            slice(part.start - start, part.stop - start, part.step)
            if isinstance(part, slice)
            else int(part) - start
            for part, start in zip(self._ranges(index), starts, strict=True)
        )

    def _ranges(self, index: Index) -> list[slice | int]:
        """Return an index whose slices have numbers for both ends."""
        return [
            slice(*part.indices(size)) if isinstance(part, slice) else part
            for size, part in zip(self.shape, index, strict=True)
        ]

    def _chunk(self, index: Index) -> Chunk:
        """Return the index of the file that has the first value of a read."""
        cut = self.array.shards or self.array.chunks
        return tuple(
            position // size for position, size in zip(self._position(index, 0), cut, strict=True)
        )

    def _error(self, index: Index, what: str) -> StoreError:
        file = f"{self.path}/{self.array.metadata.encode_chunk_key(self._chunk(index))}"
        if self.growing:
            remedy = "take it from a copy, or delete it and make the rest again as before"
        elif self.restart is None:
            remedy = "make this copy again"
        elif TIMESTEP in dims_of(self.array):
            mark = mark_of(*self._commit(index, 0))
            remedy = f"take it from a copy, or delete '{mark}' there and record again as before"
        else:
            remedy = "take it from a copy, or delete it and record again as before"
        return StoreError(
            f"'{self.place}' {what} the chunk '{file}'; {remedy}. All other chunks can be read"
        )
