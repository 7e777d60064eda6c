"""How well the edges of segments fall on those of the truth."""

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
    """F measure of the boundaries: the harmonic mean of their precision and recall.

    A boundary pixel is one whose right or lower neighbour has another label. It counts as found
    where a boundary pixel of the other labelling lies within ``tolerance`` pixels (Euclid), by
    distance transform: an approximation of the one-to-one matching of the source, from which it
    differs where one boundary runs beside several. 1 where neither has a boundary, 0 where only
    one has.

    Args:
        labels: Segments.
        truth: Segments or classes.
        tolerance: In pixels.
        ignore: A value of the truth; edges to and within it do not count.

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
    """Mean IoU of the bands along the inner side of each class's boundary.

    A class's band holds its pixels within ``width`` of a pixel that is not of the class; what is
    outside of the picture is not. Averaged over the classes that occur in the truth.

    Args:
        classes: The class given to each pixel, for instance ``majority_classes(...)[labels]``.
        truth: Classes.
        ignore: A value of the truth whose pixels do not count; bands are drawn before they are
            left out.
        width: Of the band, in pixels (larger of the distances along y and x); by default 2 % of
            the diagonal, rounded, and at least 1.

    Returns:
        From 0 to 1.

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
        # A class whose whole band is ignored has no boundary to be judged by.
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
