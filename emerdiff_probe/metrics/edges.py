"""Score edges with a strength against true boundaries: F at the best threshold, ODS and OIS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import cKDTree

from emerdiff_probe import checks
from emerdiff_probe.errors import InputError, ProbeError
from emerdiff_probe.metrics.boundaries import drawn_edges
from emerdiff_probe.metrics.scores import Labels, Score, as_labels
from emerdiff_probe.schema import X, Y

__all__ = ["EdgeCounts", "edge_counts", "edges_of"]

_Bits = NDArray[np.bool_]

_SHARE_OF_DIAGONAL: Final = 0.0075


@dataclass(frozen=True, eq=False)
class EdgeCounts:
    """Hold counts of edge pixels that were found, at each threshold, in one image or many.

    Add the counts of images: ``edge_counts(...) + edge_counts(...)``.

    Attributes:
        thresholds: Thresholds (threshold,).
        matched: Number of pairs of a found and a true edge pixel (picture, threshold).
        found: Number of edge pixels at or above the threshold (picture, threshold).
        true: Number of edge pixels of the truth (picture,).
    """

    thresholds: NDArray[np.float64]
    matched: NDArray[np.int64]
    found: NDArray[np.int64]
    true: NDArray[np.int64]

    def __add__(self, other: EdgeCounts) -> EdgeCounts:
        if not np.array_equal(self.thresholds, other.thresholds):
            raise InputError(
                "the counts have different thresholds; count both with the same number"
            )
        parts = (
            (getattr(self, name), getattr(other, name)) for name in ("matched", "found", "true")
        )
        return EdgeCounts(self.thresholds, *(np.concatenate(each) for each in parts))

    def ods(self) -> Score:
        """Return F at the one threshold that is best for all images (optimal data set scale)."""
        return Score(float(self._f_of_sums().max()), "ODS")

    def best_threshold(self) -> float:
        """Return the threshold of `ods`; the smallest wins a tie."""
        return float(self.thresholds[self._f_of_sums().argmax()])

    def ois(self) -> Score:
        """Return F with the best threshold of each image (optimal image scale)."""
        best = _f(self.matched, self.found, self.true[:, None]).argmax(1)[:, None]
        matched, found = (np.take_along_axis(each, best, 1).sum() for each in
                          (self.matched, self.found))  # fmt: skip
        return Score(float(_f(matched, found, self.true.sum())), "OIS")

    def _f_of_sums(self) -> NDArray[np.float64]:
        return _f(self.matched.sum(0), self.found.sum(0), self.true.sum())


def edge_counts(
    edges: ArrayLike | xr.DataArray,
    truth: Labels,
    *,
    thresholds: int = 99,
    tolerance: float | None = None,
    ignore: int | None = None,
    thin: bool = True,
) -> EdgeCounts:
    """Count the edge pixels of an image that are right, at each of many thresholds.

    Each found pixel is matched to at most one true pixel within ``tolerance``, so that a thick edge
    does not count several times. The number of pairs is the largest possible.

    Args:
        edges: Strength of the edge at each pixel (y, x), from 0 to 1; see `edges_of` for segments.
        truth: Segments or classes (y, x), whose boundaries are the truth.
        thresholds: Number of thresholds between 0 and 1.
        tolerance: Largest distance of a pair in pixels (Euclidean); by default 0.75 % of the
            diagonal.
        ignore: Value of the truth to leave out; edges to it and within it do not count.
        thin: Whether to thin edges to lines at each threshold, which needs scikit-image.

    Raises:
        InputError: Strengths are outside 0 to 1, or have another size than the truth.

    Source: Martin, Fowlkes and Malik, IEEE TPAMI 26(5), 2004; ODS and OIS by Arbelaez et al., IEEE
    TPAMI 33(5), 2011, whose matching also makes the sum of distances small.
    """
    theirs = as_labels(truth, "truth")
    ours = _strengths(edges, theirs.shape)
    count = checks.integer("thresholds", thresholds, 1, error=InputError)
    reach = _SHARE_OF_DIAGONAL * float(np.hypot(*theirs.shape)) if tolerance is None else tolerance
    reach = checks.number("tolerance", reach, 0, error=InputError)
    counts = np.ones(theirs.shape, bool) if ignore is None else theirs != ignore
    true = drawn_edges(theirs, counts)
    places = cKDTree(np.argwhere(true)) if true.any() else None
    levels = np.linspace(0, 1, count + 2)[1:-1]
    matched, found = np.zeros((2, 1, count), np.int64)
    known: dict[bytes, tuple[int, int]] = {}
    for at, level in enumerate(levels):
        bits = (ours >= level) & counts
        key = np.packbits(bits).tobytes()
        if key not in known:  # maps of few strengths are the same at many thresholds
            lines = _thinned(bits) if thin else bits
            known[key] = (_pairs(lines, places, reach), int(np.count_nonzero(lines)))
        matched[0, at], found[0, at] = known[key]
    return EdgeCounts(levels, matched, found, np.array([np.count_nonzero(true)]))


def edges_of(labels: Labels) -> NDArray[np.float32]:
    """Return the boundaries of segments as edges of strength 1, (y, x)."""
    values = as_labels(labels, "labels")
    return drawn_edges(values, np.ones(values.shape, bool)).astype(np.float32)


def _strengths(edges: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    if isinstance(edges, xr.DataArray) and set(edges.dims) == {Y, X}:
        edges = edges.transpose(Y, X)
    values = np.asarray(edges, np.float64)
    if values.shape != shape or not ((values >= 0) & (values <= 1)).all():
        span = f"{values.min():.3g} to {values.max():.3g}" if values.size else "nothing"
        raise InputError(
            f"edges have shape {values.shape} and run from {span}; for this truth give shape "
            f"{shape} and values from 0 to 1"
        )
    return values


def _pairs(found: _Bits, true: cKDTree | None, reach: float) -> int:
    """Return the number of found pixels that can each have a true pixel within reach."""
    places = np.argwhere(found)
    if true is None or not len(places):
        return 0
    near = true.query_ball_point(places, reach)
    rows = np.repeat(np.arange(len(places)), [len(each) for each in near])
    columns = np.concatenate([*map(np.asarray, near)]).astype(np.int64)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), (len(places), true.n)).tocsr()
    return int((maximum_bipartite_matching(graph, "column") >= 0).sum())


def _f(matched: Any, found: Any, true: Any) -> Any:
    """Return the harmonic mean of precision and recall; 1 where there is nothing to find."""
    both = np.asarray(found + true, np.float64)
    return np.divide(2 * matched, both, out=np.ones_like(both), where=both > 0)


def _thinned(edges: _Bits) -> _Bits:
    try:
        from skimage.morphology import thin
    except ImportError:
        raise ProbeError(
            "thinning edges needs scikit-image: pip install scikit-image, or thin=False"
        ) from None
    lines: _Bits = thin(edges)  # type: ignore[no-untyped-call]
    return lines
