"""Where a recording goes: into memory, or to a Zarr store that can be resumed."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import queue
import shutil
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import xarray as xr
import zarr
import zarr.codecs
from numpy.typing import NDArray

from emerdiff_probe.errors import StoreError, check_unchanged
from emerdiff_probe.schema import SAMPLE
from emerdiff_probe.store.address import made_at_once, opened
from emerdiff_probe.store.plan import IMAGE, LATENTS, Leaf, Plan, size_text
from emerdiff_probe.store.values import RESTART, restart_of

__all__ = ["Memory", "Sink", "Streamed", "chunks_of", "new_array"]

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
                {"value": (self.plan.dims(leaf), self._arrays[leaf.path])},
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
        StoreError: The folder is something else, or the disk has too little room.
        ConfigError: It was begun with other settings; gives both values of each.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path, self.plan = path, plan
        if path.exists():
            _check_continues(path, plan)
        else:
            _create(path, plan)
        # Zarr leaves out chunks of nothing but the fill value, as a black picture.
        with zarr.config.set({"array.write_empty_chunks": True}):
            root = zarr.open_group(path, mode="r+")
            self._arrays: dict[str, Any] = {
                leaf.path: root[f"{leaf.path}/value"] for leaf in plan.leaves
            }
            self._restart: Any = root[f"{RESTART}/value"]
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
            return done, self._restart[samples, done - 1]
        except Exception as error:  # every codec has kinds of its own
            marks = [f"{RESTART}/value/c/{sample}/{done - 1}" for sample in _each(samples)]
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
            self._arrays[IMAGE][samples] = pictures
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
        async def write() -> None:
            # All at once, which takes Zarr half the time of one after the other.
            await asyncio.gather(
                *(
                    self._arrays[leaf.path].async_array.setitem(
                        _region(self.plan, leaf, samples, block), values[leaf.path]
                    )
                    for leaf in self.plan.leaves
                    if leaf.timed
                )
            )

        asyncio.run(write())
        # Last: what is committed is whole.
        self._restart[samples, block] = latents

    def _raise(self) -> None:
        if self._failure is not None:
            raise StoreError(
                f"'{self.path}' could not be written: {self._failure}. What was committed before "
                "can be read; the same call goes on from there"
            ) from self._failure


def _each(samples: slice) -> range:
    return range(samples.start, samples.stop)


def chunks_of(path: Path, array: str) -> set[tuple[int, ...]]:
    """Indices of the chunks that an array has on disk."""
    folder = path / array / "c"
    return {
        tuple(int(part) for part in file.relative_to(folder).parts)
        for file in folder.rglob("*")
        if file.is_file() and file.name.isdigit()
    }


def _create(path: Path, plan: Plan) -> None:
    """Makes an empty recording at once: a folder with this name is never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(path.parent).free
    if plan.nbytes > free:
        raise StoreError(
            f"the recording takes {size_text(plan.nbytes)} and '{path.parent}' has "
            f"{size_text(free)} free; record fewer sites, samples or timesteps, or choose "
            "another disk"
        )
    with made_at_once(path) as making, warnings.catch_warnings():
        # Texts have no place in Zarr's specification yet; zarr and xarray agree on theirs.
        warnings.simplefilter("ignore")
        plan.root().to_zarr(making, zarr_format=3, consolidated=False)
        root = zarr.open_group(making, mode="r+")
        _make_leaves(making, root, plan)
        latents = next(leaf for leaf in plan.leaves if leaf.path == LATENTS)
        shape = (len(plan.samples), len(plan.blocks), *latents.shape)
        new_array(
            root.create_group(RESTART),
            "value",
            (SAMPLE, "block", *latents.dims),
            shape,
            (1, 1, *latents.shape),
            "float32",
        )
        # All metadata in one file: opening reads one in place of hundreds.
        zarr.consolidate_metadata(making)


def _make_leaves(folder: Path, root: Any, plan: Plan) -> None:
    """Makes the empty arrays of leaves: those of each form once, and copies of them for the rest.

    Zarr takes 10 ms for an array, and there are hundreds.
    """
    made: dict[Leaf, Path] = {}
    for leaf in plan.leaves:
        place, form = folder / leaf.path, dataclasses.replace(leaf, path="")
        if form in made:
            shutil.copytree(made[form], place)
        else:
            group = root.create_group(leaf.path)
            new_array(
                group, "value", plan.dims(leaf), plan.shape(leaf), plan.chunks(leaf), leaf.dtype
            )
            for dim, places in plan.coords(leaf).items():
                array = group.create_array(
                    dim, shape=places.shape, dtype=places.dtype, dimension_names=(dim,)
                )
                array[:] = places
            made[form] = place
        for above in place.relative_to(folder).parents:
            if not (folder / above / "zarr.json").exists():
                shutil.copy(place / "zarr.json", folder / above / "zarr.json")


def new_array(
    group: Any,
    name: str,
    dims: tuple[str, ...],
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: str,
    *,
    shards: tuple[int, ...] | None = None,
) -> Any:
    """Makes the empty array of a leaf.

    Args:
        group: That it is made in.
        name: Its own.
        dims: Names of its dims.
        shape: Sizes of its dims.
        chunks: Sizes of the pieces that are read.
        dtype: Of NumPy.
        shards: Sizes of the files, where they hold several chunks.
    """
    return group.create_array(
        name,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype=dtype,
        dimension_names=dims,
        fill_value=np.nan if np.dtype(dtype).kind == "f" else 0,
        # Activations hardly compress; a checksum finds what was damaged.
        compressors=zarr.codecs.Crc32cCodec(),
        config={"write_empty_chunks": True},
    )


def _check_continues(path: Path, plan: Plan) -> None:
    root = opened(path)
    begun: Any = root.attrs["config"]
    check_unchanged(
        json.loads(begun),
        json.loads(json.dumps(plan.config)),
        f"the recording in '{path}'",
        "another folder",
    )
    if restart_of(root) is None:
        raise StoreError(
            f"'{path}' is a copy that rechunk() made, and nothing is recorded into those; open it, "
            "or record to another folder"
        )
    # What one that was killed was about to name.
    for left in path.rglob("*.partial"):
        left.unlink()
