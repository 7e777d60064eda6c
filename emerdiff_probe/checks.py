"""Check numbers and switches among arguments; NumPy's are accepted, wrong types and ranges refused.

Each function returns the plain Python value, fit for JSON, so that settings are checked once, when
they are made, and not after a long computation.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from emerdiff_probe.errors import ConfigError, ProbeError

__all__ = ["MOST_SEED", "flag", "integer", "integers", "number", "timestep", "timesteps"]

MOST_SEED: Final = 2**32 - 1
"""The largest seed that scikit-learn accepts."""


def integer(
    name: str,
    value: Any,
    least: int | None = None,
    most: int | None = None,
    error: type[ProbeError] = ConfigError,
) -> int:
    """Return an argument as an int.

    Args:
        name: The name of the argument, for the message.
        value: An integer of Python or NumPy, or an array without dims that holds one.
        least, most: The ends of the range, both included.
        error: The error to raise.

    Raises:
        error: The value has another type (such as 4.0 or True) or is out of range.

    >>> integer("steps", np.int64(4), 1)
    4
    """
    plain = _plain(value)
    within = isinstance(plain, int) and not isinstance(plain, bool) and _within(plain, least, most)
    if not within:
        raise error(f"{name} is {value!r}; choose an integer{_range(least, most)}")
    return int(plain)


def number(
    name: str,
    value: Any,
    least: float | None = None,
    most: float | None = None,
    error: type[ProbeError] = ConfigError,
    *,
    above: float | None = None,
) -> float:
    """Return an argument as a finite number; integers stay integers.

    Args:
        name: The name of the argument, for the message.
        value: A number of Python or NumPy, or an array without dims that holds one.
        least, most: The ends of the range, both included.
        error: The error to raise.
        above: A bound that the number must exceed.

    Raises:
        error: The value has another type, is not finite, or is out of range.

    >>> number("sigma", np.float32(0.5), 0)
    0.5
    """
    plain = _plain(value)
    right = isinstance(plain, int | float) and not isinstance(plain, bool)
    within = right and math.isfinite(plain) and _within(plain, least, most)
    if not within or (above is not None and plain <= above):
        where = f" above {above:g}" if above is not None else ""
        raise error(f"{name} is {value!r}; choose a finite number{where}{_range(least, most)}")
    return plain


def flag(name: str, value: Any) -> bool:
    """Return a switch as a bool.

    Raises:
        ConfigError: The value is neither True nor False; "false" would count as True.
    """
    plain = _plain(value)
    if not isinstance(plain, bool):
        raise ConfigError(f"{name} is {value!r}; choose True or False")
    return plain


def integers(
    name: str, values: Any, least: int = 0, error: type[ProbeError] = ConfigError
) -> tuple[int, ...]:
    """Return several positions, such as samples or heads, as ints.

    Raises:
        error: The value is not a collection of integers, or one of them is too small.
    """
    return tuple(integer(name, each, least, None, error) for each in _several(name, values, error))


def timestep(name: str, value: Any, error: type[ProbeError] = ConfigError) -> float:
    """Return a timestep as a number, as an int if it is whole.

    Args:
        name: The name of the argument, for the message.
        value: A number, or an array without dims that holds one.
        error: The error to raise.

    Raises:
        error: The value is not a number, or is negative.

    >>> timestep("timestep", np.float32(981)), timestep("timestep", 946.5)
    (981, 946.5)
    """
    found = number(name, value, 0, None, error)
    return int(found) if float(found).is_integer() else found


def timesteps(name: str, values: Any, error: type[ProbeError] = ConfigError) -> tuple[float, ...]:
    """Return several timesteps; see `timestep`.

    Args:
        name: The name of the argument, for the message.
        values: Numbers, an array of them, or the coordinate of a recording.
        error: The error to raise.

    Raises:
        error: The value is not a collection of numbers, or one of them is negative.
    """
    return tuple(timestep(name, each, error) for each in _several(name, values, error))


def _several(name: str, values: Any, error: type[ProbeError]) -> list[Any]:
    try:
        return list(values)
    except TypeError:  # one number, which an array without dims is, too
        raise error(
            f"{name} is {values!r}; choose several numbers, as in {name}=[{values!r}]"
        ) from None


def _plain(value: Any) -> Any:
    """Return a NumPy number, or one in an array without dims, as Python's own."""
    return value.item() if hasattr(value, "item") and np.ndim(value) == 0 else value


def _within(value: float, least: float | None, most: float | None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _range(least: float | None, most: float | None) -> str:
    if least is None:
        return "" if most is None else f" up to {most:g}"
    return f", {least:g} or more" if most is None else f" from {least:g} to {most:g}"
