"""Where a recording lies: in a folder, a zip file, or at an address that fsspec knows."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import fsspec
import zarr
from zarr.storage import FsspecStore, LocalStore, ZipStore

from emerdiff_probe import schema
from emerdiff_probe.errors import StoreError

__all__ = ["Address", "is_remote", "local_folder", "made_at_once", "opened", "size_on_disk"]

Address: TypeAlias = str | os.PathLike[str]
"""A folder, a zip file, or an address as ``s3://bucket/run.zarr``."""


def is_remote(address: Address) -> bool:
    """Whether it is for fsspec.

    >>> is_remote("memory://run.zarr"), is_remote("run.zarr")
    (True, False)
    """
    return "://" in os.fspath(address)


def local_folder(address: Address) -> Path:
    """The folder that a recording can be written to.

    Raises:
        StoreError: It is something else.
    """
    if is_remote(address):
        raise StoreError(
            f"'{address}' is no folder on this machine, and recordings are written to one; record "
            "to a folder and copy it there, whole or as the one file that pack() makes"
        )
    path = Path(address)
    if path.is_file():
        raise StoreError(
            f"'{path}' is a file, and recordings are written to folders; choose another name, or "
            "if it is a packed recording that is to go on, unpack it into a folder"
        )
    return path


def opened(address: Address) -> zarr.Group:
    """The root of a recording, for reading.

    Raises:
        StoreError: There is none, or it is of a form that this version does not know.
    """
    try:
        root = zarr.open_group(_store(address), mode="r")
    # Every file system has errors of its own.
    except Exception as error:
        raise StoreError(
            f"'{address}' is no recording that can be opened: {error or type(error).__name__}; "
            "see that the name is right, and that the file or folder is whole"
        ) from error
    found = root.attrs.get("schema")
    if found == schema.RESPONSES:
        raise StoreError(
            f"'{address}' holds responses, not a recording; open them with ep.open_responses()"
        )
    if found == schema.SWEEP:
        raise StoreError(
            f"'{address}' holds a sweep, not a recording; the ep.sweep() that made it reads it"
        )
    if found != schema.RECORDING:
        raise StoreError(
            f"'{address}' is no recording that this version knows: its schema is "
            f"{found!r}, not {schema.RECORDING!r}"
        )
    return root


def _store(address: Address) -> Any:
    if is_remote(address):
        return FsspecStore.from_url(os.fspath(address), read_only=True)
    path = Path(address)
    if not path.is_file():
        return LocalStore(path, read_only=True)
    if not zipfile.is_zipfile(path):
        raise ValueError("it is a file, but no whole zip file")
    return ZipStore(path, mode="r")


def size_on_disk(address: Address) -> int:
    """Bytes of all files."""
    files, path = fsspec.url_to_fs(os.fspath(address))
    # A file that is being written has another name by the time one asks for its size, so those of
    # the listing are taken; those of web servers have none.
    listed = files.find(path, detail=True)
    sizes = (
        files.size(name) if about["size"] is None else about["size"]
        for name, about in listed.items()
    )
    return sum(map(int, sizes))


@contextmanager
def made_at_once(path: Path) -> Iterator[Path]:
    """A name to make a file or folder by, which then gets its own: it is never half of one.

    Raises:
        StoreError: It is there already, or cannot be written; what was half made is removed.
    """
    if path.exists():
        raise StoreError(f"'{path}' is there already; choose another name, or delete it first")
    making = path.with_name(f".{path.name}.making")
    # One that was killed in the middle leaves it behind.
    _remove(making)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield making
        making.rename(path)
    except OSError as error:
        raise StoreError(
            f"'{path}' could not be written: {error}; make room or choose another place, and "
            "call this again"
        ) from error
    finally:
        _remove(making)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
