"""Measure how well the edges of segments fall on those of the truth."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_cdt, distance_transform_edt

from emerdiff_probe.errors import InputError
from emerdiff_probe.metrics.scores import Labels, Score, counted, pair

__all__ = ["boundary_f", "boundary_iou", "drawn_edges"]

_Bits = NDArray[np.bool_]

_SHARE_OF_DIAGONAL: Final = 0.02


def boundary_f(
    labels: Labels, truth: Labels, tolerance: float = 2.0, ignore: int | None = None
) -> Score:
    """Return the boundary F measure: the harmonic mean of precision and recall of the edges.

    A boundary pixel is one whose right or lower neighbour has another label. It counts as found
    where the other labelling has a boundary pixel within ``tolerance`` pixels (Euclidean distance).
    This uses a distance transform and approximates the one-to-one matching of the source; the two
    differ where one boundary runs beside several others.

    Args:
        labels: Segments.
        truth: Segments or classes.
        tolerance: Largest distance at which a boundary pixel counts as found, in pixels.
        ignore: Value of the truth to leave out; edges to it and within it do not count.

    Returns:
        Score from 0 to 1: 1 where neither labelling has a boundary, 0 where only one has.

    Source: Martin, Fowlkes and Malik, IEEE TPAMI 26(5), 2004.
    """
    name = f"boundary F, {tolerance:g} px"
    pictures = pair(labels, truth)
    counts = np.ones(pictures[1].shape, bool) if ignore is None else pictures[1] != ignore
    ours, theirs = (drawn_edges(each, counts) for each in pictures)
    if not ours.any() or not theirs.any():
        return Score(float(ours.any() == theirs.any()), name)
    precision = float((distance_transform_edt(~theirs)[ours] <= tolerance).mean())
    recall = float((distance_transform_edt(~ours)[theirs] <= tolerance).mean())
    both = precision + recall
    return Score(2 * precision * recall / both if both else 0.0, name)


def boundary_iou(
    classes: Labels, truth: Labels, ignore: int | None = None, width: int | None = None
) -> Score:
    """Return the mean IoU of the bands along the inner side of each class's boundary.

    The band of a class holds its pixels within ``width`` of a pixel of another class; everything
    outside the image counts as another class. The mean is over the classes that occur in the truth.

    Args:
        classes: Class given to each pixel, for instance ``majority_classes(...)[labels]``.
        truth: True class of each pixel.
        ignore: Value of the truth whose pixels do not count; they are left out after bands are
            drawn.
        width: Width of the band in pixels, where distance is the larger of those along y and x; by
            default 2 % of the diagonal, rounded, and at least 1.

    Returns:
        Score from 0 to 1; NaN where every band is ignored.

    Raises:
        InputError: The arrays differ in shape or do not hold integers, all pixels are ignored, or
            ``width`` is below 1.

    Source: Cheng et al., CVPR 2021 (arXiv 2103.16562), eq. 3 and section 5. Width and border are
    those of the authors' code (boundary_utils.py of github.com/bowenc0221/boundary-iou-api).
    """
    ours, theirs = pair(classes, truth)
    counted(classes, truth, ignore)
    if width is None:
        width = max(1, round(_SHARE_OF_DIAGONAL * float(np.hypot(*theirs.shape))))
    if width < 1:
        raise InputError(f"width={width}; choose 1 pixel or more")
    counts = np.ones(theirs.shape, bool) if ignore is None else theirs != ignore
    ious = []
    for number in np.unique(theirs[counts]):
        a, b = _band(ours == number, width) & counts, _band(theirs == number, width) & counts
        # A class whose whole band is ignored has no boundary left to score.
        if union := np.count_nonzero(a | b):
            ious.append(np.count_nonzero(a & b) / union)
    return Score(float(np.mean(ious)) if ious else float("nan"), f"boundary IoU, {width} px")


def _band(mask: _Bits, width: int) -> _Bits:
    depth = distance_transform_cdt(np.pad(mask, 1), metric="chessboard")[1:-1, 1:-1]
    return mask & (depth <= width)


def drawn_edges(labels: NDArray[np.integer], counts: _Bits) -> _Bits:
    """Return the pixels whose right or lower neighbour has another label, where both count."""
    edges = np.zeros(labels.shape, np.bool_)
    edges[:, :-1] |= (labels[:, 1:] != labels[:, :-1]) & counts[:, 1:] & counts[:, :-1]
    edges[:-1] |= (labels[1:] != labels[:-1]) & counts[1:] & counts[:-1]
    return edges
