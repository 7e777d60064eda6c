"""Falcon's cut, against brute force and the definition."""

import itertools

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from emerdiff_probe.errors import InputError
from emerdiff_probe.segments import FalconConfig, falcon
from emerdiff_probe.segments.diffcut import affinities, ncut
from emerdiff_probe.segments.falcon import _gains, association, kway_cut
from tests.segments.test_diffcut import TRUTH, directions, grid

RNG = np.random.default_rng(0)


def graph(nodes, seed=0):
    points = np.random.default_rng(seed).random((nodes, 3))
    units = points / np.linalg.norm(points, axis=1)[:, None]
    return affinities(units, 4.5)


def test_association_is_what_a_cut_leaves():
    weights, labels = graph(9), np.arange(9) % 2
    assert association(weights, labels) == pytest.approx(2 - ncut(weights, labels == 1))


def test_gains_are_the_gradient():
    weights, labels = graph(7), np.array([0, 1, 2, 0, 1, 2, 2])
    degrees, members = weights.sum(1), np.eye(3)[labels]

    def soft(values):
        inside = np.einsum("ik,ij,jk->k", values, weights, values)
        return (inside / np.einsum("ik,i,ik->k", values, degrees, values)).sum()

    gains, small = _gains(weights, degrees, labels, 3), 1e-6
    for at in itertools.product(range(7), range(3)):
        step = np.zeros((7, 3))
        step[at] = small
        slope = (soft(members + step) - soft(members - step)) / (2 * small)
        assert gains[at] == pytest.approx(slope, abs=1e-6)


def test_the_cut_never_gets_worse_and_often_better():
    better = 0
    for seed in range(10):
        weights = graph(40, seed)
        begun = np.random.default_rng(seed).integers(0, 4, 40)
        found = kway_cut(weights, begun)
        before, after = association(weights, begun), association(weights, found)
        assert after >= before
        better += after > before + 0.05
    assert better >= 8
    assert np.array_equal(kway_cut(weights, begun, FalconConfig(iterations=0)), begun)


def test_the_best_cut_of_few_nodes_is_found():
    points = np.abs(RNG.normal(size=(10, 3))) * 0.3 + np.repeat([[3, 0, 0], [0, 3, 0]], 5, 0)
    weights = affinities(points / np.linalg.norm(points, axis=1)[:, None], 4.5)
    best = max(
        (np.array((0, *rest)) for rest in itertools.product((0, 1), repeat=9) if any(rest)),
        key=lambda labels: association(weights, labels),
    )
    begun = best.copy()
    begun[[1, 7]] = 1 - begun[[1, 7]]  # two are in the wrong group
    assert adjusted_rand_score(kway_cut(weights, begun), best) == 1


def test_groups_of_a_layer_are_found():
    features = directions(0.3)
    found = falcon(features, 4)
    assert found.dims == ("source_y", "source_x")
    assert found.dtype == np.int16
    assert found.name == "low_res"
    assert adjusted_rand_score(TRUTH.ravel(), found.values.ravel()) == 1
    assert falcon(features, 1).max() == 0
    scaled = features * (1 + RNG.random((9, 9, 1)))
    assert np.array_equal(falcon(scaled, 4), found)


def test_zeros_and_refusals():
    values = np.ones((4, 4, 3)) + 0.1 * RNG.random((4, 4, 3))
    values[1] = 0
    assert falcon(grid(values), 2).shape == (4, 4)
    assert kway_cut(np.zeros((3, 3)), np.array([0, 1, 1])).tolist() == [0, 1, 1]
    with pytest.raises(InputError, match="power is 0; choose a finite number above 0"):
        FalconConfig(power=0)
    with pytest.raises(InputError, match="masks=99 on 9 x 9"):
        falcon(directions(0.1), 99)
