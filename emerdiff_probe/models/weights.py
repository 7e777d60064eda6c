"""Hash weights, fast enough to be done whenever a result is begun.

Nothing is cached between calls: PyTorch's version counters miss edits through ``.data``, which is
how PEFT fuses a LoRA, so a cached hash could describe weights that are gone.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["content_hash", "stored_tensors"]

_BLOCK: Final = 2**18
"""The number of words multiplied at once, few enough to stay in a processor's cache."""


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a module's state by name; quantised ones as their components.

    State that is not a tensor, such as the scheme of an int8 layer, becomes the bytes of its text.
    """
    return {
        name: tensor
        for key, value in module.state_dict().items()
        for name, tensor in _plain(key, value)
    }


def _plain(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, tuple | list):
        for index, each in enumerate(value):
            yield from _plain(f"{name}.{index}", each)
    elif not isinstance(value, Tensor):
        yield name, torch.tensor(list(repr(value).encode()), dtype=torch.uint8)
    elif value.is_quantized:
        yield name, value.int_repr()
        by_channel = value.qscheme() == torch.per_channel_affine
        scale = value.q_per_channel_scales() if by_channel else value.q_scale()
        zero = value.q_per_channel_zero_points() if by_channel else value.q_zero_point()
        for part, number in (("scale", scale), ("zero", zero)):
            yield f"{name}.{part}", torch.as_tensor(number, dtype=torch.float64)
    elif hasattr(value, "__tensor_flatten__"):  # of packages that quantise by a type of tensor
        parts, scheme = value.__tensor_flatten__()
        for part in parts:
            yield from _plain(f"{name}.{part}", getattr(value, part))
        yield from _plain(f"{name}.scheme", scheme)
    else:
        yield name, value


def content_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return a hash of named tensors: equal for equal names, shapes, dtypes and bits.

    Each block of a tensor is read as 32-bit words, which are multiplied by fixed odd 64-bit numbers
    and added up modulo 2^64. That is exact in any order and runs on the tensor's device, so every
    device gives the same hash, at the speed of its memory.

    Args:
        tensors: The tensors by name; none of them on the meta device.

    Returns:
        24 hexadecimal digits.

    >>> content_hash({"a": torch.zeros(2)}) == content_hash({"a": torch.zeros(2)})
    True
    >>> content_hash({"a": torch.zeros(2)}) == content_hash({"a": torch.zeros(1, 2)})
    False
    """
    digest = hashlib.blake2b(digest_size=12)
    sums = {name: _sums(tensor) for name, tensor in sorted(tensors.items())}
    # Fetch all at once: each fetch waits for the device.
    for device in {each.device for each in sums.values()}:
        own = [name for name, each in sums.items() if each.device == device]
        fetched = torch.cat([sums[name] for name in own]).cpu()
        lengths = [len(sums[name]) for name in own]
        sums |= dict(zip(own, fetched.split(lengths), strict=True))
    for name, each in sums.items():
        tensor = tensors[name]
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(each.numpy().tobytes())
    return digest.hexdigest()


def _sums(tensor: Tensor) -> Tensor:
    """Return the sum of each block, int64."""
    data = tensor.detach().contiguous().flatten().view(torch.uint8)
    if len(data) % 4 or data.storage_offset() % 4:
        data = F.pad(data, (0, -len(data) % 4)).clone()
    words = data.view(torch.int32)
    factors = _factors(words.device)
    # Allocating memory for each block would cost more than the arithmetic.
    scratch = torch.empty(min(len(words), _BLOCK), dtype=torch.int64, device=words.device)
    blocks = []
    for block in words.split(_BLOCK):
        size = len(block)
        blocks.append(torch.mul(block, factors[:size], out=scratch[:size]).sum())
    return torch.stack(blocks)


@functools.lru_cache(maxsize=8)
def _factors(device: torch.device) -> Tensor:
    """Return odd numbers, so that a change of a single word always shows."""
    # The raw stream of a bit generator is the same in all versions of NumPy.
    drawn = np.random.PCG64(0).random_raw(_BLOCK) | np.uint64(1)
    return torch.from_numpy(drawn.view(np.int64)).to(device)
