"""Draw random numbers that are the same bits on every machine and in every NumPy.

NumPy promises the raw output of a bit generator, not the streams of ``Generator``'s methods, so
everything random in a scene comes from raw 64-bit words through integer arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Dice", "smooth_noise"]

T = TypeVar("T")


class Dice:
    """Draw integers from the raw words of PCG64.

    Args:
        entropy: Integers, 0 or more; equal ones give equal dice.
    """

    def __init__(self, *entropy: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(entropy))

    def between(self, low: int, high: int) -> int:
        """Return an integer from `low` to `high`, both included."""
        word = int(self._bits.random_raw()) >> 32
        return low + ((word * (high - low + 1)) >> 32)

    def chance(self, percent: int) -> bool:
        """Return True in `percent` of 100 throws."""
        return self.between(0, 99) < percent

    def choose(self, options: Sequence[T]) -> T:
        """Return one of the options, all equally likely."""
        return options[self.between(0, len(options) - 1)]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """Return `count` different options in random order."""
        left = list(options)
        return [left.pop(self.between(0, len(left) - 1)) for _ in range(count)]

    def bytes(self, shape: tuple[int, ...]) -> NDArray[np.int32]:
        """Return integers 0..255 of the given shape."""
        words = np.asarray(self._bits.random_raw(int(np.prod(shape))), np.uint64)
        return (words >> np.uint64(56)).astype(np.int32).reshape(shape)


def smooth_noise(dice: Dice, size: int, cell: int) -> NDArray[np.int32]:
    """Return value noise, interpolated bilinearly between random values on a lattice.

    Args:
        dice: Source of the lattice's values.
        size: Side of the square field in pixels.
        cell: Distance between lattice points in pixels.

    Returns:
        Noise (size, size), integers 0..255.
    """
    lattice = dice.bytes((size // cell + 2, size // cell + 2))
    position = np.arange(size)
    low, step = position // cell, (position % cell).astype(np.int32)
    rows = lattice[low] * (cell - step)[:, None] + lattice[low + 1] * step[:, None]
    field = rows[:, low] * (cell - step) + rows[:, low + 1] * step
    return (field // (cell * cell)).astype(np.int32)
