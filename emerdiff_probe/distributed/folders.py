"""Results of many inputs in one folder: a part each, a table, and what all were made with."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pandas as pd

from emerdiff_probe.distributed.items import Item
from emerdiff_probe.distributed.jobs import Job
from emerdiff_probe.distributed.team import Team, Work
from emerdiff_probe.errors import StoreError, check_unchanged
from emerdiff_probe.paths import Held, is_free, made_at_once
from emerdiff_probe.store import check_model

__all__ = ["TABLE", "Folder", "in_folder", "part_name"]

SETTINGS: Final = "settings.json"
"""File of a folder: what its results were made with."""

TABLE: Final = "table.csv"
"""File of a folder: what became of each input."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}(\.[A-Za-z0-9]{1,5})?")


def part_name(key: str) -> str:
    """Return the name of an input's part of a folder; no two keys have the same.

    >>> part_name("cat.jpg"), part_name("cats/1.jpg")
    ('cat.jpg', 'cats-1-jpg-f4272a1d')
    """
    if _PLAIN.fullmatch(key) and key not in (SETTINGS, TABLE):
        return key
    words = "-".join(re.findall(r"[A-Za-z0-9]+", key))[:60]
    return f"{words or 'input'}-{zlib.crc32(key.encode(errors='replace')):08x}"


class Folder:
    """A folder that is held by all who put results into it.

    Args:
        path: The folder.

    Raises:
        StoreError: It is something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = Held(path, shared=True)
        if not is_free(path) and not (path / SETTINGS).is_file():
            self._held.close()
            raise StoreError(
                f"'{path}' holds no results of ep.map(), as it has no {SETTINGS}; choose another "
                "folder"
            )
        if (path / SETTINGS).is_file():
            self._held.share()  # others need not wait until the model is loaded

    def agree(self, about: Mapping[str, Any], model: Mapping[str, Any] | None) -> None:
        """Note what results are made with, or see that those that are there were made so.

        Args:
            about: Task and settings, fit for JSON.
            model: Identity of the model; None where nothing is left to do with one.

        Raises:
            ConfigError: They were made with something else; gives both values of each difference.
        """
        file = self.path / SETTINGS
        asked = json.loads(json.dumps({**about, "model": model}))
        if self._held.alone and not file.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            with made_at_once(file, replace=True) as new:
                new.write_text(json.dumps(asked, indent=1))
        try:
            begun = json.loads(file.read_text())
            stored = begun.pop("model")
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise StoreError(
                f"'{file}' is damaged or lost ({error}); delete '{self.path}' to make all again"
            ) from error
        what, instead = f"'{self.path}'", "choose another folder"
        check_unchanged(begun, {k: v for k, v in asked.items() if k != "model"}, what, instead)
        if model is not None:
            check_model(stored, asked["model"], what, instead)
        self._held.share()

    def table(self, items: Sequence[Item], done: Callable[[str], bool]) -> pd.DataFrame:
        """Return what became of inputs: ``key``, ``part``, ``state`` and ``reason``."""
        reasons: dict[str, str] = {}
        for file in self.path.parent.glob(f"{self.path.name}.failures*.csv"):
            told = pd.read_csv(file, dtype=str, keep_default_na=False)
            reasons |= dict(zip(told["key"], told["reason"], strict=True))
        rows = []
        for item in items:
            there, fault = done(item.key), reasons.get(item.key, "")
            state = "done" if there else "failed" if fault else "missing"
            fault = "" if there else fault
            rows.append(
                {"key": item.key, "part": part_name(item.key), "state": state, "reason": fault}
            )
        return pd.DataFrame(rows)

    def last(self) -> bool:
        """Return whether all others have ended."""
        return self._held.last()

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()


@contextmanager
def in_folder(
    items: Sequence[Item],
    part: Sequence[Item],
    out: Path,
    team: Team,
    *,
    about: Mapping[str, Any],
    work: Callable[[Item], Work],
    done: Callable[[str], bool],
    ended: Callable[[], object] = lambda: None,
) -> Iterator[Job]:
    """Yield what is left of work whose results are parts of a folder; write the table at the end.

    Args:
        items: All inputs.
        part: Those to work on here.
        out: The folder.
        team: Who works.
        about: Task and settings, fit for JSON.
        work: What is done with an input.
        done: Whether the part of a key is there.
        ended: Called by the last who works, when the table is written.
    """
    with Folder(out) as folder:
        left = {item.key: work(item) for item in part if not done(item.key)}
        folder.agree(about, _identity(team) if left else None)
        yield Job(left, {})
        if folder.last():
            with made_at_once(out / TABLE, replace=True) as new:
                folder.table(items, done).to_csv(new, index=False)
            ended()


def _identity(team: Team) -> dict[str, Any]:
    ((_, found),) = team.run([("model", _identified)])
    if isinstance(found, Exception):
        raise found
    return found


def _identified(model: Any) -> dict[str, Any]:
    from emerdiff_probe.models import as_model
    from emerdiff_probe.models.identity import identity

    return identity(as_model(model))
