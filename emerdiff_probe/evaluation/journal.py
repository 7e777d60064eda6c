"""Score segmentors on many scenes; scores are kept scene by scene and resumed."""

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
"""Function that segments a scene in several ways, by the method's name."""

SEGMENTS: Final = 12
"""Number of segments of every method, since scores rise with it."""

Row = dict[str, Any]
"""Row of a table."""

Piece = TypeVar("Piece")


class Journal:
    """Keep the rows that a long computation has made so far, a line of JSON for each piece.

    Args:
        path: File of the journal; it is made if it does not exist.
        identity: What the rows depend on, as JSON values; "model" may be a model's identity, which
            is compared up to rounding.

    Attributes:
        pieces: Rows of every piece, by its key.

    Raises:
        StoreError: The file holds rows of another identity.
        ConfigError: It holds rows of another model; the message names both values of each
            difference.
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
                f"'{path}' holds rows of {head}, not of {wanted}; delete it to start again"
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
        """Write the journal's first line if it is new; return all other complete lines."""
        path = self._path
        whole, _, cut = path.read_bytes().rpartition(b"\n") if path.exists() else (b"", b"", b"")
        if not whole:  # nothing, or what was killed in its first line
            with made_at_once(path, replace=True) as new:
                new.write_text(f"{wanted}\n")
            return wanted, []
        if cut:
            # A line that was cut off while it was written has no end, and is computed again. All
            # lines before it stay where they are, whatever happens now.
            with path.open("r+b") as file:
                file.truncate(len(whole) + 1)
        try:
            head, *lines = whole.decode().splitlines()
            if not isinstance(json.loads(head), dict):
                raise ValueError("it is no object")
        except ValueError as error:
            raise StoreError(
                f"'{path}' is damaged in its first line ({error}); delete it to start again"
            ) from error
        return head, lines

    def table(
        self,
        pieces: Mapping[str, Piece],
        compute: Callable[[Piece], list[Row]],
        *,
        processes: int = 1,
    ) -> pd.DataFrame:
        """Return the rows of some pieces, in order; compute and note those that are missing.

        Args:
            pieces: Pieces by their keys.
            compute: Function that makes the rows of a piece.
            processes: Number of pieces to compute at the same time, each with its share of the
                cores. On two cores, two pieces of one thread are about a fifth faster than one
                piece of two.
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
    """Score a segmentor on scenes; each scene's scores are kept at once.

    Args:
        segmentor: Segmentor to score.
        scenes: Pairs of a seed and whether the scene belongs to the dissociation subset.
        journal: Journal of finished scenes, which are not computed again.
        processes: Number of scenes to run at the same time.

    Returns:
        Table with a row for each scene and method: ``seed``, ``dissociation``, ``method`` and the
        metrics.
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
