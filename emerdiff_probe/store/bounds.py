"""Bound what the metadata of a store may request, because a store can come from anybody.

Metadata are checked before Zarr sees them: a codec can run code, an array of labels can request
more memory than there is, and the name of an array can lead out of the store.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from emerdiff_probe.store.plan import size_text

__all__ = ["VALUES", "check_nodes"]

VALUES: Final = re.compile(r"(.+/)?value")
"""The arrays of a recording that are read chunk by chunk; all others are labels."""

_CODECS: Final = {"bytes", "crc32c", "sharding_indexed", "vlen-utf8", "zstd"}
"""The codecs that this package writes. None of them executes what it reads."""

_TYPES: Final = re.compile(r"string|bool|u?int(8|16|32|64)|float(16|32|64)")

_MOST_LABELS: Final = 2**26
"""The largest number of values in an array of labels, which is read when a store is opened."""

_MOST_CHUNK: Final = 2**32
"""The largest number of bytes in a chunk, the smallest unit that is read."""

_MOST_CHUNKS: Final = 2**20
"""Chunks along one dim, each of which dask keeps a number for."""

_PART: Final = re.compile(r"[^/\\\0]+")


def check_nodes(root: Mapping[str, Any], values: re.Pattern[str]) -> None:
    """Check that the metadata of a store can be passed to Zarr.

    Args:
        root: The metadata in the root's file, which includes those of all arrays.
        values: A pattern for the paths of the arrays that are read chunk by chunk; all others are
            labels.

    Raises:
        ValueError: Something differs from what this package writes; the message says what.
    """
    inline = root.get("consolidated_metadata")
    nodes = inline.get("metadata") if isinstance(inline, dict) else None
    if root.get("node_type") != "group" or not isinstance(nodes, dict):
        raise ValueError("its zarr.json has no metadata of its arrays")
    for path, node in nodes.items():
        parts = path.split("/")
        if not all(_PART.fullmatch(part) and part not in (".", "..") for part in parts):
            raise ValueError(f"{path!r} is not a valid name of an array")
        if not isinstance(node, dict) or node.get("zarr_format") != 3:
            raise ValueError(f"{path!r} is not in Zarr's format 3")
        if node.get("node_type") == "array":
            _check_array(path, node, labels=not values.fullmatch(path))
        elif node.get("node_type") != "group":
            raise ValueError(f"{path!r} is neither an array nor a group")


def _check_array(path: str, node: Mapping[str, Any], *, labels: bool) -> None:
    kind = node.get("data_type")
    if not isinstance(kind, str) or not _TYPES.fullmatch(kind):
        raise ValueError(f"{path!r} has type {kind!r}; only numbers and texts are read")
    codecs = list(_codecs(node.get("codecs")))
    if others := [name for name in codecs if name not in _CODECS]:
        raise ValueError(
            f"{path!r} is encoded with {others[0]!r}; only {', '.join(sorted(_CODECS))} are read"
        )
    if node.get("storage_transformers"):
        raise ValueError(f"{path!r} has storage transformers; none are read")
    shape, names = _sizes(path, node.get("shape")), node.get("dimension_names") or []
    if not isinstance(names, list) or len(names) != len(shape):
        raise ValueError(f"{path!r} has no name for each dim")
    if labels and math.prod(shape) > _MOST_LABELS:
        raise ValueError(
            f"{path!r} has {math.prod(shape):,} labels; at most {_MOST_LABELS:,} are read"
        )
    if max(shape, default=0) > _MOST_LABELS:
        raise ValueError(f"{path!r} has sizes {shape}; at most {_MOST_LABELS:,} values are read")
    chunks = _sizes(path, _chunk_shape(node))
    if len(chunks) != len(shape) or 0 in chunks:
        raise ValueError(f"{path!r} has sizes {shape} and chunks of {chunks}")
    if any(size / chunk > _MOST_CHUNKS for size, chunk in zip(shape, chunks, strict=True)):
        raise ValueError(
            f"{path!r} has chunks of {chunks}, too many for its sizes {shape}; "
            f"{_MOST_CHUNKS:,} along a dim are read at most"
        )
    size = math.prod(chunks) * (16 if kind == "string" else np.dtype(kind).itemsize)
    if size > _MOST_CHUNK:
        raise ValueError(
            f"{path!r} has chunks of {size_text(size)}; at most {size_text(_MOST_CHUNK)} are read"
        )


def _codecs(found: Any) -> Iterator[str]:
    """Yield the names of codecs, including nested ones."""
    for each in found if isinstance(found, list) else [None]:
        if isinstance(each, str):
            each = {"name": each}
        if not isinstance(each, dict):
            yield repr(each)
            continue
        yield str(each.get("name"))
        settings = each.get("configuration") or {}
        for inner in ("codecs", "index_codecs"):
            if inner in settings:
                yield from _codecs(settings[inner])


def _chunk_shape(node: Mapping[str, Any]) -> Any:
    """Return the sizes of what is read at once: a file, or an inner chunk of a sharded one."""
    for each in node["codecs"]:
        if isinstance(each, dict) and each.get("name") == "sharding_indexed":
            return each.get("configuration", {}).get("chunk_shape")
    grid = node.get("chunk_grid")
    return grid.get("configuration", {}).get("chunk_shape") if isinstance(grid, dict) else None


def _sizes(path: str, found: Any) -> list[int]:
    right = isinstance(found, list) and all(type(each) is int and each >= 0 for each in found)
    if not right:
        raise ValueError(f"{path!r} has invalid sizes {found!r}")
    return list(found)
