"""One thread at a time has a model: a tap changes what it computes for whoever calls it."""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager
from typing import Any, Final
from weakref import WeakKeyDictionary

from torch import nn

from emerdiff_probe.models.catalogue import unwrapped

__all__ = ["turn"]

_LOCKS: Final[WeakKeyDictionary[nn.Module, AbstractContextManager[Any]]] = WeakKeyDictionary()


def turn(unet: nn.Module) -> AbstractContextManager[Any]:
    """Waits for other threads to be done with a UNet, and keeps them waiting while open; nests."""
    return _LOCKS.setdefault(unwrapped(unet), threading.RLock())
