"""Falcon: latent locations grouped by one K-way normalised cut, without eigenvectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.checks import integer, number
from emerdiff_probe.errors import InputError
from emerdiff_probe.layers.clusters import by_first_appearance, cluster, normalised
from emerdiff_probe.locations import on_latent_grid
from emerdiff_probe.schema import CHANNEL
from emerdiff_probe.segments.diffcut import affinities

__all__ = ["FalconConfig", "association", "falcon", "kway_cut"]

_Floats = NDArray[np.float64]

_GROWTH: Final = 2.0
_ENOUGH: Final = 0.1


@dataclass(frozen=True)
class FalconConfig:
    """What Falcon leaves to choose.

    Attributes:
        power: Of the similarities (alpha; chosen by data set in the paper; 4.5 is that of others
            who wrote it anew).
        inertia: How much better another group is before a location changes, at first, as a share
            of the largest gain (tau_0; our choice).
        iterations: At most; it ends earlier when no location changes.
        seed: Of the k-means that it begins with (our choice: the start could not be read).
    """

    power: float = 4.5
    inertia: float = 0.01
    iterations: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (
            ("power", number("power", self.power, error=InputError, above=0)),
            ("inertia", number("inertia", self.inertia, error=InputError, above=0)),
            ("iterations", integer("iterations", self.iterations, 0, error=InputError)),
            ("seed", integer("seed", self.seed, 0, error=InputError)),
        ):
            object.__setattr__(self, name, value)


def falcon(
    features: xr.DataArray, segments: int, config: FalconConfig = FalconConfig()
) -> xr.DataArray:
    """Return latent locations in as many groups as asked for, by a K-way normalised cut.

    The graph is DiffCut's. Groups begin as those of k-means; all locations then move at once to
    where the cut's gradient is largest, with an inertia that grows until the cut is better.

    Args:
        features: As `emerdiff_probe.layers.normalised` takes them.
        segments: K; a group that loses all its locations is left out. The paper guesses it from
            eigenvalues.
        config: How.

    Returns:
        ``low_res`` (source_y, source_x), int16, numbered by first appearance, as
        `emerdiff_probe.layers.cluster` gives it.

    Raises:
        InputError: Unusable features, or settings out of range.

    Source: Zhang et al., ICLR 2026 (Falcon; first as arXiv 2504.05613, with another solver), read
    in summaries; steps of the inertia are ours.
    """
    units = normalised(on_latent_grid(features), "l2")
    points = units.values.reshape(-1, units.sizes[CHANNEL])
    begun = cluster(units, segments, seed=config.seed)
    labels = kway_cut(affinities(points, config.power), begun.values.ravel(), config)
    return begun.copy(data=by_first_appearance(labels).reshape(begun.shape))


def kway_cut(
    weights: _Floats, labels: NDArray[np.integer], config: FalconConfig = FalconConfig()
) -> NDArray[np.int64]:
    """Return labels whose normalised cut is no worse than that of the given ones.

    Args:
        weights: (node, node), symmetric, >= 0.
        labels: (node,), from 0.
        config: How; ``power`` and ``seed`` have no part in it.
    """
    degrees = weights.sum(1)
    groups = int(labels.max()) + 1
    found = labels.astype(np.int64)
    for _ in range(config.iterations):
        gains = _gains(weights, degrees, found, groups)
        better = _moved(weights, gains, found, config.inertia)
        if better is None:
            break
        found = better
    return found


def association(weights: _Floats, labels: NDArray[np.integer]) -> float:
    """Return the weight inside groups as a share of their degrees, summed: K minus the cut."""
    degrees = weights.sum(1)
    shares = 0.0
    for group in np.unique(labels):
        inside = labels == group
        volume = degrees[inside].sum()
        shares += weights[np.ix_(inside, inside)].sum() / volume if volume > 0 else 0.0
    return float(shares)


def _gains(weights: _Floats, degrees: _Floats, labels: NDArray[np.integer], groups: int) -> _Floats:
    """The gradient of the association by each node's share in each group, (node, group)."""
    members = np.eye(groups)[labels]
    to_groups = weights @ members
    inside, volumes = (members * to_groups).sum(0), members.T @ degrees
    safe = np.where(volumes > 0, volumes, 1)
    found: _Floats = 2 * (to_groups / safe - degrees[:, None] * members * (inside / safe**2))
    # What is empty stays empty, and who is like nothing stays where it is.
    return np.where((volumes > 0) | (members > 0), found, -np.inf)


def _moved(
    weights: _Floats, gains: _Floats, labels: NDArray[np.integer], inertia: float
) -> NDArray[np.int64] | None:
    """Labels after one step that makes the association larger; None where none does."""
    before = association(weights, labels)
    reward = inertia * float(np.abs(gains[np.isfinite(gains)]).max() or 1)
    own = (np.arange(len(labels)), labels)
    while True:
        scores = gains.copy()
        scores[own] += reward
        moved = scores.argmax(1)
        changed = int(np.count_nonzero(moved != labels))
        if not changed:
            return None
        # The squared distance of one-hot rows is 2 for each that changes.
        if association(weights, moved) >= before + _ENOUGH * reward * changed:
            return moved
        reward *= _GROWTH
