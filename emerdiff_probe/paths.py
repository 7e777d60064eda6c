"""Handle local files and folders: as users name them, created atomically, locked by a writer."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sys
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Final

from emerdiff_probe.errors import InputError, StoreError

if sys.platform != "win32":
    import fcntl

__all__ = ["LOCK", "Held", "free_bytes", "is_address", "is_free", "local", "made_at_once"]

LOCK: Final = ".lock"
"""The file in a store that its writer locks; it names the writer."""

_LEFT_AFTER: Final = 3600
"""The age in seconds from which something half made without a lock is taken to be abandoned."""

_MOST_NAME: Final = 255
"""The largest number of bytes in the name of a file or folder."""

_PATIENCE: Final = 10.0
"""The time to wait for the process that creates what is then shared, in seconds."""

_PAUSE: Final = 0.1
"""The pause between two looks at a lock, in seconds."""


_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:[/:]")
"""The beginning of an address; `Path` merges its slashes. A Windows drive has one letter."""


def is_address(path: str | os.PathLike[str]) -> bool:
    """Return whether a text is an fsspec address rather than a path.

    >>> is_address("s3://bucket/run.zarr"), is_address(Path("s3://bucket")), is_address("C:/run")
    (True, True, False)
    """
    return bool(_ADDRESS.match(str(path)))


def local(path: str | os.PathLike[str]) -> Path:
    """Return a path as its user means it: ``~`` is their home.

    Raises:
        InputError: It is an address, for which a folder such as ``s3:`` would be created here; or
            no file system accepts such a name.

    >>> local("~/run.zarr") == Path.home() / "run.zarr"
    True
    """
    if is_address(path):
        raise InputError(
            f"'{path}' is an address, and a file or folder of this machine is needed; give a path "
            "here, and copy from or to the address"
        )
    try:
        found = Path(path).expanduser()
        longest = max((len(os.fsencode(part)) for part in found.parts), default=0)
    except (RuntimeError, TypeError, ValueError) as error:  # such as '~\0' and surrogates
        raise InputError(
            f"{path!r} cannot be used as a path: {error}; choose another name"
        ) from error
    if "\0" in str(found) or longest > _MOST_NAME:
        shown = f"{str(found)[:60]!r}{'...' * (len(str(found)) > 60)}"
        raise InputError(
            f"{shown} cannot be used as a path: names have at most {_MOST_NAME} bytes, none "
            "of them NUL; choose another name"
        )
    return found


def is_free(path: Path) -> bool:
    """Return whether something new can take this name: nothing exists there, or an empty folder.

    A lock alone, left by a writer that is about to begin or that died then, does not count.
    """
    if path.is_symlink() or not path.is_dir():
        return not os.path.lexists(path)
    return all(each.name == LOCK for each in path.iterdir())


def free_bytes(path: Path) -> int:
    """Return the number of free bytes where something is to be created.

    Raises:
        StoreError: Its parent folder cannot be created.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(path.parent).free
    except OSError as error:
        raise StoreError(
            f"'{path}' could not be written: {error}; choose another place and try again"
        ) from error


@contextmanager
def made_at_once(path: Path, *, replace: bool = False, held: Held | None = None) -> Iterator[Path]:
    """Yield a temporary name for a file or folder, which takes its final name once complete.

    An empty folder of that name is replaced by a new folder.

    Args:
        path: The final name. The temporary one has the same suffix.
        replace: Whether to replace what has the name already; it stays if the new one fails.
        held: The right to write to a store, if the caller has it already; a store is not replaced.

    Raises:
        StoreError: The name is taken, another process is creating it, or it cannot be written;
            partial files are removed.
    """
    making, old = (path.with_name(f".{state}-{path.name}") for state in ("making", "old"))
    with nullcontext() if held is not None else Held(path):
        # Check only now: another process may have created it while this one waited.
        if not (replace or is_free(path)):
            raise StoreError(f"'{path}' already exists; choose another name, or delete it first")
        try:
            # A process that was killed leaves these behind.
            _remove_left(path.parent)
            _remove(making)
            if old.exists() and not path.exists():
                old.rename(path)
            yield making
            if held is not None:
                held.goes_into(making)
            elif making.is_dir() and path.is_dir():  # only files can be replaced atomically
                path.rename(old)
            try:
                making.replace(path)
            except BaseException:
                if old.exists():
                    old.rename(path)
                raise
        except OSError as error:
            raise StoreError(
                f"'{path}' could not be written: {error}; free some space or choose another place, "
                "and try again"
            ) from error
        finally:
            with suppress(OSError):  # a folder that cannot be written to
                _remove(making)
                _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_left(folder: Path) -> None:
    """Remove what killed processes left half made in a folder, whatever its name."""
    for left in folder.glob(".making-*") if folder.is_dir() else ():
        path = folder / left.name.removeprefix(".making-")
        with suppress(OSError):
            old = time.time() - left.stat().st_mtime > _LEFT_AFTER
            if old and not any(map(_is_locked, (_lock_beside(path), path / LOCK))):
                _remove(left)
                _lock_beside(path).unlink(missing_ok=True)


def _lock_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _is_locked(lock: Path) -> bool:
    if sys.platform == "win32":
        return True  # unknown
    try:
        with lock.open("rb", buffering=0) as file:
            return not _locked(file, fcntl.LOCK_EX)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _locked(file: FileIO, how: int) -> bool:
    """Lock a file, and return whether that could be done at once."""
    try:
        fcntl.flock(file, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Held:
    """The right to write to a file or store, held by one process at a time.

    It is a lock on a file in the store, or beside a file, which the operating system releases when
    the process ends, however it ends. Windows has no such locks; there, no process is refused.
    Several processes that write parts of one store can share it. The first of them is alone, so
    that it can create the store, until it calls `share`; the others wait for that.

    Args:
        path: The file or store to write to; it need not exist yet.
        store: Whether it is a store, whose folder is created for the lock if needed.
        shared: Whether other processes that share it may write there, too.

    Attributes:
        alone: Whether nobody else can write there.

    Raises:
        StoreError: Another process writes there; the message names it.
    """

    def __init__(self, path: Path, *, store: bool = False, shared: bool = False) -> None:
        self._path, self._shared = path, shared
        self.alone = True
        self._lock = path / LOCK if store else _lock_beside(path)
        self._made = store and not path.exists()
        self._file: FileIO | None = None
        if sys.platform == "win32":
            return
        try:
            patience = time.monotonic() + _PATIENCE
            while self._file is None:
                self._lock.parent.mkdir(parents=True, exist_ok=True)
                # A process that is going to share it is creating what is not there yet.
                waits = shared and (is_free(path) or time.monotonic() < patience)
                # A process that ended a moment ago may take the folder with it.
                with suppress(FileNotFoundError):
                    self._take(waits)
        except OSError as error:
            self._unmake()
            # Where nothing can be written no lock is needed, and finished results can still be
            # read.
            if error.errno not in (errno.EACCES, errno.EROFS, errno.ENOSPC):
                raise StoreError(f"'{path}' cannot be written to: {error}") from error
            return
        _held.add(self)

    def _take(self, waits: bool) -> None:
        file = self._lock.open("a+b", buffering=0)
        self.alone = _locked(file, fcntl.LOCK_EX)
        if not (self.alone or (self._shared and _locked(file, fcntl.LOCK_SH))):
            file.seek(0)
            holder = file.read().decode() or "another process"
            file.close()
            if waits:
                time.sleep(_PAUSE)
                return
            raise StoreError(
                f"'{self._path}' is being written to by {holder}; wait until it "
                "ends, or choose another name"
            )
        # A process that ended a moment ago removed its file.
        if self._is_there(file):
            self._file = file
            now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
            holder = f"process {os.getpid()} on {socket.gethostname()} since {now}"
            with suppress(OSError):  # a full disk
                file.truncate(0)
                file.write(holder.encode())
        else:
            file.close()

    def share(self) -> None:
        """Let other processes that share it write there from now on."""
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_SH)
            self._shared, self.alone = True, False

    def _is_there(self, file: FileIO) -> bool:
        """Return whether an open file is the one that has the lock's name."""
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file.fileno()), self._lock.stat())
        return False

    def goes_into(self, making: Path) -> None:
        """Move the lock into the folder that is about to take the store's name.

        The folder of that name is empty then and is removed, unless another process has begun to
        write there at this moment.
        """
        if self._file is not None:
            self._lock.rename(making / LOCK)

    def last(self) -> bool:
        """Return whether all who shared it have ended; then nobody else can share it any more."""
        if self._file is not None and not self.alone:
            self.alone = _locked(self._file, fcntl.LOCK_EX)
        return self.alone

    def close(self) -> None:
        """Let others write there."""
        if self._file is not None:
            with suppress(OSError):
                # Processes that still share it keep the file.
                last = self.alone or _locked(self._file, fcntl.LOCK_EX)
                if last and self._is_there(self._file):
                    self._lock.unlink()
            self._unmake()
            self._file.close()
            self._file = None

    def _unmake(self) -> None:
        """Remove the folder that was created for the lock, if nothing else is in it."""
        if self._made:
            with suppress(OSError):
                self._path.rmdir()

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_held: weakref.WeakSet[Held] = weakref.WeakSet()


def _let_go_in_child() -> None:
    """Close the locks in a forked process, so that only its parent holds them."""
    for each in _held:
        if each._file is not None:
            each._file.close()
            each._file = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
