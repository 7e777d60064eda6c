"""Compare two layers by centred kernel alignment: whether they find the same locations alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers.features import as_points, resized
from emerdiff_probe.locations import by_location
from emerdiff_probe.schema import X, Y

__all__ = ["CKA", "cka", "similarity_vectors"]

BATCH = 256
"""Number of points in a minibatch; the matrix of their similarities has its square as size."""


@dataclass(frozen=True)
class CKA:
    """Accumulate linear CKA over minibatches; ``update`` returns a new object.

    Song et al.'s unbiased estimator of the independence measure (HSIC) is averaged over minibatches
    before the ratio is taken, so that few points or many channels do not make unrelated layers look
    alike.

    Attributes:
        xy, xx, yy: Sums over minibatches of the estimates between the two layers, and within each.

    Source: Kornblith et al., ICML 2019 (arXiv 1905.00414), eq. 2; Song et al., JMLR 13, 2012, eq. 5
    (HSIC_1); minibatches by Nguyen et al., ICLR 2021 (arXiv 2010.15327), eqs. 2 and 3.
    """

    xy: float = 0.0
    xx: float = 0.0
    yy: float = 0.0

    def update(self, one: NDArray[np.floating], other: NDArray[np.floating]) -> CKA:
        """Add one more minibatch.

        Args:
            one: Features of one layer (point, channel), at least 4 points.
            other: Features of the same points in another layer; it may have another number of
                channels.
        """
        return self.include(similarity_vectors([one]), similarity_vectors([other]))

    def include(self, one: NDArray[np.floating], other: NDArray[np.floating]) -> CKA:
        """Add minibatches in the form that :func:`similarity_vectors` returns."""
        first, second = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        return CKA(
            self.xy + float(first @ second),
            self.xx + float(first @ first),
            self.yy + float(second @ second),
        )

    @property
    def value(self) -> float:
        """Return the CKA: 1 for layers equal up to rotation and scale, about 0 for unrelated ones.

        It can be slightly below 0, and is NaN where a layer is the same at all points.
        """
        scale = np.sqrt(max(self.xx, 0.0)) * np.sqrt(max(self.yy, 0.0))
        return float(self.xy / scale) if scale > 0 else float("nan")


def cka(
    one: xr.DataArray,
    other: xr.DataArray,
    *,
    points: int | None = None,
    batch: int = BATCH,
    seed: int = 0,
) -> float:
    """Return the debiased linear CKA of two layers over the locations of all samples.

    Args:
        one, other: Features with y, x, channel, and perhaps sample and timestep, the same in both.
            The finer grid is averaged to the coarser.
        points: Largest number of locations, drawn at random; by default all are used.
        batch: Number of locations in a minibatch, at least 4. An incomplete last batch is not used.
        seed: Seed of the order of locations.

    Returns:
        CKA, about 0 to 1; see `CKA.value`.

    Raises:
        InputError: The layers have different samples or timesteps, or there are too few locations.
    """
    one, other = by_location(one), by_location(other)
    rows = min(one.sizes[Y], other.sizes[Y])
    columns = min(one.sizes[X], other.sizes[X])
    first, second = (as_points(resized(each, rows, columns))[0] for each in (one, other))
    if len(first) != len(second):
        raise InputError(
            f"one layer has {len(first)} locations and the other {len(second)}; give layers of the "
            "same samples and timesteps"
        )
    found = CKA()
    for chosen in minibatches(len(first), points, batch, seed):
        found = found.update(first[chosen], second[chosen])
    return found.value


def minibatches(count: int, points: int | None, batch: int, seed: int) -> list[NDArray[np.integer]]:
    """Return the positions of each minibatch's points, in random order; all have the same size.

    Raises:
        InputError: There are fewer than the 4 points that the estimator needs.
    """
    order = np.random.RandomState(seed).permutation(count)[:points]
    size = min(batch, len(order))
    if size < 4:
        raise InputError(f"a minibatch has {size} points; give CKA at least 4")
    return list(order[: len(order) // size * size].reshape(-1, size))


def similarity_vectors(batches: list[NDArray[np.floating]]) -> NDArray[np.floating]:
    """Return all that the CKA of a layer depends on, so that its features need not be kept.

    The vectors are the similarities of all pairs of points, U-centred (Székely and Rizzo, Annals of
    Statistics 42, 2014, eq. 2.4). In this form Song et al.'s HSIC_1 is an inner product: the
    products of two layers' vectors, summed.

    Args:
        batches: Features of each minibatch (point, channel).

    Returns:
        Vectors (batch, pair), each scaled by 1 / sqrt(n (n - 3) / 2).
    """
    vectors = []
    for points in batches:
        n = len(points)
        # Centring first does not change the result, but keeps large means from costing precision.
        centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
        gram = centred @ centred.T
        np.fill_diagonal(gram, 0)
        sums = gram.sum(1)
        gram += sums.sum() / ((n - 1) * (n - 2)) - (sums[:, None] + sums) / (n - 2)
        upper = np.triu_indices(n, 1)
        vectors.append(gram[upper] / np.sqrt(n * (n - 3) / 2))
    return np.stack(vectors)
