"""Let several processes write one recording, each its own samples: where they are, which are whole.

One of the processes creates it with room for all samples, and the others find it there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from emerdiff_probe.errors import StoreError
from emerdiff_probe.paths import Held, free_bytes, is_free, made_at_once
from emerdiff_probe.schema import SAMPLE
from emerdiff_probe.store.address import by_size, opened, size_name
from emerdiff_probe.store.chunks import chunks_of
from emerdiff_probe.store.making import lay_out
from emerdiff_probe.store.plan import IMAGE, Plan, size_text
from emerdiff_probe.store.sealing import checked_labels
from emerdiff_probe.store.values import chunks_in, restart_of, whole_rows
from emerdiff_probe.store.writing import tidy

__all__ = ["Place", "Rows"]


class Place(NamedTuple):
    """The place of a sample.

    Attributes:
        folder: The recording that it is in; images of several sizes have several.
        row: Its position there.
    """

    folder: Path
    row: int


class Rows:
    """The samples of a recording in a folder that all of its writers hold.

    Args:
        path: The folder.

    Raises:
        StoreError: Another process writes there without sharing it, or it holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Beside it: while the store is made nobody must wait in the folder that gives way to it.
        self._held = [Held(path, shared=True)]
        try:
            # ep.record holds the folder, and of several sizes each by itself.
            for folder in (path, *by_size(path).values()):
                self._held.append(Held(folder, store=True, shared=not self.alone))
            if self.alone and not is_free(path):
                tidy(path)
        except BaseException:
            self.close()
            raise

    @property
    def alone(self) -> bool:
        """Return whether nobody else can write there yet."""
        return self._held[0].alone

    def make(self, plans: Mapping[tuple[int, int], Plan]) -> None:
        """Create the recording atomically: one, or one for each size of images.

        Args:
            plans: The plans by size, (height, width) in pixels.

        Raises:
            StoreError: It exists already, or the disk has too little room.
        """
        needed, free = sum(plan.nbytes for plan in plans.values()), free_bytes(self.path)
        if needed > free:
            raise StoreError(
                f"the recording takes {size_text(needed)} and '{self.path.parent}' has "
                f"{size_text(free)} free; record fewer sites, inputs or timesteps, or choose "
                "another disk"
            )
        with made_at_once(self.path, held=self._held[1]) as making:
            for size, plan in plans.items():
                folder = making if len(plans) == 1 else making / size_name(size)
                folder.mkdir(parents=True)
                lay_out(folder, plan, resumable=True)

    def share(self) -> None:
        """Let others who share it write there from now on."""
        for each in self._held:
            each.share()

    def places(self) -> dict[str, Place]:
        """Return the place of each sample by its name; empty if nothing exists yet."""
        if is_free(self.path):
            return {}
        found: dict[str, Place] = {}
        for folder in by_size(self.path).values() or [self.path]:
            names = checked_labels(opened(folder)[SAMPLE], str(folder)).tolist()
            found |= {name: Place(folder, row) for row, name in enumerate(names)}
        return found

    def whole(self) -> set[Place]:
        """Return the places of the samples that are complete so far."""
        found = set()
        for folder in by_size(self.path).values() or [self.path]:
            restart = restart_of(opened(folder))
            if restart is None:
                raise StoreError(
                    f"'{folder}' is a copy that rechunk() made, and nothing is recorded into "
                    "those; record to another folder"
                )
            committed, pictures = chunks_in(restart), chunks_of(folder, f"{IMAGE}/value")
            rows = whole_rows(committed, restart.shape[1], pictures)
            found |= {Place(folder, row) for row in rows}
        return found

    def close(self) -> None:
        """Let others write there."""
        for each in self._held:
            each.close()

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
