"""Agreement of two ways of dividing a picture, whatever the parts are called."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
)

from emerdiff_probe.metrics.scores import Labels, Score, counted

__all__ = [
    "achievable_accuracy",
    "adjusted_mutual_information",
    "adjusted_rand",
    "normalised_mutual_information",
]


def adjusted_rand(labels: Labels, truth: Labels, ignore: int | None = None) -> Score:
    """Agreement on which pairs of pixels belong together, adjusted for chance (ARI).

    Args:
        labels: Segments.
        truth: Segments or classes.
        ignore: A value of the truth whose pixels do not count.

    Returns:
        1 for the same partition, about 0 by chance, at least -0.5.

    Source: Hubert and Arabie, Journal of Classification 2, 1985; computed by scikit-learn.
    """
    ours, theirs = counted(labels, truth, ignore)
    return Score(adjusted_rand_score(theirs, ours), "ARI")


def adjusted_mutual_information(labels: Labels, truth: Labels, ignore: int | None = None) -> Score:
    """Mutual information, adjusted for chance and divided by the mean entropy (AMI).

    Args: See :func:`adjusted_rand`.

    Returns:
        1 for the same partition, about 0 by chance.

    Source: Vinh, Epps and Bailey, JMLR 11, 2010 (AMI with the arithmetic mean); computed by
    scikit-learn.
    """
    ours, theirs = counted(labels, truth, ignore)
    return Score(adjusted_mutual_info_score(theirs, ours), "AMI")


def normalised_mutual_information(
    labels: Labels, truth: Labels, ignore: int | None = None
) -> Score:
    """Mutual information divided by the mean entropy (NMI).

    Not adjusted for chance: it rises with the number of segments. Prefer
    :func:`adjusted_mutual_information`.

    Args: See :func:`adjusted_rand`.

    Returns:
        From 0 to 1.

    Source: Vinh, Epps and Bailey, JMLR 11, 2010 (NMI with the arithmetic mean); computed by
    scikit-learn.
    """
    ours, theirs = counted(labels, truth, ignore)
    return Score(normalized_mutual_info_score(theirs, ours), "NMI")


def achievable_accuracy(labels: Labels, truth: Labels, ignore: int | None = None) -> Score:
    """Achievable segmentation accuracy: of pixels, if each segment took its most frequent class.

    It rises with the number of segments: compare at equal numbers, or plot against it.

    Args: See :func:`adjusted_rand`.

    Returns:
        From 0 to 1.

    Source: Liu et al., CVPR 2011 (Entropy rate superpixel segmentation), section 6.
    """
    ours, theirs = counted(labels, truth, ignore)
    _, rows = np.unique(ours, return_inverse=True)
    names, columns = np.unique(theirs, return_inverse=True)
    cells = np.bincount(rows * len(names) + columns, minlength=(rows.max() + 1) * len(names))
    best = cells.reshape(-1, len(names)).max(1)
    return Score(best.sum() / len(ours), "achievable segmentation accuracy")
