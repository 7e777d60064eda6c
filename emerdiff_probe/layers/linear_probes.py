"""Measure what a linear classifier reads from a layer, in images it was not trained on."""

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
    """Describe a classifier, as scikit-learn defines it."""

    def fit(self, points: NDArray[np.float64], labels: NDArray[np.integer]) -> Any:
        """Fit the classifier to points (point, channel) and their classes (point,)."""

    def predict(self, points: NDArray[np.float64]) -> NDArray[np.integer]:
        """Return the class of each point (point,)."""


@dataclass(frozen=True)
class ProbeScores:
    """Hold shares of locations whose class was read correctly, in images not trained on.

    Attributes:
        accuracy: Accuracy of the probe, from 0 to 1.
        control: Accuracy of the same probe, trained and tested on labels shuffled over all
            locations.
        exchanged: Accuracy of the same probe, trained and tested on the labels of another image.
            These form regions like the true ones, so position and the usual layout of images help
            to predict them as much.
        chance: Accuracy of always answering the most frequent class of the training images.
        by_class: Share of each class's locations that the probe read correctly (recall), from 0
            to 1, by the class's number. Locations count whose class was among those trained on; a
            class that a single image has is left out, since nothing can read it in other images.
        pictures: Number of images.
        points: Number of locations.
    """

    accuracy: float
    control: float
    exchanged: float
    chance: float
    by_class: Mapping[int, float]
    pictures: int
    points: int

    @property
    def selectivity(self) -> float:
        """Return how far the probe's accuracy is above that on labels without meaning."""
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
    """Measure how well a linear classifier tells classes apart, cross-validated over images.

    No image has locations in both training and testing: neighbours in one image are so similar that
    a split of pixels tests memory. There are two control tasks with the same labels: permuted over
    all locations of all images, and exchanged between images as whole maps.

    Args:
        features: Features with y, x, channel, and sample (at least 2), at one timestep.
        labels: Classes (sample, y, x), integers, at any size: a location takes the most frequent
            class in its cell.
        ignore: Label whose locations do not count.
        folds: Number of folds of the cross-validation, 2 or more; at most one for each image is
            used.
        points: Number of locations to draw at random from each image; by default all.
        classifier: Classifier of scikit-learn; by default logistic regression on standardised
            channels.
        seed: Seed of the control tasks and of the locations drawn.

    Raises:
        InputError: There is one image only, there are several timesteps, labels belong to other
            images, or there is one class only.

    Source: Alain and Bengio, 2016 (arXiv 1610.01644); control tasks and selectivity by Hewitt and
    Liang, EMNLP 2019 (arXiv 1909.03368). Their control gives each word type a random label;
    locations have no types, so here labels are shuffled over all locations, or exchanged between
    images.
    """
    features = at_one_timestep(features)
    if features.sizes[SAMPLE] < 2:
        raise InputError(
            f"features have sizes {dict(features.sizes)}; give two or more images (samples), so "
            "that the probe is tested on other images than it is trained on"
        )
    matrix, pictures = as_points(features)
    maps = labels_on(labels, features.sizes[Y], features.sizes[X], ignore)
    classes = maps.ravel()
    if len(classes) != len(matrix):
        raise InputError(
            f"labels have {len(labels)} images and features {features.sizes[SAMPLE]}; give one "
            "image of labels for each sample"
        )
    random = np.random.RandomState(seed)
    counts = (classes >= 0) & _drawn(pictures, points, random)
    matrix, pictures, classes = matrix[counts], pictures[counts], classes[counts]
    if len(np.unique(classes)) < 2:
        raise InputError(f"labels have {len(np.unique(classes))} classes; a probe needs 2 or more")
    model = classifier or make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    shuffled = random.permutation(classes)
    exchanged = maps[_others(len(maps), random)].ravel()[counts]
    right = {name: np.zeros(len(classes), bool) for name in ("accuracy", "control", "chance")}
    right_elsewhere = np.zeros(len(classes), bool)
    known = np.zeros(len(classes), bool)
    for train, test in picture_folds(pictures, folds):
        known[test] = np.isin(classes[test], classes[train])
        for name, truth in (("accuracy", classes), ("control", shuffled)):
            right[name][test] = _right(model, matrix, truth, train, test)
        # Another image may be ignored where this one is not.
        there, asked = (each[exchanged[each] >= 0] for each in (train, test))
        if len(there) and len(asked):
            right_elsewhere[asked] = _right(model, matrix, exchanged, there, asked)
        values, frequency = np.unique(classes[train], return_counts=True)
        right["chance"][test] = classes[test] == values[frequency.argmax()]
    return ProbeScores(
        **{name: float(each.mean()) for name, each in right.items()},
        exchanged=float(right_elsewhere.sum() / max(1, (exchanged >= 0).sum())),
        by_class={
            int(each): float(right["accuracy"][known & (classes == each)].mean())
            for each in np.unique(classes[known])
        },
        pictures=len(np.unique(pictures)),
        points=len(classes),
    )


def picture_folds(
    pictures: NDArray[np.integer], folds: int
) -> list[tuple[NDArray[np.integer], NDArray[np.integer]]]:
    """Return the training and testing points of each fold; no image is in both.

    Args:
        pictures: Number of each point's image (point,).
        folds: Number of folds, 2 or more; at most one for each image is used.

    Raises:
        InputError: There are fewer than 2 folds or images.
    """
    count = min(folds, len(np.unique(pictures)))
    if count < 2:
        raise InputError(
            f"folds={folds} of {len(np.unique(pictures))} images; give 2 or more of each"
        )
    return list(GroupKFold(count).split(pictures, groups=pictures))


def _right(
    model: Classifier,
    matrix: NDArray[np.float64],
    truth: NDArray[np.integer],
    train: NDArray[np.integer],
    test: NDArray[np.integer],
) -> NDArray[np.bool_]:
    """Train on some locations and return which of the others are read correctly."""
    if len(known := np.unique(truth[train])) == 1:  # nothing to learn
        return np.asarray(truth[test] == known[0])
    with warnings.catch_warnings():
        # Labels in random order cannot be fitted well, so a warning that the fit stopped early is
        # no news.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = clone(model).fit(matrix[train], truth[train])
    return np.asarray(fitted.predict(matrix[test]) == truth[test])


def _others(count: int, random: np.random.RandomState) -> NDArray[np.integer]:
    """Return another image for each image, every one of them once."""
    order = random.permutation(count)
    others = np.empty_like(order)
    others[order] = np.roll(order, 1)
    return others


def _drawn(
    pictures: NDArray[np.integer], points: int | None, random: np.random.RandomState
) -> NDArray[np.bool_]:
    if points is None:
        return np.ones(len(pictures), bool)
    chosen = np.zeros(len(pictures), bool)
    for picture in np.unique(pictures):
        chosen[random.permutation(np.flatnonzero(pictures == picture))[:points]] = True
    return chosen
