"""Inputs from tables: a row each, with a prompt or the name of an image's file."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import pandas as pd

from emerdiff_probe.distributed.items import Item, refused
from emerdiff_probe.errors import InputError, ProbeError, first_line
from emerdiff_probe.inputs import Photo, Prompt, unique_names

__all__ = ["TABLES", "of_table"]

TABLES: Final = (".csv", ".tsv", ".parquet")
"""Endings of the names of tables."""

_TEXTS: Final = ("prompt", "caption", "text")
_NUMBERS: Final = ("seed", "height", "width", "clip_skip")
_FURTHER: Final = ("negative_prompt", *_NUMBERS)


def of_table(path: Path) -> Iterator[Item]:
    """Yield the rows of a table.

    Args:
        path: Table with a column ``prompt`` (or ``caption`` or ``text``), or ``image``, names of
            files beside the table. A column ``key`` names the rows, by default prompts and files
            do; of prompts ``seed``, ``negative_prompt``, ``height``, ``width`` and ``clip_skip``
            are read, too.

    Raises:
        InputError: It cannot be read, or has none of these columns.
    """
    rows = _read(path)
    column = next((name for name in ("image", *_TEXTS) if name in rows), None)
    if column is None:
        raise InputError(
            f"'{path}' has the columns {', '.join(map(repr, rows.columns))}; name one of them "
            "'prompt', or 'image' for names of files"
        )
    of_images = column == "image"
    read = {"key", column} | (set() if of_images else set(_FURTHER))
    if others := [str(name) for name in rows.columns if name not in read]:
        warnings.warn(f"columns of '{path}' are not read: {', '.join(others)}", stacklevel=5)
    keys = list(rows["key"]) if "key" in rows else unique_names(rows[column])
    for number, key in enumerate(keys):
        row = rows.iloc[number]
        if not row[column]:
            fault = f"row {number + 1} of '{path}' has no {column}"
            yield Item(key or f"row {number + 1}", partial(refused, fault))
        elif of_images:
            yield Item(key, Photo(path.parent / row[column]))
        else:
            yield Item(
                key, partial(_prompt, row[column], {k: row[k] for k in _FURTHER if k in row})
            )


def _prompt(text: str, further: Mapping[str, str]) -> Prompt:
    given: dict[str, Any] = {name: value for name, value in further.items() if value}
    try:
        given |= {name: int(given[name]) for name in _NUMBERS if name in given}
    except ValueError as error:
        raise InputError(f"{', '.join(_NUMBERS)} are whole numbers: {error}") from error
    return Prompt(text, **given)


def _read(path: Path) -> pd.DataFrame:
    """Return a table of texts, in which missing values are empty."""
    try:
        if path.suffix.lower() == ".parquet":
            table = pd.read_parquet(path)
            return table.map(lambda value: "" if pd.isna(value) else str(value))
        # Spreadsheets begin a text with a mark.
        form = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
        return pd.read_csv(path, sep="\t" if path.suffix.lower() == ".tsv" else ",", **form)
    except ImportError as error:
        raise InputError(f"'{path}' needs a reader of Parquet: pip install pyarrow") from error
    except ProbeError:
        raise
    except Exception as error:  # every format has kinds of its own
        raise InputError(
            f"'{path}' cannot be read as a table ({first_line(error)}); give CSV in UTF-8, with "
            "the names of the columns in its first line, or Parquet"
        ) from error
