"""Read images with the class of every pixel: scenes, your own folder, and published data sets.

Nothing is downloaded. Classes count from 0, and -1 marks a pixel that does not count.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from emerdiff_probe import scenes
from emerdiff_probe.errors import InputError
from emerdiff_probe.evaluation import cocostuff
from emerdiff_probe.inputs import Photo, damage_told, open_image
from emerdiff_probe.paths import local

__all__ = [
    "IGNORE",
    "Dataset",
    "Example",
    "ade20k",
    "coco_stuff",
    "plain_folder",
    "scene_dataset",
]

IGNORE: Final = -1
"""Class of pixels that do not count."""

_PICTURES: Final = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_VOID: Final = 255


class Example(NamedTuple):
    """Hold an image and its truth.

    Attributes:
        picture: Image, uint8 (y, x, rgb).
        truth: Class of each pixel, int16 (y, x), from 0, or `IGNORE`.
    """

    picture: NDArray[np.uint8]
    truth: NDArray[np.int16]


@dataclass(frozen=True)
class Dataset:
    """Describe images with truth, read one by one.

    Attributes:
        name: Name, with all that decides which images and classes these are.
        classes: Names of the classes.
        keys: Keys of the images, in order.
        load: Function from a key to its example.
        problem: Function from a key to what is wrong with the image, found without reading its
            pixels; "" if nothing is.
    """

    name: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    load: Callable[[str], Example]
    problem: Callable[[str], str]

    def first(self, count: int) -> Dataset:
        """Return a data set of only the first images."""
        return replace(self, keys=self.keys[:count])

    def problems(self) -> dict[str, str]:
        """Return what is wrong with each unusable image, by key."""
        found = ((key, self.problem(key)) for key in self.keys)
        return {key: text for key, text in found if text}


def scene_dataset(
    seeds: Iterable[int],
    level: Literal["parts", "objects"] = "parts",
    *,
    dissociation: bool = False,
) -> Dataset:
    """Return the package's own scenes.

    Args:
        seeds: Seeds of the scenes.
        level: Level of the classes: "parts" for `scenes.PARTS`, "objects" for `scenes.OBJECTS`.
        dissociation: Whether to take the subset in which colour tells nothing.

    Raises:
        InputError: The level does not exist.
    """
    if level not in ("parts", "objects"):
        raise InputError(f"scenes have no level {level!r}; choose 'parts' or 'objects'")

    def load(key: str) -> Example:
        made = scenes.scene(int(key), dissociation=dissociation)
        return Example(made.image, getattr(made, level).astype(np.int16))

    return Dataset(
        f"scenes, {level}" + ", dissociation" * dissociation,
        scenes.PARTS if level == "parts" else scenes.OBJECTS,
        tuple(str(seed) for seed in seeds),
        load,
        lambda key: "",
    )


def plain_folder(root: Path) -> Dataset:
    """Read your own images and label maps.

    Args:
        root: Folder with ``images/``, ``labels/`` with a PNG of the same name for each image, and
            ``classes.csv``. Its columns are ``name`` and ``index``, the value of a pixel; or
            ``name``, ``red``, ``green`` and ``blue``, where label maps are coloured. Values that it
            does not list, such as 255 in indexed maps, do not count.

    Raises:
        InputError: A part of it is missing, or the table has another form.
    """
    root = local(root)
    table = root / "classes.csv"
    _there(table.is_file(), table, "the names of the classes")
    try:
        # Spreadsheets begin a text with a mark.
        rows = list(csv.DictReader(table.read_text("utf-8-sig").splitlines()))
        names = tuple(row["name"] for row in rows)
        coloured = bool(rows) and "red" in rows[0]
        columns = ("red", "green", "blue") if coloured else ("index",)
        values = np.array([[int(row[column]) for column in columns] for row in rows])
        if not rows or values.min() < 0 or values.max() > 2**16 - 1:
            raise ValueError("no row, or a value that no pixel can have")
        if len(np.unique(values, axis=0)) < len(values):
            raise ValueError("two classes have the same value")
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise InputError(
            f"'{table}' cannot be read ({error!r}); give columns name,index or "
            "name,red,green,blue, with whole numbers, and a row for each class, in UTF-8"
        ) from error
    decode = partial(_from_colours if coloured else _from_values, known=values)
    return _paired(f"folder {root.name}", names, root / "images", root / "labels", decode)


def ade20k(root: Path, split: str = "validation") -> Dataset:
    """Read ADE20K with 150 classes, as the scene parsing benchmark publishes it.

    Args:
        root: Folder ``ADEChallengeData2016``, with ``images/``, ``annotations/`` and
            ``objectInfo150.txt``; in the label maps 0 is "other", which does not count.
        split: Part to read, ``validation`` or ``training``.

    Raises:
        InputError: A part of the folder is missing.

    Source: Zhou et al., CVPR 2017.
    """
    root = local(root)
    info = root / "objectInfo150.txt"
    _there(info.is_file(), info, "the names of the classes")
    text = info.read_text("utf-8", "replace")
    lines = [line.split("\t") for line in text.splitlines()[1:] if line.strip()]
    names = tuple(line[-1].split(",")[0].strip() for line in lines)
    if len(names) != 150:
        raise InputError(f"'{info}' names {len(names)} classes, not 150; take the published file")
    decode = partial(_from_values, known=np.arange(1, 151)[:, None])
    folders = root / "images" / split, root / "annotations" / split
    return _paired(f"ADE20K-150 {split}", names, *folders, decode)


def coco_stuff(
    root: Path,
    classes: Literal[27, 171] = 171,
    split: str = "val2017",
    keys: Sequence[str] | None = None,
) -> Dataset:
    """Read COCO-Stuff, with all classes or their groups.

    Args:
        root: Folder with ``val2017/`` (or ``images/val2017/``) and
            ``stuffthingmaps_trainval2017/val2017/`` (or ``annotations/val2017/``).
        classes: 171 for all classes, 27 for the groups that unsupervised segmentation is scored on.
        split: Part to read, ``val2017`` or ``train2017``.
        keys: Names, without ending, of the images to read; by default all. Unsupervised work uses
            published lists of a part.

    Raises:
        InputError: A part of the folder is missing, the number of classes is neither, or a key has
            no image.

    Source: Caesar, Uijlings and Ferrari, CVPR 2018 (arXiv 1612.03716).
    """
    if classes not in (27, 171):
        raise InputError(f"classes={classes}; choose 171, or 27 for the groups of COCO-Stuff")
    root = local(root)
    images = _one_of(root / split, root / "images" / split)
    labels = _one_of(root / "stuffthingmaps_trainval2017" / split, root / "annotations" / split)
    meaning = np.full(256, IGNORE, np.int16)
    if classes == 171:
        meaning[cocostuff.FINE] = np.arange(171)
        names = tuple(cocostuff.NAMES[value] for value in cocostuff.FINE)
    else:
        meaning[: len(cocostuff.GROUP_OF)] = cocostuff.GROUP_OF
        names = cocostuff.GROUPS
    dataset = _paired(
        f"COCO-Stuff-{classes} {split}", names, images, labels, partial(_looked_up, table=meaning)
    )
    if keys is None:
        return dataset
    if unknown := sorted(set(keys) - set(dataset.keys)):
        raise InputError(
            f"'{images}' has no picture {', '.join(map(repr, unknown[:3]))}; give names of files "
            "without their ending"
        )
    return replace(dataset, name=f"{dataset.name}, {len(keys)} chosen", keys=tuple(keys))


_Decode = Callable[[Image.Image], NDArray[np.int16]]


def _paired(
    name: str, classes: tuple[str, ...], images: Path, labels: Path, decode: _Decode
) -> Dataset:
    """Return a data set of pictures in one folder, and PNGs of the same names in another."""
    for folder, what in ((images, "pictures"), (labels, "label maps")):
        _there(folder.is_dir(), folder, what)
    files: dict[str, Path] = {}
    for path in sorted(images.iterdir()):
        if path.suffix.lower() in _PICTURES:
            other = files.setdefault(path.stem, path)
            if other != path:
                raise InputError(
                    f"'{images}' has two pictures for the labels '{path.stem}.png': {other.name} "
                    f"and {path.name}; keep one of them"
                )
    if not files:
        raise InputError(f"'{images}' has no pictures; put in some of {', '.join(_PICTURES)}")

    def load(key: str) -> Example:
        path = labels / f"{key}.png"
        with damage_told(f"'{path}'"), open_image(path) as image:
            truth = decode(image)
        return Example(Photo(files[key]).rgb(), truth)

    def problem(key: str) -> str:
        path = labels / f"{key}.png"
        if not path.is_file():
            return f"no labels '{path}'"
        try:
            sizes = [_size(files[key]), _size(path)]
        except InputError as error:
            return str(error)
        if sizes[0] != sizes[1]:
            return f"the picture has {sizes[0]} pixels (width, height) and its labels {sizes[1]}"
        return ""

    return Dataset(name, classes, tuple(files), load, problem)


def _size(path: Path) -> tuple[int, int]:
    """Return width and height, as the picture is shown."""
    with damage_told(f"'{path}'"), open_image(path) as image:
        turned = image.getexif().get(ExifOrientation, 1) >= 5
        return (image.height, image.width) if turned else image.size


ExifOrientation: Final = 0x0112


def _values(image: Image.Image) -> NDArray[np.integer]:
    """Return the values of a label map: indices of a palette, or levels of grey."""
    turned = ImageOps.exif_transpose(image)
    if turned.mode not in ("P", "L", "I", "I;16", "1"):
        raise InputError(
            f"a label map has mode {turned.mode}, not one value for each pixel; for coloured maps "
            "give their colours in classes.csv"
        )
    return np.array(turned).astype(np.int32)


def _from_values(image: Image.Image, known: NDArray[np.integer]) -> NDArray[np.int16]:
    table = np.full(2**16, IGNORE, np.int16)
    table[known[:, 0]] = np.arange(len(known))
    return table[_values(image)]


def _from_colours(image: Image.Image, known: NDArray[np.integer]) -> NDArray[np.int16]:
    colours = np.array(ImageOps.exif_transpose(image).convert("RGB")).astype(np.int32)
    codes = colours @ [1 << 16, 1 << 8, 1]
    wanted = known @ [1 << 16, 1 << 8, 1]
    order = np.argsort(wanted)
    places = np.searchsorted(wanted[order], codes).clip(max=len(wanted) - 1)
    return np.where(wanted[order][places] == codes, order[places], IGNORE).astype(np.int16)


def _looked_up(image: Image.Image, table: NDArray[np.int16]) -> NDArray[np.int16]:
    return table[_values(image)]


def _one_of(*folders: Path) -> Path:
    for folder in folders:
        if folder.is_dir():
            return folder
    raise InputError(
        f"none of these folders exists: {', '.join(map(repr, map(str, folders)))}; see the data "
        "set's layout"
    )


def _there(found: bool, path: Path, what: str) -> None:
    if not found:
        raise InputError(f"'{path}' with {what} is missing; see the data set's layout")
