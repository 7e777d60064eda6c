"""Define the protocols that score segmentations: of each image, and of a whole data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from emerdiff_probe.evaluation.datasets import IGNORE
from emerdiff_probe.evaluation.scoring import Segments
from emerdiff_probe.metrics import (
    ClassMeans,
    Confusion,
    Score,
    achievable_accuracy,
    adjusted_mutual_information,
    adjusted_rand,
    boundary_f,
    boundary_iou,
    class_mean_miou,
    dataset_hungarian_miou,
    image_hungarian_classes,
    mean_best_overlap,
    miou,
    normalised_mutual_information,
    pixel_accuracy,
    present_miou,
)
from emerdiff_probe.schema import CHANNEL, MASK

__all__ = ["OVER_DATASET", "PER_PICTURE", "Counted", "Judged"]


class Judged(NamedTuple):
    """Hold a segmentation of an image beside its truth.

    Attributes:
        segments: Segmentation, with or without embeddings.
        truth: Class of each pixel (y, x), from 0, or `IGNORE`.
        confusion: Counts of segments and classes.
    """

    segments: Segments
    truth: NDArray[np.int16]
    confusion: Confusion

    def majority(self) -> Confusion:
        """Return counts where each segment takes the class that most of its pixels have."""
        return self.confusion.assigned(self.confusion.counts.argmax(1))

    def painted(self) -> NDArray[np.integer]:
        """Return, at each pixel, the class that most pixels of its segment have (y, x)."""
        labels = self.segments.labels
        # A segment whose pixels are all ignored may have no row.
        classes = np.zeros(int(labels.max()) + 1, np.int64)
        found = self.confusion.counts.argmax(1)
        classes[: len(found)] = found
        return classes[labels]


class Counted(NamedTuple):
    """Hold what is kept of a segmentation for the scores of a whole data set.

    It covers only segments with pixels that count.

    Attributes:
        counts: Numbers of pixels (segment, class).
        embeddings: Embedding of each segment (segment, channel).
    """

    counts: NDArray[np.int64]
    embeddings: NDArray[np.float32]


def _class_mean(judged: Judged) -> Score:
    name = "class-mean (per image) mIoU"
    if judged.segments.embeddings is None:
        return Score(float("nan"), name)
    return class_mean_miou(
        judged.segments.labels,
        judged.segments.embeddings,
        judged.truth,
        judged.confusion.n_classes,
        IGNORE,
    )


PER_PICTURE: Final[Mapping[str, Callable[[Judged], Score]]] = {
    "majority-class": lambda each: present_miou(each.majority(), "majority-class"),
    "majority-class-accuracy": lambda each: pixel_accuracy(each.majority(), "majority-class"),
    "image-hungarian": lambda each: present_miou(
        each.confusion.assigned(image_hungarian_classes(each.confusion)),
        "image-hungarian",
    ),
    "class-mean-image": _class_mean,
    "boundary-f": lambda each: boundary_f(each.segments.labels, each.truth, ignore=IGNORE),
    "boundary-iou": lambda each: boundary_iou(each.painted(), each.truth, IGNORE),
    "mbo": lambda each: mean_best_overlap(each.segments.labels, each.truth, ignore=IGNORE),
    "ari": lambda each: adjusted_rand(each.segments.labels, each.truth, IGNORE),
    "ami": lambda each: adjusted_mutual_information(each.segments.labels, each.truth, IGNORE),
    "nmi": lambda each: normalised_mutual_information(each.segments.labels, each.truth, IGNORE),
    "achievable-accuracy": lambda each: achievable_accuracy(
        each.segments.labels, each.truth, IGNORE
    ),
}
"""Scores of single images, to average over images, by the protocol's name."""

_MOST_MASKS: Final = 20_000
"""Largest number of masks to cluster; those of larger data sets are drawn at random."""


def class_mean(pictures: Callable[[], Iterable[Counted]]) -> Score:
    """Score by EmerDiff's modified protocol over a data set; see `ClassMeans`.

    Args:
        pictures: Function that returns the images from the start at each call; they are read twice.
    """
    means: ClassMeans | None = None
    for each in pictures():
        if means is None:
            means = ClassMeans.empty(each.counts.shape[1], each.embeddings.shape[1])
        means = means.update(Confusion(each.counts), _labelled(each))
    if means is None:
        return Score(float("nan"), "class-mean (data set) mIoU")
    total = Confusion.empty(len(means.pixels))
    for each in pictures():
        classes = means.nearest(_labelled(each))
        total += Confusion(each.counts).assigned(classes)
    return miou(total, "class-mean (data set)")


def dataset_hungarian(pictures: Callable[[], Iterable[Counted]], seed: int = 0) -> Score:
    """Score by the traditional protocol: cluster segments over the data set, and match once.

    k-means groups the embeddings of all segments into as many clusters as there are classes. This
    is our choice, as the paper does not say how. Of more than 20,000 segments, so many are drawn.

    Args:
        pictures: Function as for :func:`class_mean`.
        seed: Seed of the draw and of k-means.
    """
    name = "dataset-hungarian mIoU"
    count = sum(len(each.embeddings) for each in pictures())
    if not count:
        return Score(float("nan"), name)
    chosen = np.zeros(count, bool)
    chosen[np.random.RandomState(seed).permutation(count)[:_MOST_MASKS]] = True
    points, first, n_classes = [], 0, 0
    for each in pictures():
        last, n_classes = first + len(each.embeddings), each.counts.shape[1]
        points.append(each.embeddings[chosen[first:last]])
        first = last
    stack = np.concatenate(points).astype(np.float64)
    clusters = min(n_classes, len(np.unique(stack, axis=0)))
    kmeans = KMeans(clusters, n_init=3, random_state=seed).fit(stack)
    total = Confusion(np.zeros((clusters, n_classes), np.int64))
    for each in pictures():
        found = kmeans.predict(each.embeddings.astype(np.float64))
        counts = np.zeros((clusters, n_classes), np.int64)
        np.add.at(counts, found, each.counts)
        total += Confusion(counts)
    return dataset_hungarian_miou(total)


OVER_DATASET: Final[Mapping[str, Callable[[Callable[[], Iterable[Counted]]], Score]]] = {
    "class-mean": class_mean,
    "dataset-hungarian": dataset_hungarian,
}
"""Scores of a whole data set, by the protocol's name. They need embeddings."""


def _labelled(each: Counted) -> xr.DataArray:
    return xr.DataArray(each.embeddings, dims=(MASK, CHANNEL))
