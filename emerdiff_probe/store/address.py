"""Where a recording lies: in a folder, a zip file, or at an address that fsspec knows."""

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
"""By how much a zip file may inflate; numbers of a model hardly do."""

Address: TypeAlias = str | os.PathLike[str]
"""A folder, a zip file, or an address as ``s3://bucket/run.zarr``."""


def is_remote(address: Address) -> bool:
    """Whether it is for fsspec.

    >>> is_remote("memory://run.zarr"), is_remote("run.zarr")
    (True, False)
    """
    return "://" in os.fspath(address)


def local_folder(address: Address) -> Path:
    """Return the folder that a store can be written to.

    Raises:
        StoreError: It is something else.
    """
    if is_address(address):
        raise StoreError(
            f"'{address}' is no folder on this machine, and stores are written to one; write to a "
            "folder and copy it there, a recording whole or as the one file that pack() makes"
        )
    path = local(address)
    if path.is_file():
        raise StoreError(
            f"'{path}' is a file, and stores are written to folders; choose another name, or "
            "if it is a packed recording that is to go on, unpack it into a folder"
        )
    return path


def by_size(address: Address) -> dict[str, Path]:
    """Return the folders of a recording of images of several sizes, by ``{height}x{width}``.

    Empty where it is a recording of its own, or is not on this machine.
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
    """The root of a recording, for reading.

    Raises:
        StoreError: There is none, it is damaged, or it is of a form that this version does not
            know.
    """
    try:
        folder = _folder_within(local(address)) if _is_file(address) else ""
        metadata = unsealed(_read(address, f"{folder}/{METADATA}".strip("/")))
        found = metadata["attributes"].get("schema")
    # Every file system has errors of its own.
    except Exception as error:
        if sizes := by_size(address):
            raise StoreError(
                f"'{address}' holds recordings of images of several sizes, {', '.join(sizes)}; "
                f"choose one of them, as '{next(iter(sizes.values()))}'"
            ) from error
        raise StoreError(
            f"'{address}' is no recording that can be opened: {error or type(error).__name__}; "
            "see that the name is right, and that the file or folder is whole"
        ) from error
    if found == schema.RESPONSES:
        raise StoreError(
            f"'{address}' holds responses, not a recording; open them with ep.open_responses()"
        )
    if found == schema.SWEEP:
        raise StoreError(
            f"'{address}' holds a sweep, not a recording; the run.sweep() that made it reads it"
        )
    if found != schema.RECORDING:
        raise StoreError(
            f"'{address}' is no recording that this version knows: its schema is "
            f"{found!r}, not {schema.RECORDING!r}"
        )
    with as_it_claims(address):
        check_whole(metadata)
        check_nodes(metadata, VALUES)
        for name in ("config", "model", "versions"):
            if not isinstance(json.loads(metadata["attributes"].get(name, "{}")), dict):
                raise ValueError(f"its attribute {name!r} is no JSON of names and values")
        return zarr.open_group(_store(address), path=folder, mode="r", use_consolidated=True)


@contextmanager
def as_it_claims(address: Address) -> Iterator[None]:
    """Turn whatever comes of reading a store's description into an error that names the store.

    Stores can be damaged, and anybody's, in more ways than there are checks.
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
    """Store that Zarr reads from."""
    if is_remote(address):
        return FsspecStore.from_url(os.fspath(address), read_only=True)
    path = local(address)
    if path.is_file():
        return reopened_in_forks(ZipStore(path, mode="r"))
    return LocalStore(path, read_only=True)


def _read(address: Address, name: str) -> bytes:
    """A file of a recording, from the folder or file that it lies in."""
    if is_remote(address):
        files, path = fsspec.url_to_fs(os.fspath(address))
        return bytes(files.cat_file(f"{path}/{name}" if path else name))
    path = local(address)
    if path.is_file():
        with zipfile.ZipFile(path) as packed:
            return packed.read(name)
    return (path / name).read_bytes()


def _folder_within(file: Path) -> str:
    """The folder that a zip file has its recording in: most programs pack a folder as such."""
    if not zipfile.is_zipfile(file):
        raise ValueError("it is a file, but no whole zip file")
    with zipfile.ZipFile(file) as packed:
        names = set(packed.namelist())
        inflated = sum(each.file_size for each in packed.infolist())
    if inflated > max(_INFLATED * file.stat().st_size, 2**28):
        raise ValueError(
            f"its {size_text(file.stat().st_size)} would inflate to {size_text(inflated)}, as "
            "no recording does; unpack it yourself if you trust it"
        )
    if METADATA in names:
        return ""
    folders = {name.partition("/")[0] for name in names}
    found = sorted(each for each in folders if f"{each}/{METADATA}" in names)
    if len(found) > 1:
        raise ValueError(
            f"it is a zip file of {len(found)} recordings, {', '.join(found)}; unpack it, and open "
            "one of them"
        )
    return found[0] if found else ""


def size_on_disk(address: Address) -> int:
    """Bytes of all files."""
    place = address if is_remote(address) else local(address)
    files, path = fsspec.url_to_fs(os.fspath(place))
    # A file that is being written has another name by the time one asks for its size, so those of
    # the listing are taken; those of web servers have none.
    listed = files.find(path, detail=True)
    sizes = (
        files.size(name) if about["size"] is None else about["size"]
        for name, about in listed.items()
    )
    return sum(map(int, sizes))
