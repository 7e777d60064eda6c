"""Centred kernel alignment: how alike two layers are in which places they take for alike."""

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
"""Points in a minibatch: their similarities are a matrix of its square."""


@dataclass(frozen=True)
class CKA:
    """Linear CKA over minibatches; ``update`` gives a new one.

    The independence measure (HSIC) of each minibatch is estimated without bias, by Song et al.'s
    estimator, and averaged before the ratio is taken. Few points or many channels so do not make
    unrelated layers look alike.

    Attributes:
        xy, xx, yy: Sums over minibatches of the estimates between the two layers and within each.

    Source: Kornblith et al., ICML 2019 (arXiv 1905.00414), eq. 2; Song et al., JMLR 13, 2012, eq. 5
    (HSIC_1); minibatches by Nguyen et al., ICLR 2021 (arXiv 2010.15327), eqs. 2 and 3.
    """

    xy: float = 0.0
    xx: float = 0.0
    yy: float = 0.0

    def update(self, one: NDArray[np.floating], other: NDArray[np.floating]) -> CKA:
        """With one more minibatch.

        Args:
            one: (point, channel), at least 4 points.
            other: The same points in another layer; channels may differ in number.
        """
        return self.include(similarity_vectors([one]), similarity_vectors([other]))

    def include(self, one: NDArray[np.floating], other: NDArray[np.floating]) -> CKA:
        """With minibatches given as :func:`similarity_vectors`."""
        first, second = one.astype(np.float64).ravel(), other.astype(np.float64).ravel()
        return CKA(
            self.xy + float(first @ second),
            self.xx + float(first @ first),
            self.yy + float(second @ second),
        )

    @property
    def value(self) -> float:
        """1 for the same up to rotation and scale, about 0 (also below) for unrelated layers.

        NaN where a layer is the same at all points.
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
    """Debiased linear CKA of two layers, over the places of all samples (and timesteps).

    Args:
        one, other: With y, x, channel, and perhaps sample and timestep, the same in both. The
            finer grid is averaged to the coarser.
        points: How many places at most, drawn at random; by default all.
        batch: Places in a minibatch, at least 4. What is left over is not used.
        seed: Of the order of places.

    Returns:
        See `CKA.value`.

    Raises:
        InputError: Other samples or timesteps, or too few places.
    """
    one, other = by_location(one), by_location(other)
    rows = min(one.sizes[Y], other.sizes[Y])
    columns = min(one.sizes[X], other.sizes[X])
    first, second = (as_points(resized(each, rows, columns))[0] for each in (one, other))
    if len(first) != len(second):
        raise InputError(
            f"{len(first)} places in one layer and {len(second)} in the other; give layers of the "
            "same samples and timesteps"
        )
    found = CKA()
    for chosen in minibatches(len(first), points, batch, seed):
        found = found.update(first[chosen], second[chosen])
    return found.value


def minibatches(count: int, points: int | None, batch: int, seed: int) -> list[NDArray[np.integer]]:
    """Positions of the points of each minibatch, all of one size, in random order.

    Raises:
        InputError: Fewer than 4 points, which the estimator needs.
    """
    order = np.random.RandomState(seed).permutation(count)[:points]
    size = min(batch, len(order))
    if size < 4:
        raise InputError(f"{size} points in a minibatch; CKA needs at least 4")
    return list(order[: len(order) // size * size].reshape(-1, size))


def similarity_vectors(batches: list[NDArray[np.floating]]) -> NDArray[np.floating]:
    """What of a layer its CKA with any other depends on, so that features need not be kept.

    The products of two of them, summed, are Song et al.'s HSIC_1: the similarities of all pairs of
    points, U-centred (Székely and Rizzo, Annals of Statistics 42, 2014, eq. 2.4), in which form the
    estimator is an inner product.

    Args:
        batches: (point, channel) each.

    Returns:
        (batch, pair), each scaled by 1 / sqrt(n (n - 3) / 2).
    """
    vectors = []
    for points in batches:
        n = len(points)
        # Centring first changes nothing but keeps large means from costing digits.
        centred = points.astype(np.float64) - points.mean(0, dtype=np.float64)
        gram = centred @ centred.T
        np.fill_diagonal(gram, 0)
        sums = gram.sum(1)
        gram += sums.sum() / ((n - 1) * (n - 2)) - (sums[:, None] + sums) / (n - 2)
        upper = np.triu_indices(n, 1)
        vectors.append(gram[upper] / np.sqrt(n * (n - 3) / 2))
    return np.stack(vectors)
