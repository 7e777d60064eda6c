"""List the interventions that are active on a network, for descriptions of what it computes."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final
from weakref import WeakKeyDictionary

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from emerdiff_probe.models.catalogue import unwrapped
from emerdiff_probe.models.weights import content_hash
from emerdiff_probe.schema import GUIDANCE, TIMESTEP

__all__ = ["activated", "active"]

_ACTIVE: Final[WeakKeyDictionary[nn.Module, list[Any]]] = WeakKeyDictionary()


@contextmanager
def activated(unet: nn.Module, interventions: Sequence[Any]) -> Iterator[None]:
    """Count interventions among a network's active ones within the block; blocks may be nested."""
    present = _ACTIVE.setdefault(unwrapped(unet), [])
    present.extend(interventions)
    try:
        yield
    finally:
        # By identity: an intervention may be active twice, and those with arrays do not compare.
        for each in interventions:
            del present[next(i for i, other in enumerate(present) if other is each)]


def active(unet: nn.Module) -> list[str]:
    """Return a text for each active intervention, in the order in which they began.

    Equal texts mean equal interventions: arrays are represented by their hash.
    """
    return [_text(each) for each in _ACTIVE.get(unwrapped(unet), ())]


def _text(value: Any) -> str:
    if isinstance(value, np.generic):  # some of which are Python numbers
        return repr(value.item())
    if value is None or isinstance(value, str | bool | int | float):
        return repr(value)
    if isinstance(value, Mapping):
        items = ", ".join(f"{_text(key)}: {_text(each)}" for key, each in value.items())
        # Products of attention are hundreds of arrays.
        digest = hashlib.blake2b(items.encode(), digest_size=8).hexdigest()
        return f"{{{items}}}" if len(items) <= 100 else f"<mapping of {len(value)}, {digest}>"
    if isinstance(value, xr.DataArray):
        labels = {
            name: value[name].values.tolist()
            for name in (TIMESTEP, GUIDANCE)
            if name in value.coords
        }
        return f"<{' '.join(map(str, value.dims))} of {_text(value.values)}, {_text(labels)}>"
    if isinstance(value, Tensor) or hasattr(value, "__array__"):
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
        shape = " x ".join(map(str, tensor.shape))
        return f"<array {shape}, {content_hash({'': tensor})}>"
    if isinstance(value, Collection):
        texts = list(map(_text, value))
        return f"[{', '.join(sorted(texts) if isinstance(value, set | frozenset) else texts)}]"
    if dataclasses.is_dataclass(value):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    else:
        fields = getattr(value, "__dict__", {})
    given = ", ".join(f"{name}={_text(each)}" for name, each in fields.items() if each is not None)
    return f"{type(value).__name__}({given})"
