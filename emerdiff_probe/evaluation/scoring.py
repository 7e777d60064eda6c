"""Score segmentations of scenes, and make tables of the scores with their uncertainty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.metrics import adjusted_rand, boundary_f, class_mean_miou, majority_class_miou
from emerdiff_probe.scenes import OBJECTS, PARTS, Scene

__all__ = ["METRICS", "Segments", "mean_with_interval", "paired", "score", "summary", "verdicts"]

METRICS = {
    "parts_miou": "majority-class mIoU, parts",
    "objects_miou": "majority-class mIoU, objects",
    "parts_class_mean": "class-mean mIoU, parts",
    "objects_class_mean": "class-mean mIoU, objects",
    "boundary_f": "boundary F, parts, 2 px",
    "ari": "ARI, parts",
    "agreement": "ARI with the first method",
}
"""Scores by column, in words."""


class Segments(NamedTuple):
    """Hold a segmentation of a scene.

    Attributes:
        labels: Segment of each pixel, integers (128, 128).
        embeddings: Embedding of the mask of each label (mask, channel); None where a method has
            none.
    """

    labels: NDArray[np.integer]
    embeddings: xr.DataArray | None = None


def score(segments: Segments, scene: Scene, first: NDArray[np.integer]) -> dict[str, float]:
    """Return all scores of one segmentation against the exact truth.

    Args:
        segments: Segmentation of the scene. Without embeddings its class-mean mIoU is NaN.
        scene: Scene that was segmented.
        first: Labels of a first method, to compare with.

    Returns:
        Scores by name, each in [0, 1] (the adjusted Rand index from -0.5 to 1).
    """
    labels = segments.labels
    truths = {"parts": (scene.parts, len(PARTS)), "objects": (scene.objects, len(OBJECTS))}
    scores: dict[str, float] = {
        f"{name}_miou": majority_class_miou(labels, truth, classes)
        for name, (truth, classes) in truths.items()
    }
    for name, (truth, classes) in truths.items():
        scores[f"{name}_class_mean"] = (
            float("nan")
            if segments.embeddings is None
            else class_mean_miou(labels, segments.embeddings, truth, classes)
        )
    return {
        **scores,
        "boundary_f": boundary_f(labels, scene.parts, 2.0),
        "ari": adjusted_rand(labels, scene.parts),
        "agreement": adjusted_rand(labels, first),
    }


def mean_with_interval(values: NDArray[np.floating], seed: int = 0) -> tuple[float, float, float]:
    """Return the mean and its 95 % interval, by percentile bootstrap (2,000 resamples)."""
    draws = np.random.RandomState(seed).randint(len(values), size=(2000, len(values)))
    low, high = np.percentile(values[draws].mean(1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def summary(scores: pd.DataFrame, metrics: Mapping[str, str] = METRICS) -> pd.DataFrame:
    """Return means over scenes, as text with 95 % intervals.

    Args:
        scores: Table with a row for each scene and method: ``seed``, ``method`` and the metrics.
        metrics: Columns, and their names in words.

    Returns:
        Table with a row for each method, in order of appearance, and a column for each metric.
    """
    rows = {}
    for method, group in scores.groupby("method", sort=False):
        row = {}
        for metric, words in metrics.items():
            row[words] = _in_words(group[metric], "{:.3f}")
        rows[method] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def verdicts(scores: pd.DataFrame, method: str) -> list[str]:
    """Return a sentence for every other method: in which metrics `method` is above or below it.

    "Above" and "below" are said where the 95 % interval of the difference, scene by scene, excludes
    zero.

    Args:
        scores: Table as for `summary`.
        method: Method to compare the others with.
    """
    sentences = []
    for other, differences in _differences(scores, method, METRICS, "seed"):
        found: dict[str, list[str]] = {"above": [], "below": [], "not told apart from": []}
        for metric, values in differences.items():
            if values.isna().all():
                continue
            _, low, high = mean_with_interval(values.to_numpy())
            which = "above" if low > 0 else "below" if high < 0 else "not told apart from"
            found[which].append(METRICS[metric])
        clauses = [f"{which} it in {'; '.join(names)}" for which, names in found.items() if names]
        sentences.append(f"**{other}**: {method} is {', and '.join(clauses)}.")
    return sentences


def paired(
    scores: pd.DataFrame, method: str, metrics: Mapping[str, str] = METRICS, by: str = "seed"
) -> pd.DataFrame:
    """Return how far a method exceeds every other, scene by scene, with 95 % intervals.

    Args:
        scores: Table as for `summary`.
        method: Method to compare the others with.
        metrics: Columns, and their names in words.
        by: Column that names a scene.
    """
    rows = {
        other: {metrics[name]: _in_words(values, "{:+.3f}") for name, values in each.items()}
        for other, each in _differences(scores, method, metrics, by)
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(f"{method} minus")


def _differences(
    scores: pd.DataFrame, method: str, metrics: Mapping[str, str], by: str
) -> Iterator[tuple[str, dict[str, pd.Series]]]:
    """Yield how far a method exceeds each other one on each scene, by metric."""
    wide = scores.pivot(index=by, columns="method", values=list(metrics))
    for other in scores["method"].unique():
        if other != method:
            yield (
                other,
                {
                    metric: wide[metric][method] - wide[metric][other]
                    for metric in metrics
                    if metric != "agreement"  # this already compares two methods
                },
            )


def _in_words(values: pd.Series, form: str) -> str:
    if values.isna().all():
        return "-"
    mean, low, high = map(form.format, mean_with_interval(values.dropna().to_numpy()))
    return f"{mean} [{low}, {high}]"
