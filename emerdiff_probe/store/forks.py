"""Reading in forked processes, as the workers of a DataLoader are.

A forked process gets the memory of its parent without its threads. What waits for one of them
would wait for ever, and a file that both have open has one position for both.
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
    """Return a zip file's store, which each forked process then opens for itself."""
    _zips[id(store)] = store
    return store


def _renewed() -> None:
    dask.threaded.default_pool = None
    dask.threaded.pools.clear()
    dask.threaded.pools_lock = threading.Lock()
    dask.threaded.main_thread = threading.current_thread()
    for store in _zips.values():
        # As if it had been sent to another process.
        store.__setstate__(store.__getstate__())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renewed)
