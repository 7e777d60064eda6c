"""Read zip files in forked processes, such as the workers of a DataLoader.

A forked process inherits its parent's memory but not its threads. Code that waits for such a thread
would hang, and a file that both processes have open shares one position.
"""

from __future__ import annotations

import os
import threading
import weakref

import dask.threaded
from zarr.storage import ZipStore

__all__ = ["reopened_in_forks"]

_zips: weakref.WeakValueDictionary[int, ZipStore] = weakref.WeakValueDictionary()


def reopened_in_forks(store: ZipStore) -> ZipStore:
    """Return the store of a zip file, made to reopen the file in each forked process."""
    _zips[id(store)] = store
    return store


def _renewed() -> None:
    dask.threaded.default_pool = None
    dask.threaded.pools.clear()
    dask.threaded.pools_lock = threading.Lock()
    dask.threaded.main_thread = threading.current_thread()
    for store in _zips.values():
        # Reopen it as if it had been sent to another process.
        store.__setstate__(store.__getstate__())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renewed)
