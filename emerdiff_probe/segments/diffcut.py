"""Group latent locations by recursive normalised cuts (DiffCut), another way to cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.linalg import eigh

from emerdiff_probe.checks import integer, number
from emerdiff_probe.errors import InputError
from emerdiff_probe.layers.clusters import by_first_appearance, normalised
from emerdiff_probe.locations import on_latent_grid
from emerdiff_probe.schema import CHANNEL

__all__ = ["DiffCutConfig", "affinities", "diffcut", "ncut"]

_Floats = NDArray[np.float64]

_TINY: Final = 1e-9


@dataclass(frozen=True)
class DiffCutConfig:
    """Hold the settings of DiffCut.

    Attributes:
        threshold: Value of a cut, 0 to 2, below which a part is cut again (tau; 0.5 in the paper).
        power: Exponent of the similarities; larger ones make weak similarities vanish (alpha; 10 in
            the paper).
        candidates: Number of thresholds of the eigenvector to try for each cut.
        smallest: Number of latent locations below which a part is not cut.
    """

    threshold: float = 0.5
    power: float = 10.0
    candidates: int = 100
    smallest: int = 2

    def __post_init__(self) -> None:
        for name, value in (
            ("threshold", number("threshold", self.threshold, error=InputError)),
            ("power", number("power", self.power, error=InputError, above=0)),
            ("candidates", integer("candidates", self.candidates, 1, error=InputError)),
            ("smallest", integer("smallest", self.smallest, 2, error=InputError)),
        ):
            object.__setattr__(self, name, value)


def diffcut(features: xr.DataArray, config: DiffCutConfig = DiffCutConfig()) -> xr.DataArray:
    """Group latent locations by recursive normalised cuts; the number of groups follows.

    All locations form a graph. Its weights are cosine similarities, brought to [0, 1] over the
    image and raised to a power. The graph is cut in two at the second smallest generalised
    eigenvector, and each part again, until a cut would cost as much as the threshold.

    Args:
        features: Features of one image, as `emerdiff_probe.layers.normalised` takes them. The paper
            takes the output of the last self-attention block of the encoder.
        config: Settings of the cuts.

    Returns:
        ``low_res`` (source_y, source_x), int16, numbered by first appearance, like that of
        `emerdiff_probe.layers.cluster`.

    Raises:
        InputError: The features cannot be used, or a setting is out of range.

    Source: Couairon et al., NeurIPS 2024 (DiffCut, arXiv 2406.02842), section 3, and in what it
    leaves open (the range of similarities, the number of candidates) the authors' code,
    diffcut/recursive_normalized_cut.py of github.com/PaulCouairon/DiffCut; the recursive cut is Shi
    and Malik's, IEEE TPAMI 22(8), 2000.
    """
    units = normalised(on_latent_grid(features), "l2")
    points = units.values.reshape(-1, units.sizes[CHANNEL])
    weights = affinities(points, config.power)
    labels = np.zeros(len(points), np.int64)
    open_parts = [np.arange(len(points))]
    count = 1
    while open_parts:
        part = open_parts.pop()
        second = _cut(weights[np.ix_(part, part)], config)
        if second is None:
            continue
        labels[part[second]] = count
        count += 1
        open_parts += [part[~second], part[second]]
    shape = units.shape[:2]
    low_res = units.isel({CHANNEL: 0}, drop=True).copy(
        data=by_first_appearance(labels).reshape(shape)
    )
    return low_res.rename("low_res").drop_attrs()


def affinities(points: NDArray[np.floating], power: float) -> _Floats:
    """Return how alike points of length 1 are: cosines brought to [0, 1], to some power.

    Args:
        points: (point, channel).
        power: Larger ones make weak similarities vanish.
    """
    cosines = points @ points.T
    low, high = cosines.min(), cosines.max()
    if high - low < _TINY:  # all are alike to the last digit
        return np.ones(cosines.shape)
    return np.asarray(((cosines - low) / (high - low)) ** power, np.float64)


def ncut(weights: _Floats, second: NDArray[np.bool_]) -> float:
    """Return the value of a normalised cut: the weight cut through, over that of each part.

    Args:
        weights: Weights of the edges (node, node), symmetric, >= 0.
        second: Whether each node is in the second part (node,).

    Returns:
        Value from 0 (nothing is cut) to 2.

    Source: Shi and Malik, IEEE TPAMI 22(8), 2000, eq. 2.
    """
    degrees = weights.sum(1)
    through = weights[~second][:, second].sum()
    shares = (degrees[~second].sum(), degrees[second].sum())
    return float(sum(through / share if share > 0 else np.inf for share in shares))


def _cut(weights: _Floats, config: DiffCutConfig) -> NDArray[np.bool_] | None:
    """Return the second part of the best cut in two, or None where it costs too much."""
    if len(weights) < config.smallest:
        return None
    degrees = weights.sum(1)
    if not (degrees > 0).all():  # features of zeros resemble nothing, not even themselves
        return degrees == 0 if (degrees > 0).any() else None
    scale = 1 / np.sqrt(degrees)
    normal = np.eye(len(weights)) - scale[:, None] * weights * scale
    _, vectors = eigh(normal, subset_by_index=(1, 1))
    vector = vectors[:, 0] * scale
    low, high = vector.min(), vector.max()
    tried = np.linspace(low, high, config.candidates + 2)[1:-1]
    parts = [vector > value for value in tried]
    parts = [part for part in parts if part.any() and not part.all()]
    if not parts:
        return None
    costs = [ncut(weights, part) for part in parts]
    best = int(np.argmin(costs))
    return parts[best] if costs[best] < config.threshold else None
