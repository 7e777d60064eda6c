"""List the chunks of an array on disk, and write whole chunks without Zarr.

A run writes hundreds of chunks at a time. Zarr takes some 4 ms of Python for each, during which the
model waits; writing the bytes that the format specifies (Zarr 3: little-endian values, then their
CRC-32C) takes a tenth of that.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
from numpy.typing import NDArray

__all__ = ["FLAT", "PARTIAL", "chunk_index", "chunk_name", "chunks_of", "fill_of", "write_chunk"]

PARTIAL: Final = ".partial"
"""The suffix of a file until it is complete; Zarr uses the same."""

FLAT: Final[dict[str, Any]] = {"name": "default", "configuration": {"separator": "."}}
"""The chunk key encoding of all arrays: the files of an array lie side by side.

Zarr's default, a folder for each dim, creates five times as many entries, which takes as long as
writing the values.
"""


def chunks_of(path: Path, array: str) -> set[tuple[int, ...]]:
    """Return the indices of the chunks that an array has on disk."""
    files = (path / array).glob("c.*")
    return {index for file in files if (index := chunk_index(file.name))}


def chunk_index(name: str) -> tuple[int, ...] | None:
    """Return the index of the chunk in a file; None for another file.

    >>> chunk_index("c.0.2.0"), chunk_index("zarr.json")
    ((0, 2, 0), None)
    """
    if not re.fullmatch(r"c(\.\d+)+", name):
        return None
    return tuple(map(int, name.split(".")[1:]))


def chunk_name(index: Iterable[int]) -> str:
    """Return the file name of a chunk.

    >>> chunk_name((0, 2, 0))
    'c.0.2.0'
    """
    return ".".join(("c", *map(str, index)))


def fill_of(dtype: np.dtype[Any]) -> float:
    """Return the value that stands for what was not written."""
    return np.nan if dtype.kind == "f" else 0


def write_chunk(
    array: Path, index: tuple[int, ...], values: NDArray[Any], shape: tuple[int, ...]
) -> None:
    """Write a chunk of an array that `new_array` made; its file appears complete or not at all.

    Args:
        array: The folder of the array.
        index: The index of the chunk, by dim.
        values: The values of the chunk, possibly fewer than a chunk holds at the end of the array.
        shape: The shape of a full chunk.
    """
    if values.shape != shape:
        whole = np.full(shape, fill_of(values.dtype), values.dtype)
        whole[tuple(map(slice, values.shape))] = values
        values = whole
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    content: Any = little.reshape(-1).view(np.uint8)
    file = array / chunk_name(index)
    # Processes on several machines can have the same number.
    partial = file.with_name(f"{file.name}.{socket.gethostname()}-{os.getpid()}{PARTIAL}")
    with partial.open("wb") as out:
        out.write(content)
        out.write(google_crc32c.value(content).to_bytes(4, "little"))
    partial.replace(file)
