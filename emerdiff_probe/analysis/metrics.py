"""Scores of a segmentation against the truth, for one picture.

Labels and truth are integers of one size, as NumPy arrays (y, x) or as DataArrays. Several of the
scores are called mIoU in the literature and are not comparable with each other: give the name of
the function with every number. IoU is the Jaccard index, intersection over union (Everingham et
al., IJCV 2010, section 4.2), and is averaged over the classes that occur in the truth.
"""

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import CHANNEL, MASK, X, Y

__all__ = [
    "Labels",
    "adjusted_rand",
    "boundary_f",
    "class_mean_miou",
    "image_hungarian_miou",
    "majority_class_miou",
    "majority_classes",
]

Labels = NDArray[np.integer] | xr.DataArray
_Counts = NDArray[np.int64]


def majority_classes(
    labels: Labels, truth: Labels, n_classes: int, ignore: int | None = None
) -> NDArray[np.integer]:
    """The class that most pixels of each segment have; of equally frequent ones the lower number.

    Args, raises: See :func:`majority_class_miou`.

    Returns:
        Shape (segments,), by label: ``majority_classes(labels, ...)[labels]`` paints the picture.
    """
    return _contingency(labels, truth, n_classes, ignore).argmax(1)


def majority_class_miou(
    labels: Labels, truth: Labels, n_classes: int, ignore: int | None = None
) -> float:
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
    counts = _contingency(labels, truth, n_classes, ignore)
    return _miou_of_assignment(counts, counts.argmax(1))


def image_hungarian_miou(
    labels: Labels, truth: Labels, n_classes: int, ignore: int | None = None
) -> float:
    """Mean IoU of the best one-to-one matching of segments to classes in this picture.

    Best means: with the largest mean IoU, found by the Hungarian method (Kuhn 1955). Matchings that
    maximise the number of correct pixels instead reach at most this. The pixels of segments beyond
    the number of classes belong to no class. Matching image by image is kinder than one matching
    over a whole data set; the two are not comparable.

    Args, returns, raises: See :func:`majority_class_miou`.
    """
    counts = _contingency(labels, truth, n_classes, ignore)
    union = counts.sum(1)[:, None] + counts.sum(0) - counts
    iou = counts / np.maximum(union, 1)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return float(iou[rows, columns].sum() / np.count_nonzero(counts.sum(0)))


def class_mean_miou(
    labels: Labels,
    embeddings: xr.DataArray,
    truth: Labels,
    n_classes: int,
    ignore: int | None = None,
) -> float:
    """Mean IoU where each segment takes the class whose mean embedding is nearest (Euclid).

    EmerDiff's modified protocol, for one picture: a class's embedding is the mean of the embeddings
    of its pixels, and a pixel has that of its segment. An oracle, as the classes' embeddings come
    from the truth. The measure of nearness is our choice.

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
    points = embeddings.transpose(MASK, CHANNEL).values.astype(np.float64)
    counts = _contingency(labels, truth, n_classes, ignore)
    if len(counts) > len(points):
        raise InputError(f"label {len(counts) - 1} has no embedding; there are {len(points)}")
    points = points[: len(counts)]
    present = np.flatnonzero(counts.sum(0))
    means = (counts.T @ points)[present] / counts.sum(0)[present, None]
    distance = ((points[:, None] - means) ** 2).sum(2)
    return _miou_of_assignment(counts, present[distance.argmin(1)])


def boundary_f(labels: Labels, truth: Labels, tolerance: float = 2.0) -> float:
    """F measure of the boundaries: the harmonic mean of their precision and recall.

    A boundary pixel is one whose right or lower neighbour has another label. It counts as found
    where a boundary pixel of the other labelling lies within ``tolerance`` pixels (Euclid), by
    distance transform: an approximation of the one-to-one matching of the source, from which it
    differs where one boundary runs beside several. 1 where neither has a boundary, 0 where only
    one has.

    Source: Martin, Fowlkes and Malik, IEEE TPAMI 26(5), 2004.
    """
    ours, theirs = map(_boundary, _pair(labels, truth))
    if not ours.any() or not theirs.any():
        return float(ours.any() == theirs.any())
    precision = float((distance_transform_edt(~theirs)[ours] <= tolerance).mean())
    recall = float((distance_transform_edt(~ours)[theirs] <= tolerance).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def adjusted_rand(labels: Labels, truth: Labels, ignore: int | None = None) -> float:
    """Agreement on which pairs of pixels belong together, adjusted for chance.

    Returns:
        1 for the same partition, about 0 by chance, at least -0.5.

    Source: Hubert and Arabie, Journal of Classification 2, 1985; computed by scikit-learn.
    """
    ours, theirs = _counted(labels, truth, ignore)
    return float(adjusted_rand_score(theirs, ours))


def _miou_of_assignment(counts: _Counts, classes: NDArray[np.integer]) -> float:
    """Mean IoU, over the classes that occur, when segment i is given class ``classes[i]``."""
    confusion = np.zeros((counts.shape[1],) * 2, np.int64)
    np.add.at(confusion, classes, counts)
    correct, truth = confusion.diagonal(), confusion.sum(0)
    union = truth + confusion.sum(1) - correct
    present = truth > 0
    return float((correct[present] / union[present]).mean())


def _contingency(labels: Labels, truth: Labels, n_classes: int, ignore: int | None) -> _Counts:
    """Pixels of each segment (rows, from 0) in each class (columns)."""
    ours, theirs = _counted(labels, truth, ignore)
    for what, values, end in (("labels", ours, None), ("truth", theirs, n_classes)):
        if values.min() < 0 or (end is not None and values.max() >= end):
            span = "from 0 up" if end is None else f"from 0 to {end - 1}, or ignore="
            raise InputError(f"{what} runs from {values.min()} to {values.max()}; it goes {span}")
    segments = int(ours.max()) + 1
    cells = ours.astype(np.int64) * n_classes + theirs
    return np.bincount(cells, minlength=segments * n_classes).reshape(segments, n_classes)


def _counted(
    labels: Labels, truth: Labels, ignore: int | None
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """The pixels that count, flat."""
    ours, theirs = _pair(labels, truth)
    if ignore is None:
        return ours.ravel(), theirs.ravel()
    counts = theirs != ignore
    if not counts.any():
        raise InputError(f"all pixels of the truth are ignore={ignore}; leave the picture out")
    return ours[counts], theirs[counts]


def _pair(labels: Labels, truth: Labels) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    ours, theirs = _array(labels, "labels"), _array(truth, "truth")
    if ours.shape != theirs.shape:
        raise InputError(
            f"labels have shape {ours.shape} and truth {theirs.shape}; bring them to one size, "
            "labels by nearest neighbour"
        )
    return ours, theirs


def _array(labels: Labels, what: str) -> NDArray[np.integer]:
    if isinstance(labels, xr.DataArray) and set(labels.dims) == {Y, X}:
        labels = labels.transpose(Y, X)
    values = np.asarray(labels)
    if values.ndim != 2 or not values.size or not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"{what} of shape {values.shape} and type {values.dtype}; expected integers (y, x)"
        )
    return values


def _boundary(labels: NDArray[np.integer]) -> NDArray[np.bool_]:
    edges = np.zeros(labels.shape, np.bool_)
    edges[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    edges[:-1] |= labels[1:] != labels[:-1]
    return edges
