"""Assign classes to segments, then score them; each protocol is a function.

The literature calls several of these mIoU, and they are not comparable with each other, so each
number carries its protocol's name. Within one image, IoU is averaged over the classes that occur
in its truth; over a data set (`dataset_hungarian_miou`), over those that occur in the truth or the
prediction, as in its sources.
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
    """Return the mean IoU over classes in truth or prediction, as is usual for a data set.

    Args:
        confusion: Counts whose labels are classes, for instance from `Confusion.assigned`.
        protocol: Name of the way in which segments were assigned classes.
    """
    return Score(float(np.nanmean(confusion.iou())), f"{protocol} mIoU")


def present_miou(confusion: Confusion, protocol: str) -> Score:
    """Return the mean IoU over the classes in the truth, as is usual for one image.

    Args:
        confusion: Counts whose labels are classes.
        protocol: Name of the way in which segments were assigned classes.
    """
    present = confusion.counts.sum(0) > 0
    return Score(float(confusion.iou()[present].mean()), f"{protocol} mIoU")


def pixel_accuracy(confusion: Confusion, protocol: str) -> Score:
    """Return the share of pixels that were assigned their true class (0 to 1).

    Args:
        confusion: Counts whose labels are classes.
        protocol: Name of the way in which segments were assigned classes.

    Source: Long, Shelhamer and Darrell, CVPR 2015, section 5.
    """
    return Score(confusion.accuracy(), f"{protocol} pixel accuracy")


def majority_classes(
    labels: Labels, truth: Labels, n_classes: int, ignore: int | None = None
) -> NDArray[np.integer]:
    """Return the most frequent class in each segment; the lower number wins a tie.

    Arguments and errors are those of :func:`majority_class_miou`.

    Returns:
        Classes (segment,), indexed by label: ``majority_classes(labels, ...)[labels]`` gives the
        class of each pixel, as long as the last segment has a pixel that counts.
    """
    return Confusion.of(labels, truth, n_classes, ignore).counts.argmax(1)


def majority_class_miou(
    labels: Labels, truth: Labels, n_classes: int, ignore: int | None = None
) -> Score:
    """Return the mean IoU where each segment takes the class that most of its pixels have.

    This is an oracle: it uses the truth, and rises with the number of segments, so compare only at
    equal numbers. The lower number wins a tie between classes.

    Args:
        labels: Segment of each pixel, numbered from 0.
        truth: Class of each pixel, 0 to ``n_classes - 1``.
        n_classes: Number of classes.
        ignore: Value of the truth whose pixels do not count.

    Returns:
        Score from 0 to 1.

    Raises:
        InputError: The arrays differ in shape, do not hold integers or are out of range, or all
            pixels are ignored.
    """
    found = Confusion.of(labels, truth, n_classes, ignore)
    return present_miou(found.assigned(found.counts.argmax(1)), "majority-class")


def image_hungarian_classes(confusion: Confusion) -> NDArray[np.intp]:
    """Match one image's segments to classes, one to one, with the largest mean IoU.

    Args:
        confusion: Counts over one image.

    Returns:
        Class of each segment (segment,); -1 for those beyond the number of classes. Where no other
        class is left, a segment can be matched to a class that none of its pixels have.
    """
    counts = confusion.counts
    union = counts.sum(1)[:, None] + counts.sum(0) - counts
    return _matched(counts / np.maximum(union, 1))


def image_hungarian_miou(
    labels: Labels, truth: Labels, n_classes: int, ignore: int | None = None
) -> Score:
    """Return the mean IoU of the best one-to-one matching of segments to classes in one image.

    The best matching has the largest mean IoU and is found by the Hungarian method (Kuhn 1955); one
    that maximises the number of correct pixels instead scores this much or less. Pixels of segments
    beyond the number of classes belong to no class. Matching each image by itself scores higher
    than one matching over a whole data set; the two are not comparable.

    Arguments, range and errors are those of :func:`majority_class_miou`.
    """
    found = Confusion.of(labels, truth, n_classes, ignore)
    return present_miou(found.assigned(image_hungarian_classes(found)), "image-hungarian")


def dataset_hungarian_classes(confusion: Confusion) -> NDArray[np.intp]:
    """Match clusters to classes, one to one, with the most correct pixels over a data set.

    Args:
        confusion: Counts over all images; a label means the same cluster in each.

    Returns:
        Class of each cluster (cluster,); -1 for those beyond the number of classes.

    Source: Cho et al., CVPR 2021 (PiCIE); Hamilton et al., ICLR 2022 (STEGO).
    """
    return _matched(confusion.counts)


def dataset_hungarian_miou(confusion: Confusion) -> Score:
    """Return the mean IoU of one matching of clusters to classes over a whole data set.

    This is the traditional protocol of unsupervised segmentation: labels are clusters of the whole
    data set, so a label must mean the same in every image. Pixels of clusters beyond the number of
    classes belong to no class.

    Args:
        confusion: Counts over all images.

    Returns:
        Score from 0 to 1.

    Source: see :func:`dataset_hungarian_classes`.
    """
    return miou(confusion.assigned(dataset_hungarian_classes(confusion)), "dataset-hungarian")


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """Hold the mean embedding of each class, over its pixels in one image or many.

    Instances never change: ``update`` returns a new one. EmerDiff's modified protocol so takes two
    passes over a data set: the first sums up the means, and the second assigns to each segment the
    class whose mean is nearest.

    Attributes:
        sums: Sums of the embeddings of each class's pixels, float64 (class, channel).
        pixels: Number of pixels of each class, int64 (class,).

    Source: Namekata et al., ICLR 2024 (arXiv 2401.11739), table 2.
    """

    sums: NDArray[np.float64]
    pixels: NDArray[np.int64]

    @classmethod
    def empty(cls, n_classes: int, channels: int) -> ClassMeans:
        """Return means over no images."""
        return cls(np.zeros((n_classes, channels)), np.zeros(n_classes, np.int64))

    def update(self, confusion: Confusion, embeddings: xr.DataArray) -> ClassMeans:
        """Return these means with the pixels of one more image added.

        Args:
            confusion: Counts over that image alone; its labels are numbers of masks.
            embeddings: Embedding of each mask of that image (mask, channel).

        Raises:
            InputError: A label has no embedding.
        """
        points = _points(embeddings, len(confusion.counts))
        return ClassMeans(
            self.sums + confusion.counts.T @ points, self.pixels + confusion.counts.sum(0)
        )

    def nearest(self, embeddings: xr.DataArray) -> NDArray[np.intp]:
        """Return the class whose mean embedding is nearest to each mask's.

        Distance is Euclidean, which is our choice. A class without pixels is never assigned.

        Args:
            embeddings: Embedding of each mask (mask, channel).
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
    """Return the mean IoU where each segment takes the class with the nearest mean embedding.

    This is EmerDiff's modified protocol for one image: a class's embedding is the mean over its
    pixels, and a pixel has the embedding of its segment. It is an oracle, as the classes'
    embeddings come from the truth. Distance is Euclidean, which is our choice. For a data set, see
    `ClassMeans`.

    Args:
        labels: Segment of each pixel, as the number of a mask.
        embeddings: Embedding of each mask (mask, channel).
        truth: Class of each pixel, 0 to ``n_classes - 1``.
        n_classes: Number of classes.
        ignore: Value of the truth whose pixels do not count.

    Returns:
        Score from 0 to 1.

    Raises:
        InputError: As for :func:`majority_class_miou`, or a label has no embedding.

    Source: Namekata et al., ICLR 2024 (arXiv 2401.11739), table 2.
    """
    found = Confusion.of(labels, truth, n_classes, ignore)
    means = ClassMeans.empty(n_classes, embeddings.sizes[CHANNEL]).update(found, embeddings)
    classes = means.nearest(embeddings)[: len(found.counts)]
    return present_miou(found.assigned(classes), "class-mean (per image)")


def _points(embeddings: xr.DataArray, least: int) -> NDArray[np.float64]:
    points = embeddings.transpose(MASK, CHANNEL).values.astype(np.float64)
    if least > len(points):
        raise InputError(
            f"label {least - 1} has no embedding; there are {len(points)}, one for each mask"
        )
    return points[:least] if least else points


def _matched(gain: NDArray[np.generic]) -> NDArray[np.intp]:
    rows, columns = linear_sum_assignment(gain, maximize=True)
    classes = np.full(len(gain), -1, np.intp)
    classes[rows] = columns
    return classes
