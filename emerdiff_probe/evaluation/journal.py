"""Scores of segmentors over many scenes, kept scene by scene and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import pandas as pd
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from emerdiff_probe.errors import StoreError
from emerdiff_probe.evaluation.scoring import Segments, score
from emerdiff_probe.paths import made_at_once
from emerdiff_probe.scenes import Scene, scene
from emerdiff_probe.store import check_model

__all__ = ["SEGMENTS", "Journal", "Row", "Segmentor", "run"]

Segmentor = Callable[[Scene], dict[str, Segments]]
"""Segments a scene in several ways, by the method's name."""

SEGMENTS: Final = 12
"""Every method gets this many segments, since the scores rise with their number."""

Row = dict[str, Any]
"""Of a table."""

Piece = TypeVar("Piece")


class Journal:
    """Rows that a long computation has made so far, a line of JSON for each piece of it.

    Args:
        path: The file; made where there is none.
        identity: What the rows depend on, as JSON values; "model" may be a model's identity, which
            is compared up to rounding.

    Attributes:
        pieces: The rows of every piece, by its key.

    Raises:
        StoreError: The file holds rows of another identity.
        ConfigError: It holds rows of another model; gives both values of each difference.
    """

    def __init__(self, path: Path, identity: dict[str, object]) -> None:
        self._path = path
        wanted = json.dumps(identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        head, lines = self._begun(wanted)
        begun, asked = json.loads(head), json.loads(wanted)
        models = begun.get("model"), asked.get("model")
        if all(isinstance(each, dict) for each in models):
            check_model(*models, f"'{path}'", f"delete '{path}' to begin again")
            begun["model"] = asked["model"]
        if begun != asked:
            raise StoreError(
                f"'{path}' holds rows of {head}, not of {wanted}; delete it to begin anew"
            )
        self.pieces: dict[str, list[Row]] = {}
        for number, line in enumerate(lines, 2):
            try:
                key, rows = json.loads(line)
                self.pieces[key] = rows
            except (ValueError, TypeError) as error:
                raise StoreError(
                    f"'{path}' is damaged in line {number}; delete that line, and what it held is "
                    "computed again"
                ) from error

    def _begun(self, wanted: str) -> tuple[str, list[str]]:
        """The journal's first line, written where there is none, and all others that are whole."""
        path = self._path
        whole, _, cut = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        if not whole:  # nothing, or what was killed in its first line
            with made_at_once(path, replace=True) as new:
                new.write_text(f"{wanted}\n")
            return wanted, []
        if cut:
            # A line that was cut off in the writing has no end; its piece is made again. All that
            # is before it stays where it is, whatever happens now.
            with path.open("r+b") as file:
                file.truncate(len(whole) + 1)
        try:
            head, *lines = whole.decode().splitlines()
            if not isinstance(json.loads(head), dict):
                raise ValueError("it is no object")
        except ValueError as error:
            raise StoreError(
                f"'{path}' is damaged in its first line ({error}); delete it to begin anew"
            ) from error
        return head, lines

    def table(
        self,
        pieces: Mapping[str, Piece],
        compute: Callable[[Piece], list[Row]],
        *,
        processes: int = 1,
    ) -> pd.DataFrame:
        """The rows of some pieces, in their order; those that are missing are computed and noted.

        Args:
            pieces: By their keys.
            compute: Makes the rows of a piece.
            processes: How many pieces are computed at the same time, each with its share of the
                cores: on two cores two single threads do about a fifth more than two together.
        """
        left = {key: piece for key, piece in pieces.items() if key not in self.pieces}
        if left:
            parallel = Parallel(min(processes, len(left)), return_as="generator_unordered")
            jobs = (delayed(_keyed)(compute, *item) for item in left.items())
            for key, rows in tqdm(parallel(jobs), total=len(left), desc=self._path.stem):
                with self._path.open("a") as file:
                    file.write(json.dumps([key, rows]) + "\n")
                self.pieces[key] = rows
        return pd.DataFrame([row for key in pieces for row in self.pieces[key]])


def _keyed(compute: Callable[[Piece], list[Row]], key: str, piece: Piece) -> tuple[str, list[Row]]:
    return key, compute(piece)


def run(
    segmentor: Segmentor,
    scenes: list[tuple[int, bool]],
    journal: Journal,
    *,
    processes: int = 1,
) -> pd.DataFrame:
    """Scores a segmentor on scenes, keeping each scene's scores at once.

    Args:
        segmentor: What to score.
        scenes: Seeds, and whether it is the dissociation subset's scene.
        journal: Scenes that it holds are not computed again.
        processes: Scenes at the same time.

    Returns:
        A row for each scene and method: ``seed``, ``dissociation``, ``method`` and the metrics.
    """

    def scored(which: tuple[int, bool]) -> list[Row]:
        seed, subset = which
        subject = scene(seed, dissociation=subset)
        found = segmentor(subject)
        first = next(iter(found.values())).labels
        about = {"seed": seed, "dissociation": subset}
        return [
            about | {"method": method} | score(segments, subject, first)
            for method, segments in found.items()
        ]

    pieces = {f"{seed}{' dissociation' * subset}": (seed, subset) for seed, subset in scenes}
    return journal.table(pieces, scored, processes=processes)
