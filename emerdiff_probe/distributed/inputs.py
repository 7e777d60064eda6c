"""Inputs by their keys, as names and numbers: each is read where it is worked on."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, TypeAlias

from emerdiff_probe import scenes
from emerdiff_probe.distributed.archives import is_dataset, of_dataset, of_tar
from emerdiff_probe.distributed.items import Item
from emerdiff_probe.distributed.tables import TABLES, of_table
from emerdiff_probe.errors import InputError, closest
from emerdiff_probe.inputs import ENDINGS, Photo, as_input
from emerdiff_probe.paths import local

__all__ = ["FIRST_SEED", "SCENE_COUNT", "Inputs", "inputs_of", "of_scenes"]

Inputs: TypeAlias = "str | os.PathLike[str] | Iterable[tuple[str, Any]]"
"""Name of a folder, table, tar or scenes; a data set; or pairs of a key and an input."""

SCENES: Final = ("scenes-parts", "scenes-objects")
"""Names of the package's own scenes, as `emerdiff-probe evaluate` has them."""

FIRST_SEED: Final = scenes.TEST_START
SCENE_COUNT: Final = 100


def inputs_of(
    given: Inputs, *, first_seed: int = FIRST_SEED, count: int | None = None
) -> tuple[Item, ...]:
    """Return inputs by their keys.

    Args:
        given: A folder, whose images are taken in the order of their names; a table
            (``.csv``, ``.tsv``, ``.parquet``) with a column ``prompt`` or ``image``; WebDataset
            tars, as ``"part-*.tar"``; "scenes-parts" or "scenes-objects"; a Hugging Face data set
            with a column ``image`` or ``prompt``; or pairs of a key and an input, as
            `emerdiff_probe.inputs.as_input` takes it, or of a key and a function that reads it.
        first_seed: Seed of the first scene.
        count: Only so many inputs; by default all, and 100 scenes.

    Raises:
        InputError: It is something else, there are none, or two have the same key.
    """
    if isinstance(given, str) and given in SCENES:
        found: Iterable[tuple[str, Any]] = of_scenes(
            range(first_seed, first_seed + (count or SCENE_COUNT))
        )
    elif isinstance(given, str | os.PathLike):
        found = _of_path(local(given))
    elif is_dataset(given):
        found = of_dataset(given)
    else:
        found = given
    items = tuple(map(_item, islice(found, count)))
    if not items:
        raise InputError(f"there are no inputs in {_told(given)}; give at least one")
    twice = [key for key, times in Counter(each.key for each in items).items() if times > 1]
    if twice:
        raise InputError(
            f"{len(twice)} keys stand for several inputs ({closest('', twice)}); give each a key "
            "of its own"
        )
    return items


def of_scenes(seeds: Iterable[int]) -> Iterator[Item]:
    """Yield the package's own scenes, by their seeds.

    Args:
        seeds: Seeds of the scenes.
    """
    for seed in seeds:
        yield Item(str(seed), partial(_scene, int(seed)))


def _scene(seed: int) -> Photo:
    return Photo(scenes.scene(seed).image)


def _item(pair: Any) -> Item:
    if isinstance(pair, Item):
        return pair
    try:
        key, given = pair
    except (TypeError, ValueError):
        raise InputError(f"inputs are pairs of a key and an input, not {pair!r}") from None
    return Item(str(key), given if callable(given) else as_input(given))


def _of_path(path: Path) -> Iterator[Item]:
    path = path.absolute()
    if path.is_dir():
        return _of_folder(path)
    if path.suffix.lower() in TABLES and path.is_file():
        return of_table(path)
    tars = sorted(path.parent.glob(path.name)) if path.suffix.lower() == ".tar" else []
    if tars:
        return chain.from_iterable(map(of_tar, tars))
    raise InputError(
        f"no inputs '{path}'; give a folder of images, a table ({', '.join(TABLES)}), tars, or "
        f"one of {', '.join(SCENES)}"
    )


def _of_folder(folder: Path) -> Iterator[Item]:
    """Yield the images in a folder and the folders in it, by their names."""
    files = sorted(each for each in folder.rglob("*") if not each.is_dir())
    names = [each.relative_to(folder) for each in files]
    shown = [each for each in names if not any(part.startswith(".") for part in each.parts)]
    images = [each for each in shown if each.suffix.lower() in ENDINGS]
    if len(images) < len(shown):
        others = closest("", (each.as_posix() for each in shown if each not in set(images)))
        warnings.warn(
            f"{len(shown) - len(images)} files in '{folder}' are no images by their names and are "
            f"left out ({others})",
            stacklevel=4,
        )
    for name in images:
        yield Item(name.as_posix(), Photo(folder / name))


def _told(given: Inputs) -> str:
    return f"'{given}'" if isinstance(given, str | os.PathLike) else "what was given"
