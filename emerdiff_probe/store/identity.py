"""Compare models: is the one at hand the one whose results a store holds?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from emerdiff_probe.errors import ConfigError

__all__ = ["check_model", "instead_of", "model_differences"]

_PLACE: Final = ("device", "versions")
"""Entries that describe where a model runs, not what it is."""

_ROUNDING: Final = {"float32": 5e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""The largest relative difference of answers between devices or versions, by precision.

Tensor cores round factors of float32 to ten bits, which leads to errors of 1e-3 in a convolution.
"""

_ROUNDING_HERE: Final = 0.01
"""The share of that on the same device and versions, where only thread order varies."""


def check_model(
    stored: Mapping[str, Any], present: Mapping[str, Any], what: str, instead: str
) -> None:
    """Refuse to continue or return something that was begun with another model.

    Args:
        stored: The identity of the model it was begun with, from `emerdiff_probe.models.identity`.
        present: The identity of the model at hand.
        what: The name of the thing, for the message.
        instead: What can be done with the model at hand.

    Raises:
        ConfigError: The models differ. The message gives both values of each difference.

    >>> old, new = {"dtype": "float32"}, {"dtype": "float16"}
    >>> check_model(old, new, "'run.zarr'", "choose another store")
    Traceback (most recent call last):
        ...
    emerdiff_probe.errors.ConfigError: 'run.zarr' was begun with another model:
      dtype: stored 'float32', now 'float16'
    Restore that model to continue, or choose another store
    """
    if found := model_differences(stored, present):
        lines = "".join(f"\n  {each}" for each in found)
        raise ConfigError(
            f"{what} was begun with another model:{lines}\n"
            f"Restore that model to continue, or {instead}"
        )


def instead_of(path: Path) -> str:
    """Return the options other than the store's own model, for messages."""
    return f"choose another store, or delete '{path}' to overwrite it"


def model_differences(stored: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Return a line for each entry in which the identities of two models differ.

    Names, devices and versions are not compared, and numbers only up to rounding: the same model
    on another machine has no differences.
    """
    rounding = _ROUNDING.get(str(present.get("dtype")), max(_ROUNDING.values()))
    if all(stored.get(name) == present.get(name) for name in _PLACE):
        rounding *= _ROUNDING_HERE
    old, new = dict(_flat(stored)), dict(_flat(present))
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name), new.get(name)
        if name.startswith("answers."):
            apart = _distance(before, now)
            if apart > rounding:
                lines.append(
                    f"{name}: stored {_short(before)}, now {_short(now)}: {apart:.2g} apart, of "
                    f"which rounding explains {rounding:.1g}"
                )
        elif before != now and not _distance(before, now) <= 1e-5:
            lines.append(f"{name}: stored {before!r}, now {now!r}")
    return lines


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if not prefix and name in ("name", *_PLACE):
            continue
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _distance(one: Any, other: Any) -> float:
    """Return the distance between lists of numbers, relative to the size of the first.

    It is infinite if they cannot be compared.
    """
    if not (_are_numbers(one) and _are_numbers(other) and len(one) == len(other)):
        return math.inf
    before, now = np.array(one, float), np.array(other, float)
    if not np.isfinite([before, now]).all():
        return 0.0 if np.array_equal(before, now, equal_nan=True) else math.inf
    return float(np.linalg.norm(now - before)) / max(float(np.linalg.norm(before)), 1e-12)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(x, float) for x in value)


def _short(numbers: Any) -> str:
    if not isinstance(numbers, list):
        return repr(numbers)
    return f"[{', '.join(f'{each:.4g}' for each in numbers[:3])}, ...]"
