"""Seal the description of a store with checksums: its metadata, and each array of labels.

A chunk of values has a checksum of its own. A label that was flipped, lost or swapped would put
correct values in a wrong place, so labels are compared as they are read. If one was lost, Zarr
returns zeros or empty texts, which also differ from what was written.
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
"""The attribute of an array of labels that holds its checksum."""

WHOLE: Final = "metadata_crc32c"
"""The attribute of the root that holds the checksum of the metadata."""


def checksum(values: NDArray[Any]) -> int:
    """Return the CRC-32C of labels: their type, shape and values.

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
    """Return the attributes of an array of labels in a store."""
    return {_LABELS: checksum(values)}


def with_checksums(ds: xr.Dataset) -> xr.Dataset:
    """Return a dataset of labels whose variables have the attributes that they get in a store."""
    found = ds.copy()
    for each in found.variables.values():
        each.attrs = {**each.attrs, **labelled(each.values)}
    return found


def checked_labels(array: Any, place: str) -> NDArray[Any]:
    """Return an array of labels that is read from a store and agrees with its checksum.

    Args:
        array: The Zarr array.
        place: The address of the store, for messages.

    Raises:
        StoreError: The labels are damaged or lost; the message names their file.
    """
    file = f"{array.path}/{array.metadata.encode_chunk_key((0,) * array.ndim)}"
    remedy = "take it from a copy of the store, or make the store again under another name"
    try:
        values = texts_of(np.asarray(array[...]))
        same = checksum(values) == array.attrs.get(_LABELS)
    except Exception as error:  # each file system and each codec raises errors of its own
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
    """Write all metadata of a store into its root's file, with one checksum.

    Opening the store then reads one file instead of hundreds.
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
        text: The text of its root's file.

    Raises:
        ValueError: The text is not the metadata of a Zarr 3 store.
    """
    root = json.loads(text)
    if not isinstance(root, dict) or not isinstance(root.get("attributes"), dict):
        raise ValueError(f"its {METADATA} does not hold Zarr metadata")
    if root.get("zarr_format") != 3:
        raise ValueError(f"its {METADATA} is not in Zarr's format 3")
    return root


def check_whole(root: dict[str, Any]) -> None:
    """Check that the metadata are as they were written.

    Raises:
        ValueError: They were changed, or were written by a version of this package without
            checksums.
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
