"""One input of many: its key, and how it is read."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from emerdiff_probe.errors import InputError
from emerdiff_probe.inputs import Input

__all__ = ["Item", "refused"]


class Item(NamedTuple):
    """Hold one input.

    Attributes:
        key: Its name, which no other input has.
        given: The input, or a function without arguments that reads it.
    """

    key: str
    given: Input | Callable[[], Input]

    def source(self) -> Input:
        """Return the input.

        Raises:
            InputError: It cannot be read.
        """
        return self.given() if callable(self.given) else self.given


def refused(fault: str) -> Input:
    """Raise what was wrong with an input, when it is its turn."""
    raise InputError(fault)
