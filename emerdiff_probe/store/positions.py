"""Checksums of chunks with their positions, so that chunks in each other's places are told.

A chunk's own checksum says that its bytes are whole, and not that they lie where they belong. A
recording therefore has a table beside its values, with a number for each of their chunks.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from emerdiff_probe.errors import first_line
from emerdiff_probe.schema import TIMESTEP

__all__ = ["BLOCK", "POSITIONS", "Positions", "Table", "counted", "number_of"]

POSITIONS: Final = "positions"
"""Group of the table, whose array has dims (row, part, column)."""

BLOCK: Final = "block"
"""Dim of the blocks of timesteps that are committed together."""

Index = tuple[int, ...]


def number_of(path: str, index: Index, values: NDArray[Any]) -> int:
    """Return the number of a chunk: a CRC-32C of its array, its position and its values, never 0.

    Args:
        path: Path of the array.
        index: Index of the chunk.
        values: Its values, without what is past the end of the array.

    >>> number_of("a", (0,), np.zeros(2)) == number_of("a", (1,), np.zeros(2))
    False
    """
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    begun = google_crc32c.value(f"{path} {tuple(map(int, index))} ".encode())
    content: Any = little.reshape(-1).view(np.uint8)
    return int(google_crc32c.extend(begun, content)) or 1


def counted(dims: Sequence[str], shape: Sequence[int], chunks: Sequence[int]) -> dict[str, int]:
    """Return the number of chunks along each dim.

    >>> counted(("sample", "x"), (2, 10), (1, 4))
    {'sample': 2, 'x': 3}
    """
    sizes = zip(dims, shape, chunks, strict=True)
    return {dim: -(-size // chunk) for dim, size, chunk in sizes}


class Positions:
    """Where in the table the number of each chunk is.

    A row has the chunks of a sample; a part those of a block of timesteps, and the last part those
    without timesteps. In a part the arrays come in the order of their paths.

    Args:
        arrays: Dims of each array by its path, with the number of chunks along each dim.
    """

    def __init__(self, arrays: Mapping[str, Mapping[str, int]]) -> None:
        self._arrays = {path: dict(arrays[path]) for path in sorted(arrays)}
        widths = [math.prod(self._beside(path)) for path in self._arrays]
        self._starts = dict(zip(self._arrays, itertools.accumulate([0, *widths]), strict=False))
        rows = max(next(iter(counts.values())) for counts in self._arrays.values())
        parts = max(counts.get(_timed(counts), 0) for counts in self._arrays.values())
        self.shape = (rows, parts + 1, sum(widths))

    def _beside(self, path: str) -> list[int]:
        """Chunks along the dims that are neither rows nor parts."""
        counts = self._arrays[path]
        return [count for dim, count in list(counts.items())[1:] if dim != _timed(counts)]

    def of(self, path: str, index: Index) -> tuple[int, int, int]:
        """Return row, part and column of the number of a chunk."""
        at = dict(zip(self._arrays[path], index, strict=True))
        part = at.pop(_timed(at), self.shape[1] - 1)
        row, *beside = at.values()
        offset = np.ravel_multi_index(beside, self._beside(path)) if beside else 0
        return row, part, self._starts[path] + int(offset)

    def chunks(self, path: str, row: int) -> list[Index]:
        """Return the indices of the chunks that an array has in a row."""
        counts = list(self._arrays[path].values())[1:]
        return [(row, *index) for index in np.ndindex(*counts)]

    def numbers(self) -> NDArray[np.uint32]:
        """Return a part of a row that has no numbers yet, (column)."""
        return np.zeros(self.shape[2], np.uint32)


def _timed(dims: Mapping[str, Any]) -> str:
    return BLOCK if BLOCK in dims else TIMESTEP


class Table:
    """The numbers of a store's chunks, which are read when they are needed.

    Args:
        array: Array of Zarr.
        positions: What is where in it.
        place: Where the store lies, for messages.
    """

    def __init__(self, array: Any, positions: Positions, place: str) -> None:
        self._array, self._positions, self._place = array, positions, place
        self._read: dict[tuple[int, int], NDArray[np.uint32] | None] = {}

    def number(self, path: str, index: Index) -> int | None:
        """Return the number of a chunk; None where there is none yet, or it cannot be read.

        Args:
            path: Path of its array.
            index: Its index.

        Warns:
            UserWarning: It cannot be read. The values have a checksum of their own.
        """
        row, part, column = self._positions.of(path, index)
        numbers = self._read.get((row, part))
        # What had no number when it was last read may have one by now.
        if (row, part) not in self._read or (numbers is not None and not numbers[column]):
            numbers = self._read[row, part] = self._numbers(row, part)
        return None if numbers is None else int(numbers[column]) or None

    def _numbers(self, row: int, part: int) -> NDArray[np.uint32] | None:
        try:
            return np.asarray(self._array[row, part])
        except Exception as error:  # every file system and every codec has kinds of its own
            file = self._array.metadata.encode_chunk_key((row, part, 0))
            warnings.warn(
                f"'{self._place}' has a damaged file '{POSITIONS}/value/{file}' "
                f"({first_line(error)}), so that it is not seen whether chunks lie where they "
                "belong; their values are checked as ever",
                stacklevel=2,
            )
            return None
