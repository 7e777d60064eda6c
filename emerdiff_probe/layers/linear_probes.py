"""Linear probes: what a linear classifier reads from a layer, in pictures it has not seen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers.features import Labels, as_points, labels_on
from emerdiff_probe.locations import at_one_timestep
from emerdiff_probe.schema import SAMPLE, X, Y

__all__ = ["Classifier", "ProbeScores", "linear_probe", "picture_folds"]


class Classifier(Protocol):
    """What scikit-learn calls a classifier."""

    def fit(self, points: NDArray[np.float64], labels: NDArray[np.integer]) -> Any:
        """Learns."""

    def predict(self, points: NDArray[np.float64]) -> NDArray[np.integer]:
        """The class of each point."""


@dataclass(frozen=True)
class ProbeScores:
    """Shares of places whose class was read correctly, in pictures that were not trained on.

    Attributes:
        accuracy: Of the probe, from 0 to 1.
        control: Of the same probe trained and tested on shuffled labels.
        chance: Of always giving the most frequent class of the training pictures.
        by_class: For each class, the share of its places that the probe read correctly (recall),
            by the class's number.
        pictures: How many there were.
        points: How many places.
    """

    accuracy: float
    control: float
    chance: float
    by_class: Mapping[int, float]
    pictures: int
    points: int

    @property
    def selectivity(self) -> float:
        """How much the probe reads beyond what it makes of labels without meaning."""
        return self.accuracy - self.control


def linear_probe(
    features: xr.DataArray,
    labels: Labels,
    *,
    ignore: int | None = None,
    folds: int = 5,
    points: int | None = None,
    classifier: Classifier | None = None,
    seed: int = 0,
) -> ProbeScores:
    """How well a linear classifier tells classes from features, cross-validated over pictures.

    No picture has places in both training and testing: neighbours in one picture are so alike that
    a split of pixels tests memory. The control task has the same classes in random order.

    Args:
        features: With y, x, channel, and sample (at least 2), at one timestep.
        labels: Integers (sample, y, x), at any size: a place takes the most frequent class in its
            cell.
        ignore: A label that does not count.
        folds: Of the cross-validation, at most the number of pictures.
        points: Places of each picture, drawn at random; by default all.
        classifier: Of scikit-learn; by default logistic regression on standardised channels.
        seed: Of the control task and the places drawn.

    Raises:
        InputError: One picture, several timesteps, labels of other pictures, or one class only.

    Source: Alain and Bengio, 2016 (arXiv 1610.01644); control tasks and selectivity by Hewitt and
    Liang, EMNLP 2019 (arXiv 1909.03368), whose control gives each word type a random label; places
    have no types, so here labels are shuffled over all places.
    """
    features = at_one_timestep(features)
    if features.sizes[SAMPLE] < 2:
        raise InputError(
            f"features have {dict(features.sizes)}; a probe takes at least two pictures (samples), "
            "to be tested on other pictures than it is trained on"
        )
    matrix, pictures = as_points(features)
    classes = labels_on(labels, features.sizes[Y], features.sizes[X], ignore).ravel()
    if len(classes) != len(matrix):
        raise InputError(
            f"labels of {len(labels)} pictures for features of {features.sizes[SAMPLE]}"
        )
    random = np.random.RandomState(seed)
    counts = (classes >= 0) & _drawn(pictures, points, random)
    matrix, pictures, classes = matrix[counts], pictures[counts], classes[counts]
    if len(np.unique(classes)) < 2:
        raise InputError(f"labels have {len(np.unique(classes))} classes; a probe needs two")
    model = classifier or make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    shuffled = random.permutation(classes)
    right = {name: np.zeros(len(classes), bool) for name in ("accuracy", "control", "chance")}
    for train, test in picture_folds(pictures, folds):
        for name, truth in (("accuracy", classes), ("control", shuffled)):
            right[name][test] = _right(model, matrix, truth, train, test)
        values, frequency = np.unique(classes[train], return_counts=True)
        right["chance"][test] = classes[test] == values[frequency.argmax()]
    return ProbeScores(
        **{name: float(each.mean()) for name, each in right.items()},
        by_class={
            int(each): float(right["accuracy"][classes == each].mean())
            for each in np.unique(classes)
        },
        pictures=len(np.unique(pictures)),
        points=len(classes),
    )


def picture_folds(
    pictures: NDArray[np.integer], folds: int
) -> list[tuple[NDArray[np.integer], NDArray[np.integer]]]:
    """Training and testing points of each fold; no picture is in both.

    Args:
        pictures: The number of each point's picture.
        folds: At most the number of pictures.

    Raises:
        InputError: Fewer than 2 folds or pictures.
    """
    count = min(folds, len(np.unique(pictures)))
    if count < 2:
        raise InputError(f"{folds} folds of {len(np.unique(pictures))} pictures; both at least 2")
    return list(GroupKFold(count).split(pictures, groups=pictures))


def _right(
    model: Classifier,
    matrix: NDArray[np.float64],
    truth: NDArray[np.integer],
    train: NDArray[np.integer],
    test: NDArray[np.integer],
) -> NDArray[np.bool_]:
    """Train on some places and return which of the others are read correctly."""
    if len(known := np.unique(truth[train])) == 1:  # nothing to be learned
        return np.asarray(truth[test] == known[0])
    with warnings.catch_warnings():
        # Labels in random order fit nothing: where an optimiser gives up on them is no news.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = clone(model).fit(matrix[train], truth[train])
    return np.asarray(fitted.predict(matrix[test]) == truth[test])


def _drawn(
    pictures: NDArray[np.integer], points: int | None, random: np.random.RandomState
) -> NDArray[np.bool_]:
    if points is None:
        return np.ones(len(pictures), bool)
    chosen = np.zeros(len(pictures), bool)
    for picture in np.unique(pictures):
        chosen[random.permutation(np.flatnonzero(pictures == picture))[:points]] = True
    return chosen
