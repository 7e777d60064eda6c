"""Write recordings: into memory, or to a Zarr store that can be resumed."""

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
from emerdiff_probe.store.making import make_recording, positions_of
from emerdiff_probe.store.plan import IMAGE, Leaf, Plan
from emerdiff_probe.store.positions import POSITIONS, number_of
from emerdiff_probe.store.precision import widened
from emerdiff_probe.store.values import RESTART, mark_of, picture_of, restart_of, table_of

__all__ = ["Memory", "Row", "Sink", "Streamed", "check_continues", "tidy"]

_WAITING: Final = 1
"""The number of blocks that wait for the disk; with more, memory would grow with the run."""

Values = Mapping[str, NDArray[Any]]
Chunk = tuple[tuple[int, ...], NDArray[Any]]


class Sink(Protocol):
    """A destination of recordings."""

    plan: Plan

    def begun(self, samples: slice) -> tuple[int, NDArray[np.float32] | None]:
        """Return how many blocks of some samples exist, and the latents that follow them."""

    def write(
        self, samples: slice, block: int, values: Values, latents: NDArray[np.float32]
    ) -> None:
        """Write a block of timesteps of some samples, and the latents that follow."""

    def finished(self, samples: slice) -> bool:
        """Return whether everything of some samples is written."""

    def finish(self, samples: slice, pictures: NDArray[np.uint8]) -> None:
        """Write the images that the runs of some samples end with."""

    def close(self) -> None:
        """Wait until everything is written."""


class Memory:
    """A recording in memory."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._arrays = {leaf.path: np.zeros(plan.shape(leaf), leaf.dtype) for leaf in plan.leaves}

    def begun(self, samples: slice) -> tuple[int, None]:
        """Return 0 and None: nothing is there at the start."""
        return 0, None

    def finished(self, samples: slice) -> bool:
        """Return False: nothing is there at the start."""
        return False

    def write(
        self, samples: slice, block: int, values: Values, latents: NDArray[np.float32]
    ) -> None:
        """Keep a block of timesteps of some samples."""
        for leaf in self.plan.leaves:
            if leaf.timed:
                self._arrays[leaf.path][_region(self.plan, leaf, samples, block)] = values[
                    leaf.path
                ]

    def finish(self, samples: slice, pictures: NDArray[np.uint8]) -> None:
        """Keep the images that the runs of some samples end with."""
        self._arrays[IMAGE][samples] = pictures

    def close(self) -> None:
        """Do nothing: nothing waits."""

    def tree(self) -> xr.DataTree:
        """Return the recording."""
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
    """Write samples to a recording in a folder, in a separate thread while the model runs.

    Args:
        path: The folder.
        plan: The plan of what is written.
        first: The row in the recording of the plan's first sample.
    """

    def __init__(self, path: Path, plan: Plan, first: int = 0) -> None:
        self.path, self.plan, self._first = path, plan, first
        self._positions = positions_of(plan, resumable=True)
        self._waiting: queue.Queue[tuple[slice, int, Values, NDArray[np.float32]] | None] = (
            queue.Queue(_WAITING)
        )
        self._failure: Exception | None = None
        self._writer = threading.Thread(target=self._drain, name="recording", daemon=True)
        self._writer.start()

    def begun(self, samples: slice) -> tuple[int, NDArray[np.float32] | None]:
        """Return how many blocks exist of each of some samples, and the latents that follow."""
        rows, done = self._rows(samples), 0
        while done < len(self.plan.blocks) and all(
            (self.path / mark_of(row, done)).exists() for row in rows
        ):
            done += 1
        if not done:
            return 0, None
        try:
            root = zarr.open_group(self.path, mode="r", use_consolidated=True)
            latents = restart_of(root)[rows.start : rows.stop, done - 1]
            table = table_of(root, str(self.path))
            for row, each in zip(rows, latents, strict=True):
                index = (row, done - 1, *[0] * each.ndim)
                number = table.number(f"{RESTART}/value", index)
                if number not in (None, number_of(f"{RESTART}/value", index, each)):
                    raise ValueError("the latents of another sample or timestep are")
            return done, latents
        except Exception as error:  # each codec raises errors of its own
            marks = [mark_of(row, done - 1) for row in rows]
            raise StoreError(
                f"'{self.path}' cannot be resumed: {error} in {' or '.join(map(repr, marks))}; "
                "delete that file there and record again with the same settings"
            ) from error

    def finished(self, samples: slice) -> bool:
        """Return whether all blocks and the images of some samples are written."""
        # Images are written last, but a block with a lost chunk is recorded again.
        files = (self.path / picture_of(row) for row in self._rows(samples))
        return all(map(Path.exists, files)) and self.begun(samples)[0] == len(self.plan.blocks)

    def write(
        self, samples: slice, block: int, values: Values, latents: NDArray[np.float32]
    ) -> None:
        """Queue a block of timesteps of some samples; return before it is written."""
        self._raise()
        self._waiting.put((samples, block, values, latents))

    def finish(self, samples: slice, pictures: NDArray[np.uint8]) -> None:
        """Queue the images that the runs of some samples end with."""
        self._waiting.join()
        self._raise()
        try:
            for row, picture in zip(self._rows(samples), pictures, strict=True):
                chunk = ((row, 0, 0, 0), picture[None])
                self._write_numbers(row, len(self.plan.blocks), {IMAGE: chunk})
                self._write(IMAGE, *chunk, (1, *picture.shape))
        except OSError as error:
            self._failure = error
            self._raise()

    def close(self) -> None:
        """Wait until everything is written.

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
            # After a failure, take and drop blocks, so that no caller waits for room.
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
            chunks = {
                leaf.path: (
                    self.plan.chunk_index(leaf, row, block),
                    values[leaf.path][number : number + 1],
                )
                for leaf in leaves
            }
            following = latents[number]
            mark = ((row, block, *[0] * following.ndim), following[None, None])
            for leaf in leaves:
                self._write(leaf.path, *chunks[leaf.path], self.plan.chunks(leaf))
            self._write_numbers(row, block, {**chunks, RESTART: mark})
            # Last, so that what is committed is complete.
            self._write(RESTART, *mark, mark[1].shape)

    def _write_numbers(self, row: int, part: int, chunks: Mapping[str, Chunk]) -> None:
        """Write the numbers that chunks are recognised by, before they are committed."""
        numbers = self._positions.numbers()
        for leaf, (index, values) in chunks.items():
            column = self._positions.of(f"{leaf}/value", index)[-1]
            numbers[column] = number_of(f"{leaf}/value", index, values)
        self._write(POSITIONS, (row, part, 0), numbers[None, None], (1, 1, len(numbers)))

    def _write(
        self, leaf: str, index: tuple[int, ...], values: NDArray[Any], shape: tuple[int, ...]
    ) -> None:
        write_chunk(self.path / leaf / "value", index, values, shape)

    def _raise(self) -> None:
        if self._failure is not None:
            raise StoreError(
                f"'{self.path}' could not be written: {self._failure}. What was committed before "
                "can be read; the same call resumes from there"
            ) from self._failure


class Streamed(_Writer):
    """A recording in a folder, all of whose samples are written here.

    Args:
        path: The folder. A recording that was begun with the same settings is resumed.
        plan: The plan of what it will hold.

    Raises:
        StoreError: The folder holds something else, another process writes to it, or the disk has
            too little room.
        ConfigError: It was begun with other settings or another model; the message gives both
            values of each difference.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        # Lock before the first look, so that of two processes that begin at once only one is first.
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
        """Wait until everything is written, and let others write there.

        Raises:
            StoreError: Something could not be written.
        """
        try:
            super().close()
        finally:
            self._held.close()


class Row(_Writer):
    """One sample of a recording in a folder, while others write other samples.

    The caller has created the folder and holds it for all writers.

    Args:
        path: The folder.
        plan: The plan of what it holds for this sample.
        row: The row of the sample.

    Raises:
        StoreError: The folder holds something else, or this row was another sample.
        ConfigError: It was begun with other settings or another model; the message gives both
            values of each difference.
    """

    def __init__(self, path: Path, plan: Plan, row: int) -> None:
        check_continues(path, plan, row)
        super().__init__(path, plan, row)


def check_continues(path: Path, plan: Plan, row: int | None = None) -> None:
    """Check that a recording was begun as a plan says.

    Args:
        path: The folder of the recording.
        plan: The plan of all of it, or of one sample.
        row: The row of that sample.

    Raises:
        StoreError: The folder holds something else, or a copy; or the row was another sample.
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
    if plan.timesteps and restart_of(root) is None:
        raise StoreError(
            f"'{path}' is a copy that rechunk() made, which cannot be recorded into; open it, "
            "or record to another folder"
        )


def tidy(path: Path) -> None:
    """Remove partial files of a writer that was killed; nobody may be writing there.

    Raises:
        StoreError: They cannot be removed.
    """
    try:
        for left in path.rglob(f"*{PARTIAL}"):
            left.unlink()
    except OSError as error:
        raise StoreError(f"'{path}' cannot be written to: {error}") from error
