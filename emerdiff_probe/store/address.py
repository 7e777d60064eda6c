"""Where a recording lies: in a folder, a zip file, or at an address that fsspec knows."""

from __future__ import annotations

import os
import re
import zipfile
from pathlib import Path
from typing import Any, Final, TypeAlias

import fsspec
import zarr
from zarr.storage import FsspecStore, LocalStore, ZipStore

from emerdiff_probe import schema
from emerdiff_probe.errors import StoreError
from emerdiff_probe.paths import local
from emerdiff_probe.store.forks import reopened_in_forks

__all__ = ["Address", "by_size", "is_remote", "local_folder", "opened", "size_on_disk"]

_METADATA: Final = "zarr.json"
_SIZE: Final = re.compile(r"[1-9]\d*x[1-9]\d*")

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
    path = local(address)
    if path.is_file():
        raise StoreError(
            f"'{path}' is a file, and recordings are written to folders; choose another name, or "
            "if it is a packed recording that is to go on, unpack it into a folder"
        )
    return path


def by_size(address: Address) -> dict[str, Path]:
    """Return the folders of a recording of images of several sizes, by ``{height}x{width}``.

    Empty where it is a recording of its own, or is not on this machine.
    """
    if is_remote(address) or not (path := local(address)).is_dir() or (path / _METADATA).exists():
        return {}
    folders = sorted(each for each in path.iterdir() if _SIZE.fullmatch(each.name))
    return {each.name: each for each in folders if (each / _METADATA).exists()}


def opened(address: Address) -> zarr.Group:
    """The root of a recording, for reading.

    Raises:
        StoreError: There is none, or it is of a form that this version does not know.
    """
    try:
        store, folder = _store(address)
        root = zarr.open_group(store, path=folder, mode="r")
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
    found = root.attrs.get("schema")
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
    return root


def _store(address: Address) -> tuple[Any, str]:
    """What holds a recording, and the folder within that it is in."""
    if is_remote(address):
        return FsspecStore.from_url(os.fspath(address), read_only=True), ""
    path = local(address)
    if not path.is_file():
        return LocalStore(path, read_only=True), ""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is a file, but no whole zip file")
    return reopened_in_forks(ZipStore(path, mode="r")), _folder_within(path)


def _folder_within(file: Path) -> str:
    """The folder that a zip file has its recording in: most programs pack a folder as such."""
    with zipfile.ZipFile(file) as packed:
        names = set(packed.namelist())
    if _METADATA in names:
        return ""
    folders = {name.partition("/")[0] for name in names}
    found = sorted(each for each in folders if f"{each}/{_METADATA}" in names)
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
