"""Join the calls of a watched run into steps: one network call, or one for each part of guidance.

Most pipelines pass the parts of classifier-free guidance to the network in one call. Others, and
many custom loops, call it once for each: with the same latents, at the same timestep, and with
another text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emerdiff_probe.recording.callers import HALVES, Caller, OwnLoop
from emerdiff_probe.schema import BATCH, SAMPLE
from emerdiff_probe.store import LATENTS

__all__ = ["Call", "Step", "step_of"]


@dataclass(frozen=True, eq=False)
class Call:
    """The inputs and outputs of one network call.

    Attributes:
        caller: The caller.
        guidance: The labels of the parts of its rows; empty if all are samples, None if unknown.
        timestep: The timestep.
        text: The encoded text, shape (row, token, channel).
        masks: The masks of the keys of attention, by their name in `MASKS`, (row[, guidance], key).
        values: The values of each leaf, (row[, guidance], ...).
    """

    caller: Caller
    guidance: tuple[str, ...] | None
    timestep: float
    text: Tensor
    masks: Mapping[str, NDArray[np.float32]]
    values: Mapping[str, NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Return the bytes of the values."""
        return sum(array.nbytes for array in self.values.values())

    def continues(self, earlier: Sequence[Call]) -> bool:
        """Return whether this is a further part of a step with the given earlier calls."""
        first = earlier[0]
        return (
            not self.guidance
            and self.guidance == first.guidance
            and self.timestep == first.timestep
            and self.caller.alternates_with(first.caller)
            and np.array_equal(self.values[LATENTS], first.values[LATENTS])
            and not any(torch.equal(self.text, each.text) for each in earlier)
        )


@dataclass(frozen=True, eq=False)
class Step:
    """The calls of one step, as a recording keeps them.

    Attributes:
        caller: The caller.
        rows: "sample", or "batch" if it is unknown what rows are.
        guidance: The labels of the parts; empty if there are none.
        timestep: The timestep.
        tokens: The number of tokens of a text.
        masks: The masks of the keys of attention, by their name in `MASKS`, (row[, guidance], key).
        values: The values of each leaf, (row[, guidance], ...).
    """

    caller: Caller
    rows: str
    guidance: tuple[str, ...]
    timestep: float
    tokens: int
    masks: Mapping[str, NDArray[np.float32]]
    values: Mapping[str, NDArray[Any]]


def step_of(calls: Sequence[Call], is_empty: Callable[[Call], bool]) -> Step:
    """Join the calls of one step.

    Args:
        calls: The calls, in their order.
        is_empty: Returns whether the text of a call is known to be the empty or the negative
            prompt. If that tells two calls apart, they are "uncond" and "cond"; otherwise they are
            numbered.
    """
    caller, guidance = calls[0].caller, calls[0].guidance
    known = guidance is not None
    if len(calls) > 1:
        empty = [is_empty(call) for call in calls]
        halves = len(calls) == 2 and sum(empty) == 1
        if halves:
            calls = calls if empty[0] else calls[::-1]
            caller = calls[1].caller
        guidance = HALVES if halves else tuple(f"call {n}" for n in range(1, len(calls) + 1))
        known = halves and not isinstance(caller, OwnLoop)
    return Step(
        caller,
        SAMPLE if known else BATCH,
        guidance or (),
        calls[0].timestep,
        calls[0].text.shape[1],
        calls[0].masks if len(calls) == 1 else _masks_side_by_side(calls),
        calls[0].values if len(calls) == 1 else _side_by_side(calls),
    )


def _side_by_side(calls: Sequence[Call]) -> dict[str, NDArray[Any]]:
    return {
        path: values if path == LATENTS else np.stack([each.values[path] for each in calls], 1)
        for path, values in calls[0].values.items()
    }


def _masks_side_by_side(calls: Sequence[Call]) -> dict[str, NDArray[np.float32]]:
    """Return the masks of calls side by side; a call that lacks another's mask sees all keys."""
    found = {name: mask for call in calls for name, mask in call.masks.items()}
    return {
        name: np.stack([call.masks.get(name, np.ones_like(mask)) for call in calls], 1)
        for name, mask in found.items()
    }
