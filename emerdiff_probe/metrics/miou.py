"""Scores for which segments are first given classes, one protocol a function.

Several of these are called mIoU in the literature and are not comparable with each other: each
number carries its protocol's name. Within a picture IoU is averaged over the classes that occur in
its truth; over a data set (`dataset_hungarian_miou`) over those that occur in truth or prediction,
as its sources do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from emerdiff_probe.errors import InputError
from emerdiff_probe.metrics.confusion import Confusion
from emerdiff_probe.metrics.scores import Labels, Score
from emerdiff_probe.schema import CHANNEL, MASK

__all__ = [
    "ClassMeans",
    "class_mean_miou",
    "dataset_hungarian_classes",
    "dataset_hungarian_miou",
    "image_hungarian_classes",
    "image_hungarian_miou",
    "majority_class_miou",
    "majority_classes",
    "miou",
    "pixel_accuracy",
    "present_miou",
]


def miou(confusion: Confusion, protocol: str) -> Score:
    """Mean IoU over the classes that occur in truth or prediction: what is usual of a data set.

    Args:
        confusion: Whose labels are classes, for instance `Confusion.assigned`.
        protocol: How segments were given their classes.
    """
    return Score(float(np.nanmean(confusion.iou())), f"{protocol} mIoU")


def present_miou(confusion: Confusion, protocol: str) -> Score:
    """Mean IoU over the classes that occur in the truth: what is usual of one picture.

    Args:
        confusion: Whose labels are classes.
        protocol: How segments were given their classes.
    """
    present = confusion.counts.sum(0) > 0
    return Score(float(confusion.iou()[present].mean()), f"{protocol} mIoU")


def pixel_accuracy(confusion: Confusion, protocol: str) -> Score:
    """Share of all pixels that were given their class.

    Args:
        confusion: Whose labels are classes.
        protocol: How segments were given their classes.

    Source: Long, Shelhamer and Darrell, CVPR 2015, section 5.
    """
    return Score(confusion.accuracy(), f"{protocol} pixel accuracy")


def majority_classes(
    labels: Labels, truth: Labels, n_classes: int, ignore: int | None = None
) -> NDArray[np.integer]:
    """The class that most pixels of each segment have; of equally frequent ones the lower number.

    Args, raises: See :func:`majority_class_miou`.

    Returns:
        Shape (segments,), by label: ``majority_classes(labels, ...)[labels]`` paints the picture,
        as long as the segments' last one has a pixel that counts.
    """
    return Confusion.of(labels, truth, n_classes, ignore).counts.argmax(1)


def majority_class_miou(
    labels: Labels, truth: Labels, n_classes: int, ignore: int | None = None
) -> Score:
    """Mean IoU where each segment takes the class that most of its pixels have.

    An oracle: it uses the truth, and rises with the number of segments, so compare at equal numbers
    only. Of equally frequent classes the lower number is taken.

    Args:
        labels: Segments, from 0 up.
        truth: Classes, from 0 to ``n_classes - 1``.
        n_classes: How many classes there are.
        ignore: A value of the truth whose pixels do not count.

    Returns:
        From 0 to 1.

    Raises:
        InputError: Arrays of different shape, not of integers, or out of range.
    """
    found = Confusion.of(labels, truth, n_classes, ignore)
    return present_miou(found.assigned(found.counts.argmax(1)), "majority-class")


def image_hungarian_classes(confusion: Confusion) -> NDArray[np.intp]:
    """The one-to-one matching of one picture's segments to classes with the largest mean IoU.

    Args:
        confusion: Of one picture.

    Returns:
        The class of each segment, -1 for those beyond the number of classes. A segment can be
        matched to a class that it has no pixel of, where nothing is left for it.
    """
    counts = confusion.counts
    union = counts.sum(1)[:, None] + counts.sum(0) - counts
    return _matched(counts / np.maximum(union, 1))


def image_hungarian_miou(
    labels: Labels, truth: Labels, n_classes: int, ignore: int | None = None
) -> Score:
    """Mean IoU of the best one-to-one matching of segments to classes in this picture.

    Best means: with the largest mean IoU, found by the Hungarian method (Kuhn 1955). Matchings that
    maximise the number of correct pixels instead reach at most this. The pixels of segments beyond
    the number of classes belong to no class. Matching image by image is kinder than one matching
    over a whole data set; the two are not comparable.

    Args, returns, raises: See :func:`majority_class_miou`.
    """
    found = Confusion.of(labels, truth, n_classes, ignore)
    return present_miou(found.assigned(image_hungarian_classes(found)), "image-hungarian")


def dataset_hungarian_classes(confusion: Confusion) -> NDArray[np.intp]:
    """The one-to-one matching of clusters to classes with most correct pixels over a data set.

    Args:
        confusion: Of all pictures; a label means the same cluster in each.

    Returns:
        The class of each cluster, -1 for those beyond the number of classes.

    Source: Cho et al., CVPR 2021 (PiCIE); Hamilton et al., ICLR 2022 (STEGO).
    """
    return _matched(confusion.counts)


def dataset_hungarian_miou(confusion: Confusion) -> Score:
    """Mean IoU of one matching of clusters to classes over a whole data set.

    The traditional protocol of unsupervised segmentation: labels are clusters of the whole data
    set, so a label must mean the same in every picture. Pixels of clusters beyond the number of
    classes belong to none.

    Args:
        confusion: Of all pictures.

    Returns:
        From 0 to 1.

    Source: see :func:`dataset_hungarian_classes`.
    """
    return miou(confusion.assigned(dataset_hungarian_classes(confusion)), "dataset-hungarian")


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """The mean embedding of each class: of all its pixels, in one picture or many.

    Facts, never changed: ``update`` gives new ones. So EmerDiff's modified protocol takes two
    passes over a data set: the first sums up the means, the second gives each segment the class
    whose mean is nearest.

    Attributes:
        sums: float64 (class, channel), of the embeddings of all pixels of a class.
        pixels: int64 (class,).

    Source: Namekata et al., ICLR 2024 (arXiv 2401.11739), table 2.
    """

    sums: NDArray[np.float64]
    pixels: NDArray[np.int64]

    @classmethod
    def empty(cls, n_classes: int, channels: int) -> ClassMeans:
        """Of no picture yet."""
        return cls(np.zeros((n_classes, channels)), np.zeros(n_classes, np.int64))

    def update(self, confusion: Confusion, embeddings: xr.DataArray) -> ClassMeans:
        """With the pixels of one more picture.

        Args:
            confusion: Of that picture alone; its labels are numbers of masks.
            embeddings: (mask, channel), of that picture.

        Raises:
            InputError: A label has no embedding.
        """
        points = _points(embeddings, len(confusion.counts))
        return ClassMeans(
            self.sums + confusion.counts.T @ points, self.pixels + confusion.counts.sum(0)
        )

    def nearest(self, embeddings: xr.DataArray) -> NDArray[np.intp]:
        """The class whose mean embedding is nearest (Euclid) to each mask's.

        The measure of nearness is our choice. Classes without pixels are given to none.

        Args:
            embeddings: (mask, channel).
        """
        points = _points(embeddings, 0)
        present = np.flatnonzero(self.pixels)
        means = self.sums[present] / self.pixels[present, None]
        distance = ((points[:, None] - means) ** 2).sum(2)
        return present[distance.argmin(1)]


def class_mean_miou(
    labels: Labels,
    embeddings: xr.DataArray,
    truth: Labels,
    n_classes: int,
    ignore: int | None = None,
) -> Score:
    """Mean IoU where each segment takes the class whose mean embedding is nearest (Euclid).

    EmerDiff's modified protocol, for one picture: a class's embedding is the mean of the embeddings
    of its pixels, and a pixel has that of its segment. An oracle, as the classes' embeddings come
    from the truth. For a whole data set see `ClassMeans`. The measure of nearness is our choice.

    Args:
        labels: Segments, each the number of a mask.
        embeddings: (mask, channel).
        truth: Classes, from 0 to ``n_classes - 1``.
        n_classes: How many classes there are.
        ignore: A value of the truth whose pixels do not count.

    Returns:
        From 0 to 1.

    Raises:
        InputError: As :func:`majority_class_miou`; or labels beyond the embeddings.

    Source: Namekata et al., ICLR 2024 (arXiv 2401.11739), table 2.
    """
    found = Confusion.of(labels, truth, n_classes, ignore)
    means = ClassMeans.empty(n_classes, embeddings.sizes[CHANNEL]).update(found, embeddings)
    classes = means.nearest(embeddings)[: len(found.counts)]
    return present_miou(found.assigned(classes), "class-mean (per image)")


def _points(embeddings: xr.DataArray, least: int) -> NDArray[np.float64]:
    points = embeddings.transpose(MASK, CHANNEL).values.astype(np.float64)
    if least > len(points):
        raise InputError(f"label {least - 1} has no embedding; there are {len(points)}")
    return points[:least] if least else points


def _matched(gain: NDArray[np.generic]) -> NDArray[np.intp]:
    rows, columns = linear_sum_assignment(gain, maximize=True)
    classes = np.full(len(gain), -1, np.intp)
    classes[rows] = columns
    return classes
