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
from emerdiff_probe.store.chunks import PARTIAL, write_chunk
from emerdiff_probe.store.identity import check_model, instead_of
from emerdiff_probe.store.making import make_recording
from emerdiff_probe.store.plan import IMAGE, Leaf, Plan
from emerdiff_probe.store.precision import widened
from emerdiff_probe.store.values import RESTART, mark_of, picture_of, restart_of

__all__ = ["Memory", "Row", "Sink", "Streamed", "check_continues", "tidy"]

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


class _Writer:
    """Writes samples to a recording in a folder, by a thread of its own while the model runs.

    Args:
        path: The folder.
        plan: What is written.
        first: The row in the recording of the plan's first sample.
    """

    def __init__(self, path: Path, plan: Plan, first: int = 0) -> None:
        self.path, self.plan, self._first = path, plan, first
        self._waiting: queue.Queue[tuple[slice, int, Values, NDArray[np.float32]] | None] = (
            queue.Queue(_WAITING)
        )
        self._failure: Exception | None = None
        self._writer = threading.Thread(target=self._drain, name="recording", daemon=True)
        self._writer.start()

    def begun(self, samples: slice) -> tuple[int, NDArray[np.float32] | None]:
        """How many blocks of all of some samples are there already, and the latents that follow."""
        rows, done = self._rows(samples), 0
        while done < len(self.plan.blocks) and all(
            (self.path / mark_of(row, done)).exists() for row in rows
        ):
            done += 1
        if not done:
            return 0, None
        try:
            restart: Any = zarr.open_array(self.path / RESTART / "value", mode="r")
            return done, restart[rows.start : rows.stop, done - 1]
        except Exception as error:  # every codec has kinds of its own
            marks = [mark_of(row, done - 1) for row in rows]
            raise StoreError(
                f"'{self.path}' cannot go on: {error} in {' or '.join(map(repr, marks))}; delete "
                "that there and record again as before"
            ) from error

    def finished(self, samples: slice) -> bool:
        """Whether all blocks and the pictures of some samples are there."""
        # Pictures are written last, but a block of which a chunk was lost is recorded again.
        files = (self.path / picture_of(row) for row in self._rows(samples))
        return all(map(Path.exists, files)) and self.begun(samples)[0] == len(self.plan.blocks)

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
            for row, picture in zip(self._rows(samples), pictures, strict=True):
                self._write(IMAGE, (row, 0, 0, 0), picture[None], (1, *picture.shape))
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
        self._raise()

    def _rows(self, samples: slice) -> range:
        return range(self._first + samples.start, self._first + samples.stop)

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
        for number, row in enumerate(self._rows(samples)):
            for leaf in leaves:
                self._write(
                    leaf.path,
                    self.plan.chunk_index(leaf, row, block),
                    values[leaf.path][number : number + 1],
                    self.plan.chunks(leaf),
                )
        # Last: what is committed is whole.
        for row, following in zip(self._rows(samples), latents, strict=True):
            index = (row, block, *[0] * following.ndim)
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


class Streamed(_Writer):
    """A recording in a folder, of which all samples are written here.

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
        # Held from before the first look: two who begin at once are not both the first.
        self._held = Held(path, store=True)
        try:
            if is_free(path):
                make_recording(path, plan, self._held)
            else:
                check_continues(path, plan)
                tidy(path)
        except BaseException:
            self._held.close()
            raise
        super().__init__(path, plan)

    def close(self) -> None:
        """Waits until all is written, and lets others write there.

        Raises:
            StoreError: Something could not be written.
        """
        try:
            super().close()
        finally:
            self._held.close()


class Row(_Writer):
    """One sample of a recording in a folder, of which others write other samples meanwhile.

    Somebody holds the folder for all of them, and made it.

    Args:
        path: The folder.
        plan: What it holds of this sample.
        row: Of the sample.

    Raises:
        StoreError: The folder is something else, or this sample was another one.
        ConfigError: It was begun with other settings or another model; gives both values of each
            difference.
    """

    def __init__(self, path: Path, plan: Plan, row: int) -> None:
        check_continues(path, plan, row)
        super().__init__(path, plan, row)


def check_continues(path: Path, plan: Plan, row: int | None = None) -> None:
    """Sees that a recording was begun as a plan says.

    Args:
        path: Its folder.
        plan: Of all of it, or of one sample.
        row: Of that sample.

    Raises:
        StoreError: The folder is something else, or a copy; or the row was another sample.
        ConfigError: Something else differs.
    """
    root = opened(path)
    attributes: Any = dict(root.attrs)
    begun = json.loads(attributes["config"])
    what, present = f"the recording in '{path}'", json.loads(json.dumps(plan.config))
    if row is not None:
        before, now = begun.pop("sources").get(str(row)), present.pop("sources")["0"]
        if before != now:
            raise StoreError(
                f"row {row} of '{path}' was begun with {before}, and {plan.names[0]!r} is now "
                f"{now}; record it to another folder"
            )
    check_unchanged(begun, present, what, "another folder")
    present = json.loads(json.dumps(plan.about["model"]))
    check_model(json.loads(attributes["model"]), present, what, instead_of(path))
    if restart_of(root) is None:
        raise StoreError(
            f"'{path}' is a copy that rechunk() made, and nothing is recorded into those; open it, "
            "or record to another folder"
        )


def tidy(path: Path) -> None:
    """Removes what one that was killed was about to name; nobody may be writing there.

    Raises:
        StoreError: It cannot be removed.
    """
    try:
        for left in path.rglob(f"*{PARTIAL}"):
            left.unlink()
    except OSError as error:
        raise StoreError(f"'{path}' cannot be written to: {error}") from error
