"""Define what the atlas measures in a layer at one timestep, and between two layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers.cka import CKA, minibatches, similarity_vectors
from emerdiff_probe.layers.clusters import Normalisation, agreement, cluster
from emerdiff_probe.layers.components import effective_rank, principal_components
from emerdiff_probe.layers.explained import explained
from emerdiff_probe.layers.features import Labels, as_points, labels_on, resized
from emerdiff_probe.layers.linear_probes import linear_probe
from emerdiff_probe.schema import SAMPLE, X, Y

__all__ = [
    "MEASURES",
    "CKABetween",
    "ClustersAndLabels",
    "ClustersBetween",
    "EffectiveRank",
    "Explained",
    "LayerMeasure",
    "LinearProbe",
    "Massive",
    "Measure",
    "PairMeasure",
    "Principal",
    "Similarity",
    "Surroundings",
]


@dataclass(frozen=True, eq=False)
class Surroundings:
    """Hold what measures receive besides the features.

    Attributes:
        pictures: Images of the recording (sample, y, x, rgb); None where it has none.
        grid: Number of rows and columns of the coarsest layer, on which layers are compared.
        labels: True classes (sample, y, x), or None.
        ignore: Label whose pixels do not count.
    """

    pictures: xr.DataArray | None
    grid: tuple[int, int]
    labels: Labels | None = None
    ignore: int | None = None

    def images(self, what: str) -> xr.DataArray:
        """Return the images; ``what`` names the measure that needs them.

        Raises:
            InputError: The recording has none.
        """
        if self.pictures is None:
            raise InputError(
                f"{what} needs the images, but this recording has none; record a pipeline, which "
                "keeps them, or choose other measures"
            )
        return self.pictures

    def truth(self, what: str) -> Labels:
        """Return the labels; ``what`` names the measure that needs them.

        Raises:
            InputError: There are none.
        """
        if self.labels is None:
            raise InputError(f"{what} needs labels=, integers (sample, y, x)")
        return self.labels


Values = Mapping[str, float | xr.DataArray]
"""Results by name: numbers, or arrays with dims of their own."""


@runtime_checkable
class LayerMeasure(Protocol):
    """Measure one layer at one timestep."""

    def measure(self, features: xr.DataArray, about: Surroundings) -> Values:
        """Return results by name, from features (sample, y, x, channel), float32 or finer."""


@runtime_checkable
class PairMeasure(Protocol):
    """Compare two layers at one timestep, by a small summary of each."""

    def summary(self, features: xr.DataArray, about: Surroundings) -> NDArray[Any]:
        """Return all that the comparison needs of a layer."""

    def compare(self, one: NDArray[Any], other: NDArray[Any]) -> Mapping[str, float]:
        """Return results by name, from two summaries."""


@dataclass(frozen=True)
class EffectiveRank:
    """Measure ``effective_rank``; see `emerdiff_probe.layers.effective_rank`."""

    def measure(self, features: xr.DataArray, about: Surroundings) -> Values:
        """Return results by name; see `LayerMeasure`."""
        return {"effective_rank": effective_rank(features)}


@dataclass(frozen=True)
class Principal:
    """Measure ``principal_share`` (component): each principal component's share of the variance.

    Attributes:
        count: Number of components.
    """

    count: int = 3

    def measure(self, features: xr.DataArray, about: Surroundings) -> Values:
        """Return results by name; see `LayerMeasure`."""
        share = principal_components(features, self.count).share
        return {"principal_share": xr.DataArray(share, dims="component")}


@dataclass(frozen=True)
class Massive:
    """Measure whether a few massive channels dominate a layer.

    ``massive_share`` is the share of the squared norm of all features in the largest channels, from
    0 to 1; ``massive_even`` is what it would be if all channels were equally large. Where the
    first is far above the second, cosines, clusters and principal components tell of those
    channels and of little else; in a transformer, record port ``normed``. ``massive_channel`` is
    the position of the largest channel, with the channels of all heads one behind the other.

    Source: Gan et al. 2025 (arXiv 2505.18584).

    Attributes:
        fraction: Fraction of the channels that count as the largest; at least one does.
    """

    fraction: float = 0.01

    def measure(self, features: xr.DataArray, about: Surroundings) -> Values:
        """Return results by name; see `LayerMeasure`."""
        points, _ = as_points(features)
        squares = np.square(points).sum(0)
        count = max(1, round(self.fraction * len(squares)))
        with np.errstate(invalid="ignore"):
            share = np.sort(squares)[-count:].sum() / squares.sum()
        return {
            "massive_share": float(share),
            "massive_even": count / len(squares),
            "massive_channel": int(squares.argmax()),
        }


@dataclass(frozen=True)
class Similarity:
    """Measure the mean cosine similarity of two locations.

    ``similarity_within`` is that of two locations of the same image, ``similarity_across`` that of
    two images (NaN where there is only one). Both are near 1 in a layer whose locations are all
    similar.

    Source: Ethayarajh, EMNLP 2019 (arXiv 1909.00512), section 3.3.
    """

    def measure(self, features: xr.DataArray, about: Surroundings) -> Values:
        """Return results by name; see `LayerMeasure`."""
        points, _ = as_points(features)
        lengths = np.linalg.norm(points, axis=1, keepdims=True)
        units = np.divide(points, lengths, out=np.zeros_like(points), where=lengths > 0)
        pictures = features.sizes[SAMPLE]
        places = len(units) // pictures
        sums = units.reshape(pictures, places, -1).sum(1)
        # The squared length of a sum of unit vectors adds up the cosines of all pairs.
        own, whole = float((sums**2).sum()), float((sums.sum(0) ** 2).sum())
        with np.errstate(invalid="ignore"):
            within = np.float64(own - (lengths > 0).sum()) / (pictures * places * (places - 1))
            across = np.float64(whole - own) / (pictures * (pictures - 1) * places**2)
        return {"similarity_within": float(within), "similarity_across": float(across)}


@dataclass(frozen=True)
class LinearProbe:
    """Measure ``probe_accuracy``, its controls, and ``probe_recall`` (class).

    The controls are ``probe_control``, ``probe_exchanged``, ``probe_selectivity`` and
    ``probe_chance``; recall is the accuracy at the locations of each class. See
    `emerdiff_probe.layers.linear_probe`.

    Attributes:
        folds: Number of folds of the cross-validation over images.
        points: Number of locations to draw at random from each image; None takes all.
        seed: Seed of the control tasks and of the locations drawn.
    """

    folds: int = 5
    points: int | None = 256
    seed: int = 0

    def measure(self, features: xr.DataArray, about: Surroundings) -> Values:
        """Return results by name; see `LayerMeasure`."""
        found = linear_probe(
            features,
            about.truth("a linear probe"),
            ignore=about.ignore,
            folds=self.folds,
            points=self.points,
            seed=self.seed,
        )
        names = ("accuracy", "control", "exchanged", "selectivity", "chance")
        recall = xr.DataArray(
            list(found.by_class.values()), dims="class", coords={"class": list(found.by_class)}
        )
        return {f"probe_{name}": getattr(found, name) for name in names} | {"probe_recall": recall}


@dataclass(frozen=True)
class Explained:
    """Measure ``explained`` (share); see `emerdiff_probe.layers.explained`.

    Attributes:
        folds: Number of folds of the cross-validation over images.
    """

    folds: int = 5

    def measure(self, features: xr.DataArray, about: Surroundings) -> Values:
        """Return results by name; see `LayerMeasure`."""
        labels = about.truth("what semantics explain")
        pictures = about.images("what semantics explain")
        shares = explained(features, pictures, labels, ignore=about.ignore, folds=self.folds)
        return {"explained": shares}


@dataclass(frozen=True)
class ClustersAndLabels:
    """Measure ``labels_ari``, ``labels_ami`` and ``labels_nmi``: clusters against the truth.

    All images are clustered together; a location has the most frequent class of its cell.

    Attributes:
        count: Number of clusters.
        normalise, restarts, seed: Settings of `emerdiff_probe.layers.cluster`.
    """

    count: int = 12
    normalise: Normalisation = "none"
    restarts: int = 3
    seed: int = 0

    def measure(self, features: xr.DataArray, about: Surroundings) -> Values:
        """Return results by name; see `LayerMeasure`."""
        truth = labels_on(
            about.truth("agreement of clusters with labels"),
            features.sizes[Y],
            features.sizes[X],
            about.ignore,
        )
        found = cluster(
            features,
            self.count,
            normalise=self.normalise,
            restarts=self.restarts,
            seed=self.seed,
        )
        counts = truth >= 0
        both = (
            xr.DataArray(each[counts][None, None], dims=(SAMPLE, Y, X))
            for each in (found.values, truth)
        )
        return {f"labels_{name}": value for name, value in agreement(*both).items()}


@dataclass(frozen=True)
class CKABetween:
    """Measure ``cka`` with layers averaged to the coarsest grid; see `emerdiff_probe.layers.cka`.

    Attributes:
        points: Number of locations to draw at random, the same in every layer; None takes all.
        batch: Number of locations in a minibatch. A summary takes ``2 * points * batch`` bytes.
        seed: Seed of the locations drawn.
    """

    points: int | None = 1024
    batch: int = 128
    seed: int = 0

    def summary(self, features: xr.DataArray, about: Surroundings) -> NDArray[Any]:
        """Return what `PairMeasure` says."""
        points, _ = as_points(resized(features, *about.grid))
        batches = minibatches(len(points), self.points, self.batch, self.seed)
        return similarity_vectors([points[chosen] for chosen in batches]).astype(np.float32)

    def compare(self, one: NDArray[Any], other: NDArray[Any]) -> Mapping[str, float]:
        """Return what `PairMeasure` says."""
        return {"cka": CKA().include(one, other).value}


@dataclass(frozen=True)
class ClustersBetween:
    """Measure ``clusters_ari``, ``clusters_ami``, ``clusters_nmi``: two layers' clusters.

    Features are averaged to the coarsest grid, and all images are clustered together.

    Attributes:
        count: Number of clusters.
        normalise, restarts, seed: Settings of `emerdiff_probe.layers.cluster`.
    """

    count: int = 12
    normalise: Normalisation = "none"
    restarts: int = 3
    seed: int = 0

    def summary(self, features: xr.DataArray, about: Surroundings) -> NDArray[Any]:
        """Return what `PairMeasure` says."""
        return cluster(
            resized(features, *about.grid),
            self.count,
            normalise=self.normalise,
            restarts=self.restarts,
            seed=self.seed,
        ).values

    def compare(self, one: NDArray[Any], other: NDArray[Any]) -> Mapping[str, float]:
        """Return what `PairMeasure` says."""
        both = (xr.DataArray(each, dims=(SAMPLE, Y, X)) for each in (one, other))
        return {f"clusters_{name}": value for name, value in agreement(*both).items()}


Measure = LayerMeasure | PairMeasure

MEASURES: Final[Mapping[str, Measure]] = {
    "effective_rank": EffectiveRank(),
    "massive": Massive(),
    "principal": Principal(),
    "similarity": Similarity(),
    "probe": LinearProbe(),
    "explained": Explained(),
    "labels": ClustersAndLabels(),
    "cka": CKABetween(),
    "clusters": ClustersBetween(),
}
"""Measures by the names that `emerdiff_probe.layers.atlas` takes."""
