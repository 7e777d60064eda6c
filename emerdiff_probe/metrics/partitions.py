"""Measure how far two ways of dividing an image agree, whatever the parts are called."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)

from emerdiff_probe.errors import InputError
from emerdiff_probe.metrics.scores import Labels, Score, counted

__all__ = [
    "achievable_accuracy",
    "adjusted_mutual_information",
    "adjusted_rand",
    "foreground_adjusted_rand",
    "mean_best_overlap",
    "normalised_mutual_information",
]


def adjusted_rand(labels: Labels, truth: Labels, ignore: int | None = None) -> Score:
    """Return the agreement on which pairs of pixels belong together, adjusted for chance (ARI).

    Args:
        labels: Segment of each pixel.
        truth: True segment or class of each pixel.
        ignore: Value of the truth whose pixels do not count.

    Returns:
        Score from -0.5 to 1: 1 for the same partition, about 0 by chance.

    Source: Hubert and Arabie, Journal of Classification 2, 1985; computed by scikit-learn.
    """
    ours, theirs = counted(labels, truth, ignore)
    return Score(adjusted_rand_score(theirs, ours), "ARI")


def adjusted_mutual_information(labels: Labels, truth: Labels, ignore: int | None = None) -> Score:
    """Return the mutual information, adjusted for chance and divided by mean entropy (AMI).

    Arguments are those of :func:`adjusted_rand`.

    Returns:
        Score up to 1: 1 for the same partition, about 0 by chance.

    Source: Vinh, Epps and Bailey, JMLR 11, 2010 (AMI with the arithmetic mean); computed by
    scikit-learn.
    """
    ours, theirs = counted(labels, truth, ignore)
    return Score(adjusted_mutual_info_score(theirs, ours), "AMI")


def normalised_mutual_information(
    labels: Labels, truth: Labels, ignore: int | None = None
) -> Score:
    """Return the mutual information divided by the mean entropy (NMI).

    It is not adjusted for chance and rises with the number of segments. Prefer
    :func:`adjusted_mutual_information`.

    Arguments are those of :func:`adjusted_rand`.

    Returns:
        Score from 0 to 1.

    Source: Vinh, Epps and Bailey, JMLR 11, 2010 (NMI with the arithmetic mean); computed by
    scikit-learn.
    """
    ours, theirs = counted(labels, truth, ignore)
    return Score(normalized_mutual_info_score(theirs, ours), "NMI")


def achievable_accuracy(labels: Labels, truth: Labels, ignore: int | None = None) -> Score:
    """Return the pixel accuracy if each segment took its most frequent class (ASA).

    It rises with the number of segments, so compare at equal numbers or plot it against them.

    Arguments are those of :func:`adjusted_rand`.

    Returns:
        Score from 0 to 1.

    Source: Liu et al., CVPR 2011 (Entropy rate superpixel segmentation), section 6.
    """
    ours, theirs = counted(labels, truth, ignore)
    _, rows = np.unique(ours, return_inverse=True)
    names, columns = np.unique(theirs, return_inverse=True)
    cells = np.bincount(rows * len(names) + columns, minlength=(rows.max() + 1) * len(names))
    best = cells.reshape(-1, len(names)).max(1)
    return Score(best.sum() / len(ours), "achievable segmentation accuracy")


def foreground_adjusted_rand(
    labels: Labels, truth: Labels, background: Collection[int] = (0,), ignore: int | None = None
) -> Score:
    """Return the ARI of the pixels that the truth gives to objects (FG-ARI).

    Neither the division of the background counts, nor where objects end towards it.

    Args:
        labels: Segment of each pixel.
        truth: Object of each pixel; each instance has a number of its own.
        background: Values of the truth that are not objects.
        ignore: Value of the truth whose pixels do not count.

    Returns:
        Score from -0.5 to 1: 1 for the same objects, about 0 by chance.

    Raises:
        InputError: The truth has no object.

    Source: Greff et al., ICML 2019 (IODINE, arXiv 1903.00450), section 4; ARI by scikit-learn.

    >>> truth = np.array([[0, 1, 1, 2], [0, 1, 1, 2]])
    >>> foreground_adjusted_rand(np.array([[7, 1, 1, 3], [8, 1, 1, 3]]), truth)
    1.0000 (FG-ARI)
    """
    ours, theirs = counted(labels, truth, ignore)
    objects = ~np.isin(theirs, list(background))
    if not objects.any():
        raise InputError(f"the truth has no object, only {sorted(set(theirs.tolist()))}")
    return Score(adjusted_rand_score(theirs[objects], ours[objects]), "FG-ARI")


def mean_best_overlap(
    labels: Labels, truth: Labels, background: Collection[int] = (), ignore: int | None = None
) -> Score:
    """Return the IoU of each true segment with the segment that fits it best, averaged (mBO).

    A segment can be the best for several true ones. The score rises with the number of segments as
    long as they divide what the truth divides.

    Args:
        labels: Segment of each pixel.
        truth: Segment of each pixel (instances, for mBO_i) or class (mBO_c).
        background: Values of the truth to leave out of the mean.
        ignore: Value of the truth whose pixels do not count.

    Returns:
        Score from 0 to 1.

    Raises:
        InputError: The truth has nothing but background.

    Source: Pont-Tuset et al., IEEE TPAMI 39(1), 2017 (MCG, arXiv 1503.00848), Jaccard at instance
    level; used for objects without labels since Seitzer et al., ICLR 2023 (arXiv 2209.14860).
    """
    ours, theirs = counted(labels, truth, ignore)
    _, rows = np.unique(ours, return_inverse=True)
    names, columns = np.unique(theirs, return_inverse=True)
    both = np.zeros((rows.max() + 1, len(names)), np.int64)
    np.add.at(both, (rows, columns), 1)
    best = (both / (both.sum(1, keepdims=True) + both.sum(0) - both)).max(0)
    objects = ~np.isin(names, list(background))
    if not objects.any():
        raise InputError(f"the truth has no object, only {names.tolist()}")
    return Score(float(best[objects].mean()), "mBO")
