"""Scores of segmentors over many scenes, kept scene by scene and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pandas as pd
from tqdm.auto import tqdm

from emerdiff_probe.errors import StoreError
from emerdiff_probe.evaluation.scoring import Segments, score
from emerdiff_probe.scenes import Scene, scene

__all__ = ["SEGMENTS", "Journal", "Row", "Segmentor", "run"]

Segmentor = Callable[[Scene], dict[str, Segments]]
"""Segments a scene in several ways, by the method's name."""

SEGMENTS: Final = 12
"""Every method gets this many segments, since the scores rise with their number."""

Row = dict[str, Any]
"""Of a table."""


class Journal:
    """Rows that a long computation has made so far, a line of JSON for each piece of it.

    Args:
        path: The file; made where there is none.
        identity: What the rows depend on, as JSON values.

    Attributes:
        pieces: The rows of every piece, by its key.

    Raises:
        StoreError: The file holds rows of another identity.
    """

    def __init__(self, path: Path, identity: dict[str, object]) -> None:
        self._path = path
        wanted = json.dumps(identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_text(f"{wanted}\n")
        # A line that was cut off in the writing has no end; its piece is made again.
        head, *lines = path.read_text().rpartition("\n")[0].splitlines()
        if head != wanted:
            raise StoreError(
                f"'{path}' holds rows of {head}, not of {wanted}; delete it to begin anew"
            )
        path.write_text("".join(f"{line}\n" for line in [head, *lines]))
        self.pieces: dict[str, list[Row]] = dict(map(json.loads, lines))

    def add(self, key: str, rows: list[Row]) -> None:
        """Notes the rows of a piece at once."""
        with self._path.open("a") as file:
            file.write(json.dumps([key, rows]) + "\n")
        self.pieces[key] = rows

    def table(self, keys: list[str]) -> pd.DataFrame:
        """All rows of some pieces, in their order."""
        return pd.DataFrame([row for key in keys for row in self.pieces[key]])


def run(segmentor: Segmentor, scenes: list[tuple[int, bool]], journal: Journal) -> pd.DataFrame:
    """Scores a segmentor on scenes, keeping each scene's scores at once.

    Args:
        segmentor: What to score.
        scenes: Seeds, and whether it is the dissociation subset's scene.
        journal: Scenes that it holds are not computed again.

    Returns:
        A row for each scene and method: ``seed``, ``dissociation``, ``method`` and the metrics.
    """
    keys = {f"{seed}{' dissociation' * subset}": (seed, subset) for seed, subset in scenes}
    left = [key for key in keys if key not in journal.pieces]
    for key in tqdm(left, desc="scenes", unit="scene"):
        seed, subset = keys[key]
        subject = scene(seed, dissociation=subset)
        found = segmentor(subject)
        first = next(iter(found.values())).labels
        about = {"seed": seed, "dissociation": subset}
        journal.add(
            key,
            [
                about | {"method": method} | score(segments, subject, first)
                for method, segments in found.items()
            ],
        )
    return journal.table(list(keys))
