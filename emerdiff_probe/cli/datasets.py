"""Data sets as they are chosen on the command line."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from emerdiff_probe.errors import InputError

__all__ = ["FIRST_SEED", "SCENES", "DatasetName", "dataset_of"]

FIRST_SEED: Final = 1_100_000
"""Seed of the first test scene. `--help` does not import `emerdiff_probe.scenes.TEST_START`."""


class DatasetName(StrEnum):
    """Data sets with the class of every pixel."""

    scenes_parts = "scenes-parts"
    scenes_objects = "scenes-objects"
    folder = "folder"
    ade20k = "ade20k"
    coco_stuff_27 = "coco-stuff-27"
    coco_stuff_171 = "coco-stuff-171"


SCENES: Final = (DatasetName.scenes_parts, DatasetName.scenes_objects)
"""Names of those that are drawn, not read."""


def dataset_of(
    name: DatasetName, root: Path | None, split: str | None, first_seed: int, count: int | None
) -> Any:
    """Return a data set.

    Args:
        name: Name of the data set.
        root: Its folder; scenes have none.
        split: Part of ADE20K or COCO-Stuff; by default the validation part.
        first_seed: First of scenes.
        count: Only so many pictures; by default all, of scenes 100.

    Raises:
        InputError: It is read from a folder, and there is none.
    """
    from emerdiff_probe import evaluation

    if name in SCENES:
        level: Any = name.value.removeprefix("scenes-")
        return evaluation.scene_dataset(range(first_seed, first_seed + (count or 100)), level)
    if root is None:
        raise InputError(f"--dataset {name} is read from a folder; give it with --root")
    if name is DatasetName.folder:
        whole = evaluation.plain_folder(root)
    elif name is DatasetName.ade20k:
        whole = evaluation.ade20k(root, split or "validation")
    else:
        classes: Any = int(name.value.rpartition("-")[2])
        whole = evaluation.coco_stuff(root, classes, split or "val2017")
    return whole.first(count) if count else whole
