"""Write recordings of runs whose length is unknown beforehand: labels come last."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emerdiff_probe.paths import Held, made_at_once
from emerdiff_probe.store.chunks import write_chunk
from emerdiff_probe.store.making import lay_out, positions_of
from emerdiff_probe.store.plan import Plan
from emerdiff_probe.store.positions import POSITIONS, number_of

__all__ = ["Growing"]


class Growing:
    """A recording in a folder that appears under its name once the run has ended.

    A process that dies before then leaves nothing that could be mistaken for a recording.

    Args:
        path: The folder.

    Raises:
        StoreError: The folder exists, or another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._blocks = 0
        self._numbers: dict[tuple[str, tuple[int, ...]], int] = {}
        self._failed = False
        with ExitStack() as stack:
            held = stack.enter_context(Held(path, store=True))
            self._making = stack.enter_context(made_at_once(path, held=held))
            self._open = stack.pop_all()

    def write(self, plan: Plan, values: Mapping[str, NDArray[Any]]) -> None:
        """Write a block of timesteps of all samples.

        Args:
            plan: The plan of everything recorded so far, including this block.
            values: The values of every leaf that has timesteps, (sample[, guidance], timestep,
                ...).

        Raises:
            StoreError: The block could not be written; what was written before is removed.
        """
        try:
            for leaf in plan.leaves:
                if leaf.timed:
                    self._write(plan, leaf.path, self._blocks, values[leaf.path])
        except OSError as error:
            self._failed = True
            # Remove the unfinished folder with an error that names the next step.
            self._open.__exit__(type(error), error, error.__traceback__)
        self._blocks += 1

    def finish(self, plan: Plan, once: Mapping[str, NDArray[Any]]) -> None:
        """Write what has no timesteps, and give the folder its name.

        Does nothing if an earlier write failed.

        Args:
            plan: The plan of all that is recorded.
            once: The values of each leaf without timesteps, such as the final images.
        """
        if self._failed:
            return
        with self._open:
            self._making.mkdir(exist_ok=True)
            for path, values in once.items():
                self._write(plan, path, 0, values)
            lay_out(self._making, plan, resumable=False)
            self._write_numbers(plan)

    def _write(self, plan: Plan, path: str, block: int, values: NDArray[Any]) -> None:
        leaf = next(each for each in plan.leaves if each.path == path)
        array = self._making / path / "value"
        array.mkdir(parents=True, exist_ok=True)
        for sample in range(len(values)):
            index, own = plan.chunk_index(leaf, sample, block), values[sample : sample + 1]
            self._numbers[f"{path}/value", index] = number_of(f"{path}/value", index, own)
            write_chunk(array, index, own, plan.chunks(leaf))

    def _write_numbers(self, plan: Plan) -> None:
        """Write by what chunks are known again."""
        positions = positions_of(plan, resumable=False)
        numbers = np.zeros(positions.shape, np.uint32)
        for (path, index), number in self._numbers.items():
            numbers[positions.of(path, index)] = number
        for row, part in np.ndindex(positions.shape[:2]):
            own = numbers[row : row + 1, part : part + 1]
            write_chunk(self._making / POSITIONS / "value", (row, part, 0), own, own.shape)
