"""Score methods on a data set with every protocol; results are kept and resumed."""

from __future__ import annotations

import contextlib
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError, closest
from emerdiff_probe.evaluation.datasets import IGNORE, Dataset
from emerdiff_probe.evaluation.drawings import draw
from emerdiff_probe.evaluation.journal import Journal, Row
from emerdiff_probe.evaluation.protocols import OVER_DATASET, PER_PICTURE, Counted, Judged
from emerdiff_probe.evaluation.scoring import Segments, paired, summary
from emerdiff_probe.metrics import Confusion
from emerdiff_probe.paths import local
from emerdiff_probe.schema import CHANNEL, MASK

__all__ = [
    "PROTOCOLS",
    "USUAL",
    "Evaluation",
    "Method",
    "counted",
    "drawing",
    "evaluate",
    "evaluation_of",
    "scored",
]

Method = Callable[[NDArray[np.uint8]], Mapping[str, Segments]]
"""Function that segments an image (y, x, rgb) in one or several ways, by name."""

PROTOCOLS: Final = (*PER_PICTURE, *OVER_DATASET)
"""Names of all protocols."""

USUAL: Final = ("majority-class", "image-hungarian", "class-mean", "boundary-f", "ari")
"""Names of the protocols that are used where none are named."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Hold the scores of methods on a data set.

    Attributes:
        dataset: Name of the data set.
        pictures: Table with a row for each image and method: ``picture``, ``method``, ``segments``,
            and the scores by protocol.
        over_dataset: Table with a row for each method and a column for each protocol over the whole
            data set. These have no intervals.
        skipped: What was wrong with each image that was left out, by key.
    """

    dataset: str
    pictures: pd.DataFrame
    over_dataset: pd.DataFrame
    skipped: Mapping[str, str]

    @property
    def protocols(self) -> list[str]:
        """Return the names of the protocols of single images."""
        return [name for name in PER_PICTURE if name in self.pictures]

    def summary(self) -> pd.DataFrame:
        """Return means over images with 95 % bootstrap intervals, and data set scores, as text."""
        means = summary(self.pictures, {name: name for name in self.protocols})
        return means.join(self.over_dataset.map("{:.3f}".format))

    def paired(self, method: str) -> pd.DataFrame:
        """Return how far a method exceeds every other, image by image, with 95 % intervals.

        Raises:
            InputError: The method does not exist.
        """
        methods = self.pictures["method"].unique()
        if method not in methods:
            raise InputError(f"no method {method!r}; {closest(method, methods)}")
        metrics = {name: name for name in self.protocols}
        return paired(self.pictures, method, metrics, by="picture")


def evaluate(
    method: Method,
    dataset: Dataset,
    protocols: Sequence[str] = USUAL,
    *,
    kept: Path | None = None,
    identity: Mapping[str, object] | None = None,
    skip: bool = False,
    drawn: bool = False,
    processes: int = 1,
) -> Evaluation:
    """Score methods on a data set.

    Memory holds one image at a time (one for each process). The scores of each are kept at once,
    with what the scores over the data set need.

    Args:
        method: Function that returns the segments of an image, by each method's name. Labels of
            another size than the image are refused.
        dataset: Images and their truth.
        protocols: Names from `PROTOCOLS`.
        kept: Folder for finished parts, from which the same call resumes. Without it an interrupted
            evaluation starts again.
        identity: All that the method's results depend on, as JSON values, such as ``{"model":
            identity(model)}`` (`emerdiff_probe.models.identity`); a folder with results of another
            identity is refused.
        skip: Leaves out pictures that are damaged or whose labels are, or are missing, of another
            size or without a pixel that counts, and reports them. Otherwise they are an error.
        drawn: Writes each image with its truth and its segments into ``kept``, to the file that
            `drawing` names.
        processes: Number of images to run at the same time.

    Raises:
        InputError: A protocol does not exist, an image cannot be used, labels have another size, or
            ``drawn`` is asked for without ``kept``.
        StoreError: ``kept`` holds results with another identity.
    """
    if unknown := [name for name in protocols if name not in PROTOCOLS]:
        raise InputError(f"no protocol {unknown[0]!r}; {closest(unknown[0], PROTOCOLS)}")
    if drawn and kept is None:
        raise InputError("drawn=True writes images; say where, with kept=Path('evaluation')")
    problems = dataset.problems()
    if problems and not skip:
        raise InputError(f"{_told(problems)}; mend them, or leave them out with skip=True")
    usable = [key for key in dataset.keys if key not in problems]
    if not usable:
        raise InputError(f"'{dataset.name}' has no picture that can be used")
    with contextlib.ExitStack() as stack:
        folder = local(kept) if kept else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        about = {"dataset": dataset.name, "protocols": list(protocols), **(identity or {})}
        if drawn:  # of a folder that was begun without, some drawings would be missing
            about["drawn"] = True
        journal = Journal(folder / "scores.jsonl", about)
        task = partial(scored, method, dataset, tuple(protocols), folder, skip, drawn)
        table = journal.table({key: key for key in usable}, task, processes=processes)
        if "problem" in table:
            late = table[table["problem"].notna()]
            problems |= dict(zip(late["picture"], late["problem"], strict=True))
            table = table[table["problem"].isna()].drop(columns="problem").reset_index(drop=True)
        if table.empty:
            raise InputError(f"'{dataset.name}' has no picture that can be used")
        return Evaluation(dataset.name, table, _over_dataset(table, protocols, folder), problems)


def evaluation_of(
    name: str, rows: Sequence[Row], protocols: Sequence[str], folder: Path
) -> Evaluation:
    """Return the scores of images that `scored` has scored, each by itself.

    Args:
        name: Name of the data set.
        rows: Rows of all images.
        protocols: Names from `PROTOCOLS`.
        folder: Folder that `scored` was given.
    """
    table = pd.DataFrame(rows)
    return Evaluation(name, table, _over_dataset(table, protocols, folder), {})


def scored(
    method: Method,
    dataset: Dataset,
    protocols: Sequence[str],
    folder: Path,
    skip: bool,
    drawn: bool,
    key: str,
) -> list[Row]:
    """Return the rows of one image; keep what the scores over the data set need.

    Args:
        method: Function that segments an image.
        dataset: Data set that has the image.
        protocols: Names from `PROTOCOLS`.
        folder: Folder for what is kept.
        skip: Whether an image that cannot be used gives a row that says so, and no error.
        drawn: Whether the image is drawn.
        key: Key of the image.

    Raises:
        InputError: The image cannot be used.
    """
    try:
        picture, truth = dataset.load(key)
        if not (truth != IGNORE).any():
            raise InputError("no pixel of its labels counts")
    except InputError as error:
        if not skip:
            raise InputError(f"'{key}': {error}; leave it out with skip=True") from error
        return [{"picture": key, "problem": str(error)}]
    rows: list[Row] = []
    kept: dict[str, NDArray[Any]] = {}
    labels: dict[str, NDArray[np.integer]] = {}
    for name, segments in method(picture).items():
        if segments.labels.shape != truth.shape:
            raise InputError(
                f"{name} returns labels of shape {segments.labels.shape} for '{key}', whose "
                f"picture has {truth.shape}; resize them to it by nearest neighbour"
            )
        confusion = Confusion.of(segments.labels, truth, len(dataset.classes), IGNORE)
        judged = Judged(segments, truth, confusion)
        scores = {
            protocol: float(PER_PICTURE[protocol](judged))
            for protocol in protocols
            if protocol in PER_PICTURE
        }
        count = len(np.unique(segments.labels))
        rows.append({"picture": key, "method": name, "segments": count, **scores})
        first = next(iter(scores.values()), None)
        labels[name if first is None else f"{name} {first:.3f}"] = segments.labels
        if segments.embeddings is not None:
            used = np.flatnonzero(confusion.counts.sum(1))  # segments with pixels that count
            points = segments.embeddings.transpose(MASK, CHANNEL).values
            if used[-1] >= len(points):
                raise InputError(
                    f"{name} gives label {used[-1]} of '{key}' no embedding; there are "
                    f"{len(points)}"
                )
            kept[f"{name}/counts"] = confusion.counts[used]
            kept[f"{name}/embeddings"] = points[used]
    if set(protocols) & set(OVER_DATASET):
        path = _path(folder, "counted", key, ".npz")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, allow_pickle=False, **kept)
    if drawn:
        draw(drawing(folder, key), picture, truth, labels)
    return rows


def drawing(folder: Path, key: str) -> Path:
    """Return the file in which an evaluation draws an image with its truth and its segments.

    Args:
        folder: Folder of the evaluation.
        key: Key of the image.
    """
    return _path(folder, "drawings", key, ".png")


def _over_dataset(table: pd.DataFrame, protocols: Sequence[str], folder: Path) -> pd.DataFrame:
    """Return a row for each method and a column for each protocol over the data set."""
    names = [name for name in protocols if name in OVER_DATASET]
    scores = {}
    for method, rows in table.groupby("method", sort=False):
        pictures = partial(counted, folder, list(rows["picture"]), method)
        scores[method] = {name: float(OVER_DATASET[name](pictures)) for name in names}
    return pd.DataFrame.from_dict(scores, orient="index", columns=names).rename_axis("method")


def counted(folder: Path, keys: Iterable[str], method: str) -> Iterator[Counted]:
    """Yield what an evaluation kept of a method's segments for scores over a data set.

    Args:
        folder: Folder of the evaluation.
        keys: Keys of the images.
        method: Name of the method; nothing was kept of one without embeddings.
    """
    for key in keys:
        with np.load(_path(folder, "counted", key, ".npz"), allow_pickle=False) as arrays:
            if f"{method}/counts" in arrays:
                yield Counted(arrays[f"{method}/counts"], arrays[f"{method}/embeddings"])


def _path(folder: Path, kind: str, key: str, ending: str) -> Path:
    # Names of a user's files can hold any character; a number cannot.
    return folder / kind / f"{key[:80]}-{zlib.crc32(key.encode()):08x}{ending}"


def _told(problems: Mapping[str, str]) -> str:
    first = "; ".join(f"'{key}': {text}" for key, text in list(problems.items())[:3])
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return f"{len(problems)} pictures cannot be used: {first}{more}"
