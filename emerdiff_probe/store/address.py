"""Locate recordings: in a folder, a zip file, or at an address that fsspec understands."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

import fsspec
import zarr
from zarr.storage import FsspecStore, LocalStore, ZipStore

from emerdiff_probe import schema
from emerdiff_probe.errors import ProbeError, StoreError, first_line
from emerdiff_probe.paths import is_address, local
from emerdiff_probe.store.bounds import VALUES, check_nodes
from emerdiff_probe.store.forks import reopened_in_forks
from emerdiff_probe.store.plan import size_text
from emerdiff_probe.store.positions import POSITIONS
from emerdiff_probe.store.sealing import METADATA, check_whole, unsealed

__all__ = [
    "Address",
    "as_it_claims",
    "by_size",
    "is_remote",
    "local_folder",
    "opened",
    "size_name",
    "size_on_disk",
]

_SIZE: Final = re.compile(r"[1-9]\d*x[1-9]\d*")

_INFLATED: Final = 100
"""The largest factor by which a zip file may inflate; a model's numbers compress far less."""

Address: TypeAlias = str | os.PathLike[str]
"""A folder, a zip file, or an address such as ``s3://bucket/run.zarr``."""


def is_remote(address: Address) -> bool:
    """Return whether fsspec has to open an address.

    >>> is_remote("memory://run.zarr"), is_remote("run.zarr")
    (True, False)
    """
    return "://" in os.fspath(address)


def local_folder(address: Address) -> Path:
    """Return the folder that a store can be written to.

    Raises:
        StoreError: The address is not a folder on this machine.
    """
    if is_address(address):
        raise StoreError(
            f"'{address}' is not a folder on this machine, where stores are written; write to a "
            "folder, then copy it there, a recording as it is or as one file made by pack()"
        )
    path = local(address)
    if path.is_file():
        raise StoreError(
            f"'{path}' is a file, and stores are written to folders; choose another name, or "
            "to resume a packed recording, unpack it into a folder"
        )
    return path


def by_size(address: Address) -> dict[str, Path]:
    """Return the subfolders of a recording of images of several sizes, by ``{height}x{width}``.

    Empty if it is a single recording, or is not on this machine.
    """
    if is_remote(address) or not (path := local(address)).is_dir() or (path / METADATA).exists():
        return {}
    folders = sorted(each for each in path.iterdir() if _SIZE.fullmatch(each.name))
    return {each.name: each for each in folders if (each / METADATA).exists()}


def size_name(size: tuple[int, int]) -> str:
    """Return the name of the folder of images of a size, (height, width) in pixels.

    >>> size_name((480, 640))
    '480x640'
    """
    height, width = size
    return f"{height}x{width}"


def opened(address: Address) -> zarr.Group:
    """Open the root of a recording for reading.

    Raises:
        StoreError: There is no recording, it is damaged, or this version does not know its schema.
    """
    try:
        folder = _folder_within(local(address)) if _is_file(address) else ""
        metadata = unsealed(_read(address, f"{folder}/{METADATA}".strip("/")))
        found = metadata["attributes"].get("schema")
    # Each file system raises errors of its own.
    except Exception as error:
        if sizes := by_size(address):
            raise StoreError(
                f"'{address}' holds recordings of images of several sizes, {', '.join(sizes)}; "
                f"open one of them, such as '{next(iter(sizes.values()))}'"
            ) from error
        raise StoreError(
            f"'{address}' cannot be opened as a recording: {error or type(error).__name__}; "
            "check the name, and that the file or folder is complete"
        ) from error
    if found == schema.RESPONSES:
        raise StoreError(
            f"'{address}' holds responses, not a recording; open them with ep.open_responses()"
        )
    if found == schema.SWEEP:
        raise StoreError(
            f"'{address}' holds a sweep, not a recording; open it with the run.sweep() that made it"
        )
    if found != schema.RECORDING:
        raise StoreError(
            f"'{address}' has the schema {found!r}, and this version reads "
            f"{schema.RECORDING!r}; open it with the version that made it, or record again"
        )
    with as_it_claims(address):
        check_whole(metadata)
        check_nodes(metadata, VALUES)
        if f"{POSITIONS}/value" not in metadata["consolidated_metadata"]["metadata"]:
            raise ValueError(
                "it does not say which chunk lies where, as recordings of versions before this "
                "one; make it again with this version"
            )
        for name in ("config", "model", "versions"):
            if not isinstance(json.loads(metadata["attributes"].get(name, "{}")), dict):
                raise ValueError(f"its attribute {name!r} is not a JSON object")
        return zarr.open_group(_store(address), path=folder, mode="r", use_consolidated=True)


@contextmanager
def as_it_claims(address: Address) -> Iterator[None]:
    """Turn any error in reading a store's description into one that names the store.

    Stores can be damaged or crafted in more ways than checks can cover.
    """
    try:
        yield
    except ProbeError:
        raise
    except Exception as error:
        raise StoreError(
            f"'{address}' is damaged, or not of the form it claims: "
            f"{error if type(error) is ValueError else first_line(error)}"
        ) from error


def _is_file(address: Address) -> bool:
    return not is_remote(address) and local(address).is_file()


def _store(address: Address) -> Any:
    """Return the store that Zarr reads from."""
    if is_remote(address):
        return FsspecStore.from_url(os.fspath(address), read_only=True)
    path = local(address)
    if path.is_file():
        return reopened_in_forks(ZipStore(path, mode="r"))
    return LocalStore(path, read_only=True)


def _read(address: Address, name: str) -> bytes:
    """Return the bytes of a file of a recording, from its folder or zip file."""
    if is_remote(address):
        files, path = fsspec.url_to_fs(os.fspath(address))
        return bytes(files.cat_file(f"{path}/{name}" if path else name))
    path = local(address)
    if path.is_file():
        with zipfile.ZipFile(path) as packed:
            return packed.read(name)
    return (path / name).read_bytes()


def _folder_within(file: Path) -> str:
    """Return the folder inside a zip file that holds the recording; most programs add one.

    Raises:
        ValueError: The file is no whole zip file, inflates suspiciously, or holds several
            recordings.
    """
    if not zipfile.is_zipfile(file):
        raise ValueError("it is a file, but not a complete zip file")
    with zipfile.ZipFile(file) as packed:
        names = set(packed.namelist())
        inflated = sum(each.file_size for each in packed.infolist())
    if inflated > max(_INFLATED * file.stat().st_size, 2**28):
        raise ValueError(
            f"its {size_text(file.stat().st_size)} would inflate to {size_text(inflated)}, "
            "which no recording does; unpack it yourself if you trust it"
        )
    if METADATA in names:
        return ""
    folders = {name.partition("/")[0] for name in names}
    found = sorted(each for each in folders if f"{each}/{METADATA}" in names)
    if len(found) > 1:
        raise ValueError(
            f"it is a zip file of {len(found)} recordings, {', '.join(found)}; unpack it and open "
            "one of them"
        )
    return found[0] if found else ""


def size_on_disk(address: Address) -> int:
    """Return the number of bytes of all files of a recording."""
    place = address if is_remote(address) else local(address)
    files, path = fsspec.url_to_fs(os.fspath(place))
    # Take sizes from the listing: a file that is being written may be renamed before its size is
    # asked for. Listings of web servers have no sizes.
    listed = files.find(path, detail=True)
    sizes = (
        files.size(name) if about["size"] is None else about["size"]
        for name, about in listed.items()
    )
    return sum(map(int, sizes))
