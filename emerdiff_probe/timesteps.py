"""Compare and select the timesteps of a run, which may be fractional or visited twice.

Euler's timesteps lie between those of training (946.4247); PNDM and Heun call the network twice at
one. Timesteps are therefore compared with a tolerance, and calls at the same one are told apart by
their step, the position of the call in its run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import xarray as xr

from emerdiff_probe import checks
from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import STEP, TIMESTEP

__all__ = ["labels", "matching", "one_position", "positions", "same", "steps_of", "text"]

_DECIMALS: Final = 2
_DECIMALS_BELOW_ONE: Final = 4
"""The decimals of timesteps in `text`; flow models have timesteps from 0 to 1."""


def same(one: float, other: float) -> bool:
    """Return whether two numbers mean one timestep: whether `text` writes them alike.

    >>> same(946.42, 946.4247436523438), same(998, 999)
    (True, False)
    """
    half = 0.5001 * 10.0 ** -_decimals(max(one, other))
    return math.isclose(one, other, rel_tol=0, abs_tol=half)


def matching(recorded: Iterable[float], timestep: float) -> list[int]:
    """Return the positions of all calls at a timestep; of close ones if none is equal.

    >>> matching([981, 961, 961], 961)
    [1, 2]
    """
    known = list(recorded)
    equal = [position for position, each in enumerate(known) if each == timestep]
    return equal or [position for position, each in enumerate(known) if same(each, timestep)]


def positions(values: xr.DataArray | xr.Dataset, timesteps: Any) -> list[int]:
    """Return the positions of timesteps along the dim ``timestep``, in the order asked for.

    Args:
        values: An array or dataset with the coordinate ``timestep``.
        timesteps: Numbers, or an array of them. A timestep that was visited twice gives both
            positions.

    Raises:
        InputError: A timestep was not recorded, or none is given.
    """
    recorded = values[TIMESTEP].values.tolist()
    wanted = checks.timesteps("timesteps", timesteps, InputError)
    if not wanted:
        raise InputError("timesteps is empty; omit it for the usual ones")
    found = {each: matching(recorded, each) for each in wanted}
    if unknown := [each for each, there in found.items() if not there]:
        raise InputError(
            f"timesteps {unknown} were not recorded; choices: {', '.join(labels(values))}"
        )
    return [position for there in found.values() for position in there]


def one_position(
    values: xr.DataArray | xr.Dataset, timestep: Any = None, step: int | None = None
) -> int:
    """Return the position of one call along the dim ``timestep``.

    Args:
        values: An array or dataset with the coordinate ``timestep``, and ``step`` if timesteps
            repeat.
        timestep: A number; None if ``step`` identifies the call.
        step: The number of the call in its run, if several are at this timestep.

    Raises:
        InputError: There is no such call, or several.
    """
    found = list(range(values.sizes[TIMESTEP]))
    if timestep is not None:
        wanted = checks.timestep("timestep", timestep, InputError)
        found = matching(values[TIMESTEP].values.tolist(), wanted)
        if not found:
            raise InputError(
                f"timestep {text(wanted)} was not recorded; choices: {', '.join(labels(values))}"
            )
    numbers = steps_of(values)
    if step is not None:
        number = checks.integer("step", step, 0, None, InputError)
        found = [position for position in found if numbers[position] == number]
    if len(found) != 1:
        choices = ", ".join(str(numbers[position]) for position in found)
        raise InputError(
            f"no call at timestep {timestep}, step {step}; there are {', '.join(labels(values))}"
            if not found
            else f"timestep {timestep} was visited at steps {choices}; choose one, as in "
            f"step={numbers[found[0]]}"
        )
    return found[0]


def steps_of(values: xr.DataArray | xr.Dataset) -> list[int]:
    """Return the position of each call in its run; if unknown, that in the array."""
    if STEP in values.coords and values[STEP].dims == (TIMESTEP,):
        return [int(each) for each in values[STEP].values]
    return list(range(values.sizes[TIMESTEP]))


def labels(values: xr.DataArray | xr.Dataset, at: Sequence[int] | None = None) -> list[str]:
    """Return texts for calls, no two of them equal.

    Args:
        values: An array or dataset with the coordinate ``timestep``, and ``step`` if timesteps
            repeat.
        at: The positions of the calls; by default all.

    >>> run = xr.Dataset(coords={"timestep": [981, 961, 961], "step": ("timestep", [0, 1, 2])})
    >>> labels(run)
    ['981', '961 (step 1)', '961 (step 2)']
    """
    recorded, numbers = values[TIMESTEP].values.tolist(), steps_of(values)
    short = [text(each) for each in recorded]
    return [
        short[position]
        if short.count(short[position]) == 1
        else f"{short[position]} (step {numbers[position]})"
        for position in (range(len(recorded)) if at is None else at)
    ]


def text(timestep: float) -> str:
    """Return a timestep as text with at most two decimals, or four below 1 (flow models).

    >>> text(946.4247436523438), text(281), text(0.987654)
    ('946.42', '281', '0.9877')
    """
    return np.format_float_positional(round(float(timestep), _decimals(timestep)), trim="-")


def _decimals(timestep: float) -> int:
    return _DECIMALS if abs(timestep) >= 1 else _DECIMALS_BELOW_ONE
