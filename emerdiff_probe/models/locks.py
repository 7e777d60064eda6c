"""Who has a model: one thread at a time, and several changes of one function at once.

A tap changes what a model computes for whoever calls it, so other threads wait for their turn. Code
that does not ask for one, such as a pipeline of diffusers, is let through unchanged: what is
installed here works in the thread that installed it and nowhere else.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
from torch import nn

from emerdiff_probe.models.catalogue import unwrapped

__all__ = [
    "around",
    "eagerly",
    "exclusively",
    "of_this_thread",
    "original",
    "silenced",
    "tapping",
]

_LOCKS: Final[WeakKeyDictionary[nn.Module, AbstractContextManager[Any]]] = WeakKeyDictionary()

Wrap = Callable[[Callable[..., Any]], Callable[..., Any]]
"""Given a function: what is called in its place."""


def exclusively(unet: nn.Module) -> AbstractContextManager[Any]:
    """Have a UNet for this thread alone, after others are done with it; nests."""
    return _LOCKS.setdefault(unwrapped(unet), threading.RLock())


_SILENT: Final = threading.local()


@contextmanager
def silenced() -> Iterator[None]:
    """Let this thread call a model as if nothing were installed here; nests.

    For calls that are nobody's: they are neither changed, nor recorded, nor counted.
    """
    before = getattr(_SILENT, "on", False)
    _SILENT.on = True
    try:
        yield
    finally:
        _SILENT.on = before


def _works(thread: int) -> bool:
    """Whether what a thread installed works at this moment."""
    return threading.get_ident() == thread and not getattr(_SILENT, "on", False)


def of_this_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does nothing, and returns None, in other threads than this one."""
    thread = threading.get_ident()

    @functools.wraps(function)
    def confined(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named) if _works(thread) else None

    return confined


class _Wrapped:
    """A function of a class or an object, called through all wraps that are there at the time.

    Attributes:
        wraps: Each with the thread in which it works, the first innermost.
        own: Whether the object has it itself, in place of its class's.
        original: It.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self.wraps: list[tuple[int, Wrap]] = []
        self._owner = owner
        self._name = name
        self.own = name in vars(owner)
        self.original = found = getattr(owner, name)

        @functools.wraps(found)
        def through(*arguments: Any, **named: Any) -> Any:
            function = found
            for thread, wrap in tuple(self.wraps):
                if _works(thread):
                    function = wrap(function)
            return function(*arguments, **named)

        self._through = through
        setattr(owner, name, through)

    def restore(self) -> None:
        """Puts the function back, unless somebody else has put another in its place since."""
        if vars(self._owner).get(self._name) is not self._through:
            return
        if self.own:
            setattr(self._owner, self._name, self.original)
        else:
            delattr(self._owner, self._name)


_CHANGING: Final = threading.RLock()
_WRAPPED: Final[dict[tuple[int, str], _Wrapped]] = {}


@contextmanager
def around(owner: Any, name: str, wrap: Wrap) -> Iterator[None]:
    """Has a function of a class or an object called through another, in this thread, while open.

    Blocks may overlap in any order: the function is put back when the last of them ends.

    Args:
        owner: It is not collected while the block is open.
        name: Of the function.
        wrap: Given the function, or what an earlier block made of it: what to call in its place.
    """
    key, mine = (id(owner), name), (threading.get_ident(), wrap)
    with _CHANGING:
        if key not in _WRAPPED:
            _WRAPPED[key] = _Wrapped(owner, name)
        wrapped = _WRAPPED[key]
        wrapped.wraps.append(mine)
    try:
        yield
    finally:
        with _CHANGING:
            wrapped.wraps.remove(mine)
            if not wrapped.wraps:
                del _WRAPPED[key]
                wrapped.restore()


def original(owner: Any, name: str) -> Any:
    """Return the function that an object has in place of its class's, without those of `around`."""
    wrapped = _WRAPPED.get((id(owner), name))
    if wrapped is None:
        return vars(owner).get(name)
    return wrapped.original if wrapped.own else None


_EAGER: Final[list[AbstractContextManager[Any]]] = []
_BLOCKS: Final[set[object]] = set()


@contextmanager
def eagerly() -> Iterator[None]:
    """Has compiled models run uncompiled as long as any such block is open, in whatever order."""
    block = object()
    with _CHANGING:
        if not _BLOCKS:
            _EAGER.append(torch.compiler.set_stance("force_eager"))
        _BLOCKS.add(block)
    try:
        yield
    finally:
        with _CHANGING:
            _BLOCKS.remove(block)
            if not _BLOCKS:
                _EAGER.pop().__exit__(None, None, None)


@contextmanager
def tapping(unet: nn.Module) -> Iterator[ExitStack]:
    """Has a model for this thread alone, uncompiled; what is put on the stack is undone."""
    with exclusively(unet), eagerly(), ExitStack() as stack:
        yield stack
