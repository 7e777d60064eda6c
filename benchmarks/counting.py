"""Count operations and memory of calls on the meta device, where nothing is computed."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

__all__ = ["Counted", "counted"]


@dataclass
class Counted:
    """Hold what a block of calls takes.

    Attributes:
        operations: Floating-point operations of matrix products, convolutions and attention; a
            multiplication and an addition are two.
        peak: Most bytes of tensors made within the block that were there at one time.
    """

    operations: int = 0
    peak: int = 0


@contextmanager
def counted() -> Iterator[Counted]:
    """Count a block of calls on tensors without values; the numbers are there when it ends."""
    found = Counted()
    attention, memory = _Attention(), _Memory()
    with torch.no_grad(), FlopCounterMode(display=False) as products, memory, attention:
        yield found
    found.operations = products.get_total_flops() + attention.operations
    found.peak = memory.peak


class _Attention(TorchFunctionMode):
    """Count attention as fused kernels compute it, which hold no matrix of probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        query, key, value = (given[name] for name in ("query", "key", "value"))
        pairs = query.shape[:-1].numel() * key.shape[-2]
        self.operations += 2 * pairs * (query.shape[-1] + value.shape[-1])
        return query.new_empty(*query.shape[:-1], value.shape[-1])


class _Memory(TorchDispatchMode):
    """Follow the bytes of all tensors that are made, until they are collected."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        given = {
            each.untyped_storage()._cdata
            for each in tree_leaves((args, kwargs))
            if isinstance(each, Tensor)
        }
        for each in tree_leaves(output):
            if isinstance(each, Tensor):
                self._follow(each.untyped_storage(), given)
        return output

    def _follow(self, storage: Any, given: set[int]) -> None:
        key = storage._cdata
        if key in self._seen or key in given:
            return
        self._seen.add(key)
        self._now += storage.nbytes()
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self._now -= size
