"""Inputs from WebDataset tars and Hugging Face data sets, read one by one where they are needed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

from PIL import Image

from emerdiff_probe.distributed.items import Item
from emerdiff_probe.errors import InputError
from emerdiff_probe.inputs import ENDINGS, Input, Photo, Prompt, as_input, damage_told

__all__ = ["is_dataset", "of_dataset", "of_tar"]

_COLUMNS: Final = ("image", "img", "picture", "prompt", "caption", "text")


def of_tar(path: Path) -> Iterator[Item]:
    """Yield the samples of a WebDataset tar: its images, or texts where a sample has no image.

    Args:
        path: The tar, not compressed. Files with one name before the first dot are one sample.

    Raises:
        InputError: It cannot be read.
    """
    found: dict[str, tarfile.TarInfo] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                key = f"{folder}/{name.partition('.')[0]}".strip("/")
                usable = member.isfile() and name.lower().endswith((*ENDINGS, ".txt"))
                if usable and (key not in found or found[key].name.endswith(".txt")):
                    found[key] = member
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"'{path}' cannot be read as a tar ({error}); unpack it if it is compressed"
        ) from error
    for key, member in found.items():
        read = partial(_member, path, member.name, member.offset_data, member.size)
        yield Item(key, read)


def _member(path: Path, name: str, offset: int, size: int) -> Input:
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read(size)
    if name.endswith(".txt"):
        return Prompt(content.decode(errors="replace").strip())
    with damage_told(f"'{name}' in '{path}'"):
        return Photo(Photo(Image.open(io.BytesIO(content))).rgb())


def is_dataset(given: Any) -> bool:
    """Return whether an object is a data set of Hugging Face's `datasets`."""
    return hasattr(given, "column_names") and hasattr(given, "__getitem__")


def of_dataset(data: Any) -> Iterator[Item]:
    """Yield the rows of a Hugging Face data set: its images, or prompts where it has none.

    Args:
        data: Data set with a column ``image``, ``prompt``, ``caption`` or ``text``. Workers read
            it, so that it is one that was loaded from files which they have.

    Raises:
        InputError: It has none of these columns.
    """
    column = next((name for name in _COLUMNS if name in data.column_names), None)
    if column is None:
        raise InputError(
            f"the data set has the columns {', '.join(map(repr, data.column_names))}; rename one "
            f"of them to one of {', '.join(_COLUMNS)}"
        )
    for number in range(len(data)):
        yield Item(str(number), partial(_row, data, number, column))


def _row(data: Any, number: int, column: str) -> Input:
    return as_input(data[number][column])
