"""The values of a recording as they are read: what is damaged or lost is an error that says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Set
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
from emerdiff_probe.store.precision import single_dtype

__all__ = [
    "RESTART",
    "chunks_in",
    "dims_of",
    "leaves_of",
    "mark_of",
    "picture_of",
    "restart_of",
    "values_of",
    "whole_rows",
]

RESTART: Final = "restart"
"""Group of latents that a run goes on from; a block of timesteps is committed by its own."""

Index = tuple[slice | int, ...]


def leaves_of(root: zarr.Group) -> Iterator[tuple[str, Any]]:
    """Path and array of every leaf of a store."""
    for path, node in root.members(max_depth=None):
        leaf, _, name = path.rpartition("/")
        # An attention's port "value" is a group of that name.
        if name == "value" and isinstance(node, zarr.Array) and leaf != RESTART:
            yield leaf, node


def restart_of(root: zarr.Group) -> Any:
    """The array of commits of a store, (sample, block, ...); a copy has none, and is whole."""
    return root[f"{RESTART}/value"] if RESTART in root else None


def mark_of(sample: int, block: int) -> str:
    """The file that commits a block of timesteps of a sample, and holds what follows it.

    >>> mark_of(0, 2)
    'restart/value/c.0.2.0.0.0'
    """
    return f"{RESTART}/value/{chunk_name((sample, block, 0, 0, 0))}"


def picture_of(sample: int) -> str:
    """The file with the picture that the run of a sample ended with.

    >>> picture_of(3)
    'image/value/c.3.0.0.0'
    """
    return f"{IMAGE}/value/{chunk_name((sample, 0, 0, 0))}"


def chunks_in(array: Any) -> set[tuple[int, ...]]:
    """Indices of the chunks that an array has, wherever its store lies."""

    async def listed() -> list[str]:
        return [name async for name in array.store.list_prefix(f"{array.store_path.path}/")]

    return {index for name in sync(listed()) if (index := chunk_index(name.rpartition("/")[2]))}


def whole_rows(
    committed: Set[tuple[int, ...]], blocks: int, pictures: Set[tuple[int, ...]] | None
) -> set[int]:
    """Rows of samples of which all is there.

    Args:
        committed: Indices of the chunks of the array of commits.
        blocks: How many blocks of timesteps each sample has.
        pictures: Indices of the chunks of pictures, which are written last; None: there are none.

    >>> whole_rows({(0, 0), (0, 1), (1, 0)}, 2, None)
    {0}
    """
    counted = Counter(index[0] for index in committed)
    rows = {row for row, count in counted.items() if count == blocks}
    return rows if pictures is None else rows & {index[0] for index in pictures}


def dims_of(array: Any) -> tuple[str, ...]:
    """Names of an array's dims."""
    return tuple(array.metadata.dimension_names or ())


def values_of(
    array: Any,
    path: str,
    place: str,
    restart: Any = None,
    *,
    growing: bool = False,
    damage: StoreError | None = None,
) -> da.Array:
    """The values of an array, read chunk by chunk when they are needed, in single precision.

    Args:
        array: Array of Zarr.
        path: Where in the store it is, for messages.
        place: Where the store lies, for messages.
        restart: What `restart_of` gave for a recording.
        growing: Chunks may be missing that nothing else knows of.
        damage: What is wrong with the array's labels, without which nothing is handed out.

    Raises:
        StoreError: On reading: labels are damaged; a chunk is damaged, or lost though its block is
            committed; gives its file. Chunks that are not committed are NaN.
    """
    return da.from_array(
        _Values(array, path, place, restart, growing, damage),
        chunks=array.chunks,
        name=False,
        fancy=False,  # only slices and numbers come to it then
        meta=np.empty((0,) * array.ndim, single_dtype(np.dtype(array.dtype))),
    )


@dataclass(frozen=True, eq=False)
class _Values:
    """What dask reads from.

    Attributes:
        array: Array of Zarr.
        path: Where in the store it is.
        place: Where the store lies.
        restart: The array of commits of a recording, if there is one.
        growing: Whether chunks may be missing that nothing else knows of.
        damage: What is wrong with the array's labels, if anything is.
    """

    array: Any
    path: str
    place: str
    restart: Any
    growing: bool
    damage: StoreError | None

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
        values = self._read(index)
        if not self._complete(index, values) and self._committed(index):
            # It may have been committed in the meantime, by one who records while we read.
            values = self._read(index)
            if not self._complete(index, values):
                raise self._error(index, "has lost")
        return values

    def _read(self, index: Index) -> NDArray[Any]:
        try:
            return np.asarray(self.array[index], self.dtype)
        except Exception as error:  # every file system and every codec has kinds of its own
            raise self._error(index, f"cannot be read ({first_line(error)}) in") from error

    def _complete(self, index: Index, values: NDArray[Any]) -> bool:
        """Return whether all was there: recorded values are finite, black pictures have a file."""
        if values.dtype.kind == "f":
            return not np.isnan(values).any()
        if values.any():
            return True
        chunk = self.array.metadata.encode_chunk_key(self._chunk(index))
        return bool(sync((self.array.store_path / chunk).exists()))

    def _committed(self, index: Index) -> bool:
        """Whether all was committed that a read touches."""
        if self.restart is None:
            return not self.growing
        if TIMESTEP not in dims_of(self.array):
            return True  # a picture, which zeros would pass for
        first, last = (self._commit(index, end) for end in (0, -1))
        try:
            marks = self.restart[first[0] : last[0] + 1, first[1] : last[1] + 1]
        except Exception:  # a mark that is damaged is a mark
            return True
        return bool(np.isfinite(marks).all())

    def _commit(self, index: Index, end: int) -> tuple[int, int]:
        """Sample and block of the first (0) or last (-1) value that is read."""
        where, axis = self._position(index, end), dims_of(self.array).index(TIMESTEP)
        return where[0], where[axis] // self.array.chunks[axis]

    def _position(self, index: Index, end: int) -> list[int]:
        return [
            range(size)[part][end] if isinstance(part, slice) else int(part)
            for size, part in zip(self.shape, index, strict=True)
        ]

    def _chunk(self, index: Index) -> tuple[int, ...]:
        """The file that has the first value that is read."""
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
