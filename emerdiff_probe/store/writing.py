"""Where a recording goes: into memory, or to a Zarr store that can be resumed."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import xarray as xr
import zarr
import zarr.codecs
from numpy.typing import NDArray

from emerdiff_probe.errors import StoreError, check_unchanged
from emerdiff_probe.paths import Held, is_free
from emerdiff_probe.store.address import opened
from emerdiff_probe.store.chunks import PARTIAL, chunks_of, write_chunk
from emerdiff_probe.store.identity import check_model, instead_of
from emerdiff_probe.store.making import make_recording
from emerdiff_probe.store.plan import IMAGE, Leaf, Plan
from emerdiff_probe.store.precision import widened
from emerdiff_probe.store.values import RESTART, mark_of, restart_of

__all__ = ["Memory", "Sink", "Streamed"]

_WAITING: Final = 1
"""Blocks that wait for the disk; more would let memory grow with the length of a run."""

Values = Mapping[str, NDArray[Any]]


class Sink(Protocol):
    """Where a recording goes."""

    plan: Plan

    def begun(self, samples: slice) -> tuple[int, NDArray[np.float32] | None]:
        """How many blocks of some samples are there already, and the latents that follow."""

    def write(
        self, samples: slice, block: int, values: Values, latents: NDArray[np.float32]
    ) -> None:
        """Takes a block of timesteps of some samples, and the latents that follow."""

    def finished(self, samples: slice) -> bool:
        """Whether all of some samples is there."""

    def finish(self, samples: slice, pictures: NDArray[np.uint8]) -> None:
        """Takes the pictures that the runs of some samples end with."""

    def close(self) -> None:
        """Waits until all is written."""


class Memory:
    """A recording in memory."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._arrays = {leaf.path: np.zeros(plan.shape(leaf), leaf.dtype) for leaf in plan.leaves}

    def begun(self, samples: slice) -> tuple[int, None]:
        """Nothing is there."""
        return 0, None

    def finished(self, samples: slice) -> bool:
        """Nothing is there."""
        return False

    def write(
        self, samples: slice, block: int, values: Values, latents: NDArray[np.float32]
    ) -> None:
        """Takes a block of timesteps of some samples."""
        for leaf in self.plan.leaves:
            if leaf.timed:
                self._arrays[leaf.path][_region(self.plan, leaf, samples, block)] = values[
                    leaf.path
                ]

    def finish(self, samples: slice, pictures: NDArray[np.uint8]) -> None:
        """Takes the pictures that the runs of some samples end with."""
        self._arrays[IMAGE][samples] = pictures

    def close(self) -> None:
        """Nothing waits."""

    def tree(self) -> xr.DataTree:
        """The recording."""
        leaves = {
            leaf.path: xr.Dataset(
                {"value": (self.plan.dims(leaf), widened(self._arrays[leaf.path]))},
                coords=self.plan.coords(leaf),
            )
            for leaf in self.plan.leaves
        }
        return xr.DataTree.from_dict({"/": self.plan.root(), **leaves})


def _region(plan: Plan, leaf: Leaf, samples: slice, block: int) -> tuple[slice, ...]:
    halves = [slice(None)] * (leaf.guided and bool(plan.guidance))
    return (samples, *halves, plan.blocks[block])


class Streamed:
    """A recording in a folder, written by a thread of its own while the model runs.

    Args:
        path: The folder. One that was begun with the same settings is continued.
        plan: What it will hold.

    Raises:
        StoreError: The folder is something else, somebody writes to it, or the disk has too little
            room.
        ConfigError: It was begun with other settings or another model; gives both values of each
            difference.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan
        # Held from before the first look: two who begin at once are not both the first.
        self._held = Held(path, store=True)
        try:
            if is_free(path):
                make_recording(path, plan, self._held)
            else:
                _check_continues(path, plan)
        except BaseException:
            self._held.close()
            raise
        self._waiting: queue.Queue[tuple[slice, int, Values, NDArray[np.float32]] | None] = (
            queue.Queue(_WAITING)
        )
        self._failure: Exception | None = None
        self._writer = threading.Thread(target=self._drain, name="recording", daemon=True)
        self._writer.start()

    def begun(self, samples: slice) -> tuple[int, NDArray[np.float32] | None]:
        """How many blocks of all of some samples are there already, and the latents that follow."""
        present = {index[:2] for index in chunks_of(self.path, f"{RESTART}/value")}
        done = 0
        while done < len(self.plan.blocks) and all(
            (sample, done) in present for sample in _each(samples)
        ):
            done += 1
        if not done:
            return 0, None
        try:
            restart: Any = zarr.open_array(self.path / RESTART / "value", mode="r")
            return done, restart[samples, done - 1]
        except Exception as error:  # every codec has kinds of its own
            marks = [mark_of(sample, done - 1) for sample in _each(samples)]
            raise StoreError(
                f"'{self.path}' cannot go on: {error} in {' or '.join(map(repr, marks))}; delete "
                "that there and record again as before"
            ) from error

    def finished(self, samples: slice) -> bool:
        """Whether all blocks and the pictures of some samples are there."""
        # Pictures are written last, but a block of which a chunk was lost is recorded again.
        present = {index[0] for index in chunks_of(self.path, f"{IMAGE}/value")}
        whole = present.issuperset(_each(samples))
        return whole and self.begun(samples)[0] == len(self.plan.blocks)

    def write(
        self, samples: slice, block: int, values: Values, latents: NDArray[np.float32]
    ) -> None:
        """Takes a block of timesteps of some samples; returns before it is written."""
        self._raise()
        self._waiting.put((samples, block, values, latents))

    def finish(self, samples: slice, pictures: NDArray[np.uint8]) -> None:
        """Takes the pictures that the runs of some samples end with."""
        self._waiting.join()
        self._raise()
        try:
            for sample, picture in zip(_each(samples), pictures, strict=True):
                self._write(IMAGE, (sample, 0, 0, 0), picture[None], (1, *picture.shape))
        except OSError as error:
            self._failure = error
            self._raise()

    def close(self) -> None:
        """Waits until all is written.

        Raises:
            StoreError: Something could not be written.
        """
        self._waiting.put(None)
        self._writer.join()
        self._held.close()
        self._raise()

    def _drain(self) -> None:
        while (item := self._waiting.get()) is not None:
            # After a failure blocks are taken and dropped, so that nobody waits for room.
            if self._failure is None:
                try:
                    self._commit(*item)
                except Exception as error:
                    self._failure = error
            self._waiting.task_done()
        self._waiting.task_done()

    def _commit(
        self, samples: slice, block: int, values: Values, latents: NDArray[np.float32]
    ) -> None:
        leaves = [leaf for leaf in self.plan.leaves if leaf.timed]
        for row, sample in enumerate(_each(samples)):
            for leaf in leaves:
                self._write(
                    leaf.path,
                    self.plan.chunk_index(leaf, sample, block),
                    values[leaf.path][row : row + 1],
                    self.plan.chunks(leaf),
                )
        # Last: what is committed is whole.
        for sample, following in zip(_each(samples), latents, strict=True):
            index = (sample, block, *[0] * following.ndim)
            self._write(RESTART, index, following[None, None], (1, 1, *following.shape))

    def _write(
        self, leaf: str, index: tuple[int, ...], values: NDArray[Any], shape: tuple[int, ...]
    ) -> None:
        write_chunk(self.path / leaf / "value", index, values, shape)

    def _raise(self) -> None:
        if self._failure is not None:
            raise StoreError(
                f"'{self.path}' could not be written: {self._failure}. What was committed before "
                "can be read; the same call goes on from there"
            ) from self._failure


def _each(samples: slice) -> range:
    return range(samples.start, samples.stop)


def _check_continues(path: Path, plan: Plan) -> None:
    root = opened(path)
    begun: Any = dict(root.attrs)
    what, present = f"the recording in '{path}'", json.loads(json.dumps(plan.config))
    check_unchanged(json.loads(begun["config"]), present, what, "another folder")
    present = json.loads(json.dumps(plan.about["model"]))
    check_model(json.loads(begun["model"]), present, what, instead_of(path))
    if restart_of(root) is None:
        raise StoreError(
            f"'{path}' is a copy that rechunk() made, and nothing is recorded into those; open it, "
            "or record to another folder"
        )
    # What one that was killed was about to name.
    try:
        for left in path.rglob(f"*{PARTIAL}"):
            left.unlink()
    except OSError as error:
        raise StoreError(f"'{path}' cannot be written to: {error}") from error
