"""Give a model to one thread at a time, and let several changes of one function overlap.

A tap changes what a model computes for its callers, so other threads wait for their turn. Code that
does not wait, such as a diffusers pipeline, passes unchanged: what is installed here works only in
the thread that installed it.
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
    "Wrap",
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
"""Return the function to call instead of a given one."""


def exclusively(unet: nn.Module) -> AbstractContextManager[Any]:
    """Hold a network for this thread alone, once others are done with it; may be nested."""
    return _LOCKS.setdefault(unwrapped(unet), threading.RLock())


_SILENT: Final = threading.local()


@contextmanager
def silenced() -> Iterator[None]:
    """Let this thread call a model as if nothing were installed here; may be nested.

    This is for calls that belong to nobody: they are neither changed, recorded nor counted.
    """
    before = getattr(_SILENT, "on", False)
    _SILENT.on = True
    try:
        yield
    finally:
        _SILENT.on = before


def _works(thread: int) -> bool:
    """Return whether what a thread installed works at this moment."""
    return threading.get_ident() == thread and not getattr(_SILENT, "on", False)


def of_this_thread(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does nothing, and returns None, in all other threads."""
    thread = threading.get_ident()

    @functools.wraps(function)
    def confined(*arguments: Any, **named: Any) -> Any:
        return function(*arguments, **named) if _works(thread) else None

    return confined


class _Wrapped:
    """A function of a class or an object, called through all wraps present at the time.

    Attributes:
        wraps: The wraps, each with the thread in which it works, the first innermost.
        own: Whether the object itself has the function, in place of its class's.
        original: The function.
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
        """Restore the function, unless other code has replaced it since."""
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
    """Call a function of a class or object through another one, in this thread, within the block.

    Blocks may overlap in any order: the function is restored when the last of them ends.

    Args:
        owner: The class or object, which is not collected while the block is open.
        name: The name of the function.
        wrap: Takes the function, or an earlier block's wrap of it, and returns the one to call
            instead.
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
    """Run compiled models uncompiled while any such block is open, in whatever order they close."""
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
    """Hold a network for this thread alone, uncompiled; undo what is put on the stack."""
    with exclusively(unet), eagerly(), ExitStack() as stack:
        yield stack
