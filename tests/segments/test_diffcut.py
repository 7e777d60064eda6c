import itertools

import numpy as np
import pytest
import xarray as xr
from sklearn.metrics import adjusted_rand_score

from emerdiff_probe.errors import InputError
from emerdiff_probe.segments import DiffCutConfig, diffcut
from emerdiff_probe.segments.diffcut import ncut

RNG = np.random.default_rng(0)
TRUTH = np.kron([[0, 0, 1], [0, 2, 1], [2, 3, 3]], np.ones((3, 3), int))


def grid(values):
    return xr.DataArray(values, dims=("source_y", "source_x", "channel"))


def directions(noise):
    centres = np.linalg.qr(RNG.normal(size=(16, 16))).Q[:4]
    return grid(centres[TRUTH] * 5 + noise * RNG.normal(size=(9, 9, 16)))


def test_the_value_of_a_cut_by_hand():
    weights = np.array([[1.0, 1, 0.5], [1, 1, 0], [0.5, 0, 1]])
    # Cut through 0.5; the parts have degrees 2.5 + 2 and 1.5.
    assert ncut(weights, np.array([False, False, True])) == pytest.approx(0.5 / 4.5 + 0.5 / 1.5)
    assert ncut(np.eye(2), np.array([False, True])) == 0


def test_finds_the_groups_and_how_many_there_are():
    found = diffcut(directions(0.1))
    assert found.dims == ("source_y", "source_x")
    assert found.dtype == np.int16
    assert sorted(np.unique(found)) == [0, 1, 2, 3]
    assert adjusted_rand_score(TRUTH.ravel(), found.values.ravel()) == 1
    assert found.values[0, 0] == 0


def test_the_first_cut_is_the_best_of_all():
    """On few nodes, against every way to divide them in two."""
    points = np.abs(RNG.normal(size=(2, 4, 3))) + np.repeat([[[4, 0, 0]], [[0, 4, 0]]], 4, 1)
    found = diffcut(grid(points), DiffCutConfig(power=3, threshold=0.2)).values.ravel()
    units = points.reshape(8, 3) / np.linalg.norm(points.reshape(8, 3), axis=1)[:, None]
    cosines = units @ units.T
    weights = ((cosines - cosines.min()) / np.ptp(cosines)) ** 3
    best = min(
        (
            np.array((False, *rest))
            for rest in itertools.product((False, True), repeat=7)
            if any(rest)
        ),
        key=lambda part: ncut(weights, part),
    )
    assert ncut(weights, best) <= 0.2
    assert np.array_equal(found > 0, best)


def test_the_threshold_decides_how_far_it_goes():
    features = directions(1.0)
    counts = [int(diffcut(features, DiffCutConfig(threshold=t)).max()) + 1 for t in (0, 0.5, 2.1)]
    assert counts[0] == 1
    assert counts[0] < counts[1] < counts[2]
    fewer = DiffCutConfig(threshold=2.1, smallest=40)
    assert int(diffcut(features, fewer).max()) + 1 < counts[2]


def test_equal_features_are_one_group_and_zeros_their_own():
    assert int(diffcut(grid(np.ones((4, 4, 3)))).max()) == 0
    values = np.ones((4, 4, 3))
    values[1] = 0
    assert np.array_equal(diffcut(grid(values)), np.repeat([[0], [1], [0], [0]], 4, 1))
    assert int(diffcut(grid(np.zeros((3, 3, 2)))).max()) == 0


def test_scale_of_a_feature_does_not_matter():
    features = directions(0.3)
    scaled = features * xr.DataArray(RNG.uniform(0.1, 9, (9, 9)), dims=("source_y", "source_x"))
    assert np.array_equal(diffcut(features), diffcut(scaled))


def test_refusals():
    with pytest.raises(InputError, match="candidates is 0; choose an integer, 1 or more"):
        diffcut(directions(0.1), DiffCutConfig(candidates=0))
    with pytest.raises(InputError, match="not finite"):
        diffcut(directions(0.1) * np.nan)
