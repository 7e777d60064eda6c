"""Group latent locations by one K-way normalised cut, without eigenvectors (Falcon)."""

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
    """Hold the settings of Falcon.

    Attributes:
        power: Exponent of the similarities (alpha; the paper chooses it for each data set, and 4.5
            is that of another implementation).
        inertia: Advantage that another group must at first have before a location changes, as a
            share of the largest gain (tau_0; our choice).
        iterations: Largest number of iterations; it ends earlier when no location changes.
        seed: Seed of the k-means that it starts with (our choice, as we could not read the paper's
            start).
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
    """Group latent locations into as many groups as asked for, by a K-way normalised cut.

    The graph is DiffCut's, and the first groups are those of k-means. All locations then move at
    once to where the cut's gradient is largest, with an inertia that grows until the cut is better.

    Args:
        features: Features of one image, as `emerdiff_probe.layers.normalised` takes them.
        segments: Number of groups, K; a group that loses all its locations is left out. The paper
            estimates K from eigenvalues.
        config: Settings of the cut.

    Returns:
        ``low_res`` (source_y, source_x), int16, numbered by first appearance, like that of
        `emerdiff_probe.layers.cluster`.

    Raises:
        InputError: The features cannot be used, or a setting is out of range.

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
    """Return labels whose normalised cut is no worse than that of the given labels.

    Args:
        weights: Weights of the edges (node, node), symmetric, >= 0.
        labels: Group of each node (node,), from 0.
        config: Settings of the cut; ``power`` and ``seed`` are not used.
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
    """Return the gradient of the association by each node's share in each group (node, group)."""
    members = np.eye(groups)[labels]
    to_groups = weights @ members
    inside, volumes = (members * to_groups).sum(0), members.T @ degrees
    safe = np.where(volumes > 0, volumes, 1)
    found: _Floats = 2 * (to_groups / safe - degrees[:, None] * members * (inside / safe**2))
    # An empty group stays empty, and a node without similar ones stays where it is.
    return np.where((volumes > 0) | (members > 0), found, -np.inf)


def _moved(
    weights: _Floats, gains: _Floats, labels: NDArray[np.integer], inertia: float
) -> NDArray[np.int64] | None:
    """Return labels after one step that increases the association; None where none does."""
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
