"""Scores of segmentations of scenes, and tables of them with their uncertainty."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emerdiff_probe import analysis
from emerdiff_probe.scenes import OBJECTS, PARTS, Scene

__all__ = ["METRICS", "mean_with_interval", "paired", "score", "summary"]

METRICS = {
    "parts_miou": "majority-class mIoU, parts",
    "objects_miou": "majority-class mIoU, objects",
    "boundary_f": "boundary F, parts, 2 px",
    "ari": "ARI, parts",
}
"""The scores by column, in words."""


def score(labels: NDArray[np.integer], scene: Scene) -> dict[str, float]:
    """All scores of one segmentation against the exact truth, each in [0, 1] (ARI: at most 1).

    Args:
        labels: Segments, shape (128, 128).
        scene: The scene that was segmented.
    """
    return {
        "parts_miou": analysis.majority_class_miou(labels, scene.parts, len(PARTS)),
        "objects_miou": analysis.majority_class_miou(labels, scene.objects, len(OBJECTS)),
        "boundary_f": analysis.boundary_f(labels, scene.parts, 2.0),
        "ari": analysis.adjusted_rand(labels, scene.parts),
    }


def mean_with_interval(values: NDArray[np.floating], seed: int = 0) -> tuple[float, float, float]:
    """The mean and its 95 % interval by percentile bootstrap over scenes (2,000 resamples)."""
    draws = np.random.RandomState(seed).randint(len(values), size=(2000, len(values)))
    low, high = np.percentile(values[draws].mean(1), (2.5, 97.5))
    return float(values.mean()), float(low), float(high)


def summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Means over scenes, as text with 95 % intervals.

    Args:
        scores: One row for each scene and method: ``seed``, ``method`` and the metrics.

    Returns:
        A row for each method, in order of appearance, and a column for each metric.
    """
    rows = {}
    for method, group in scores.groupby("method", sort=False):
        row = {}
        for metric, words in METRICS.items():
            mean, low, high = mean_with_interval(group[metric].to_numpy())
            row[words] = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
        rows[method] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def paired(scores: pd.DataFrame, method: str) -> pd.DataFrame:
    """How much a method exceeds every other, scene by scene, with 95 % intervals.

    Args:
        scores: As for `summary`.
        method: The method that the others are compared with.
    """
    wide = scores.pivot(index="seed", columns="method", values=list(METRICS))
    rows = {}
    for other in scores["method"].unique():
        if other == method:
            continue
        row = {}
        for metric, words in METRICS.items():
            gain = (wide[metric][method] - wide[metric][other]).to_numpy()
            mean, low, high = mean_with_interval(gain)
            row[words] = f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"
        rows[other] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(f"{method} minus")
