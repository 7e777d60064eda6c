"""FG-ARI and mBO, against hand-made cases and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, jaccard_score

from emerdiff_probe.errors import InputError
from emerdiff_probe.metrics import adjusted_rand, foreground_adjusted_rand, mean_best_overlap

TRUTH = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 2, 2, 2]])


def test_only_the_foreground_counts():
    labels = np.array([[3, 4, 1, 1], [5, 6, 1, 1], [7, 2, 2, 2]])
    assert foreground_adjusted_rand(labels, TRUTH) == 1
    assert adjusted_rand(labels, TRUTH) < 1
    merged = np.ones_like(labels)
    assert foreground_adjusted_rand(merged, TRUTH) == 0
    # What is background is said: with 2 as background, too, one object is left whole.
    assert foreground_adjusted_rand(labels, TRUTH, background=(0, 2)) == 1


def test_foreground_agrees_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth, labels = rng.integers(0, 5, (2, 30, 30))
    labels = np.where(rng.random((30, 30)) < 0.6, truth, labels)
    objects = (truth != 0) & (truth != 4)
    found = foreground_adjusted_rand(labels, truth, background=(0,), ignore=4)
    assert found == pytest.approx(adjusted_rand_score(truth[objects], labels[objects]))
    assert found.protocol == "FG-ARI"
    assert 0.2 < found < 0.9


def test_best_overlap_by_hand():
    labels = np.array([[0, 0, 0, 1], [0, 0, 0, 1], [0, 1, 1, 1]])
    # 0: 5 of 7 with segment 0. 1: 2 of 7 with either (7 = 4 + 5 - 2). 2: 3 of 5 with segment 1.
    assert mean_best_overlap(labels, TRUTH) == pytest.approx((5 / 7 + 2 / 7 + 3 / 5) / 3)
    assert mean_best_overlap(labels, TRUTH, background=(0,)) == pytest.approx((2 / 7 + 3 / 5) / 2)
    assert mean_best_overlap(TRUTH + 4, TRUTH) == 1


def test_best_overlap_agrees_with_scikit_learn():
    rng = np.random.default_rng(1)
    truth, labels = rng.integers(0, 4, (2, 20, 20))
    labels = np.where(rng.random((20, 20)) < 0.5, truth, labels + 2)
    counts = truth != 3
    best = [
        max(jaccard_score(truth[counts] == each, labels[counts] == ours) for ours in range(6))
        for each in range(3)
    ]
    assert mean_best_overlap(labels, truth, ignore=3) == pytest.approx(np.mean(best))


def test_a_truth_without_objects_is_refused():
    for metric in (foreground_adjusted_rand, mean_best_overlap):
        with pytest.raises(InputError, match=r"no object, only \[0\]"):
            metric(TRUTH, np.zeros_like(TRUTH), background=(0,))
