"""Checksums of what describes a store: its metadata as a whole, and each array of labels.

A chunk of values has a checksum of its own. A label that was flipped, lost or swapped with another
would put right values in a wrong place, so labels are compared as they come out of the store; where
one was lost, Zarr gives zeros or empty texts, which differ from what was written, too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import google_crc32c
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import StoreError, first_line
from emerdiff_probe.store.texts import texts_of

__all__ = [
    "METADATA",
    "WHOLE",
    "check_whole",
    "checked_labels",
    "checksum",
    "consolidate",
    "labelled",
    "unsealed",
    "with_checksums",
]

METADATA: Final = "zarr.json"

_LABELS: Final = "crc32c"
"""Attribute of an array of labels."""

WHOLE: Final = "metadata_crc32c"
"""Attribute of the root."""


def checksum(values: NDArray[Any]) -> int:
    """Return the CRC-32C of labels: of their type, shape and values.

    >>> checksum(np.array(["a", "b"])) == checksum(np.array(["a", "bc"])[:, None])
    False
    """
    values = texts_of(values)
    content = (
        json.dumps(values.tolist()).encode(errors="surrogatepass")
        if values.dtype.kind == "U"
        else np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
    )
    kind = "text" if values.dtype.kind == "U" else values.dtype.name
    return int(google_crc32c.value(f"{kind} {values.shape} ".encode() + content))


def labelled(values: NDArray[Any]) -> dict[str, Any]:
    """Return the attributes that an array of labels gets in a store."""
    return {_LABELS: checksum(values)}


def with_checksums(ds: xr.Dataset) -> xr.Dataset:
    """Return a dataset of labels whose variables have the attributes they get in a store."""
    found = ds.copy()
    for each in found.variables.values():
        each.attrs = {**each.attrs, **labelled(each.values)}
    return found


def checked_labels(array: Any, place: str) -> NDArray[Any]:
    """Return an array of labels, read from a store.

    Args:
        array: Array of Zarr.
        place: Where the store lies, for messages.

    Raises:
        StoreError: They are damaged or lost; gives their file.
    """
    file = f"{array.path}/{array.metadata.encode_chunk_key((0,) * array.ndim)}"
    remedy = "take it from a copy of the store, or make the store again under another name"
    try:
        values = texts_of(np.asarray(array[...]))
        same = checksum(values) == array.attrs.get(_LABELS)
    except Exception as error:  # every file system and every codec has kinds of its own
        raise StoreError(
            f"'{place}' has labels that cannot be read ({first_line(error)}) in '{file}'; {remedy}"
        ) from error
    if not same:
        raise StoreError(
            f"'{place}' has labels that are damaged or lost: '{file}' does not agree with its "
            f"checksum; {remedy}"
        )
    return values


def consolidate(folder: Path) -> None:
    """Put all metadata of a store into its root's file, with one checksum.

    Opening then reads one file in place of hundreds.
    """
    nodes = {
        each.parent.relative_to(folder).as_posix(): json.loads(each.read_text())
        for each in sorted(folder.rglob(METADATA))
    }
    root = nodes.pop(".")
    inline = {"kind": "inline", "must_understand": False, "metadata": nodes}
    root |= {"consolidated_metadata": inline}
    root["attributes"] = {**root["attributes"], WHOLE: _whole(root)}
    (folder / METADATA).write_text(json.dumps(root))


def unsealed(text: bytes) -> dict[str, Any]:
    """Return the metadata of a store.

    Args:
        text: Text of its root's file.

    Raises:
        ValueError: It is not that of a store of Zarr 3.
    """
    root = json.loads(text)
    if not isinstance(root, dict) or not isinstance(root.get("attributes"), dict):
        raise ValueError(f"its {METADATA} is no metadata of Zarr")
    if root.get("zarr_format") != 3:
        raise ValueError(f"its {METADATA} is not of Zarr's format 3")
    return root


def check_whole(root: dict[str, Any]) -> None:
    """See that the metadata are as they were written.

    Raises:
        ValueError: They are not, or are of a version of this package without checksums.
    """
    stored = root["attributes"].get(WHOLE)
    if stored is None:
        raise ValueError(
            f"its {METADATA} has no checksum, as stores of versions before this one; "
            "make it again with this version"
        )
    if stored != _whole(root):
        raise ValueError(
            f"its {METADATA} was damaged or changed, and does not agree with its checksum; "
            "take it from a copy"
        )


def _whole(root: dict[str, Any]) -> int:
    attributes = {name: each for name, each in root["attributes"].items() if name != WHOLE}
    text = json.dumps(root | {"attributes": attributes}, sort_keys=True, separators=(",", ":"))
    return int(google_crc32c.value(text.encode()))
