"""ODS and OIS, against hand-made maps and an assignment by scipy."""

import sys

import numpy as np
import pytest
import xarray as xr
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from emerdiff_probe.errors import InputError, ProbeError
from emerdiff_probe.metrics import edge_counts, edges_of

HALVES = np.zeros((20, 20), int)
HALVES[:, 10:] = 1  # the boundary is column 9


def line(column, strength, rows=20):
    edges = np.zeros((20, 20))
    edges[:rows, column] = strength
    return edges


def test_boundaries_of_the_truth_itself_are_perfect():
    labels = np.random.default_rng(0).integers(0, 3, (4, 4)).repeat(8, 0).repeat(8, 1)
    counts = edge_counts(edges_of(labels), labels, thin=False)
    assert counts.ods() == counts.ois() == 1
    assert counts.ods().protocol == "ODS"
    assert counts.true[0] == edges_of(labels).sum()


def test_f_by_hand():
    # 10 of 20 true pixels are found, and 5 that are not there.
    edges = line(9, 0.7, rows=10) + line(2, 0.7, rows=5)
    counts = edge_counts(edges, HALVES, thresholds=4, thin=False)
    assert counts.thresholds.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert counts.matched[0].tolist() == [10, 10, 10, 0]
    assert counts.found[0].tolist() == [15, 15, 15, 0]
    assert counts.ods() == pytest.approx(2 * 10 / (15 + 20))


def test_within_the_tolerance_and_not_beyond():
    for column, expected in ((9, 20), (11, 20), (12, 0)):
        counts = edge_counts(line(column, 1), HALVES, tolerance=2, thin=False)
        assert counts.matched.max() == expected
    assert edge_counts(line(10, 1), HALVES, thin=False).ods() == 0  # 0.75 % of 28.3 is 0.2 px
    assert edge_counts(line(9, 1), HALVES, thin=False).ods() == 1


def test_a_thick_edge_counts_once_unless_it_is_thinned():
    thick = line(8, 1) + line(9, 1) + line(10, 1)
    counts = edge_counts(thick, HALVES, tolerance=2, thin=False)
    assert (counts.matched.max(), counts.found.max()) == (20, 60)
    assert counts.ods() == pytest.approx(40 / 80)
    thinned = edge_counts(thick, HALVES, tolerance=2)
    assert 18 <= thinned.found.max() <= 20
    assert thinned.ods() > 0.9


def test_pairs_are_as_many_as_can_be():
    """Against the assignment of least cost, where a pair within reach costs nothing."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        truth = rng.integers(0, 2, (6, 6))
        edges = (rng.random((6, 6)) < 0.4).astype(float)
        counts = edge_counts(edges, truth, thresholds=1, tolerance=1.5, thin=False)
        far = cdist(np.argwhere(edges), np.argwhere(edges_of(truth))) > 1.5
        rows, columns = linear_sum_assignment(far.astype(int))
        assert counts.matched[0, 0] == (~far[rows, columns]).sum()


def test_each_picture_may_have_its_own_threshold():
    # In one picture what is true is weak; in the other what is false is as weak, and wide.
    faint = edge_counts(line(9, 0.3), HALVES, thin=False)
    noisy = edge_counts(np.maximum(line(9, 0.8), line(2, 0.3)), HALVES, thin=False)
    both = faint + noisy
    assert both.ois() == 1
    # At 0.3: 40 right of 60 found; at 0.8: 20 right of 20.
    assert both.ods() == pytest.approx(max(2 * 40 / (60 + 40), 2 * 20 / (20 + 40)))
    assert both.best_threshold() <= 0.3
    assert faint.ods() == faint.ois() == 1


def test_nothing_to_find_and_nothing_found():
    flat = np.zeros((20, 20), int)
    assert edge_counts(np.zeros((20, 20)), flat).ods() == 1
    assert edge_counts(line(3, 1), flat, thin=False).ods() == 0
    assert edge_counts(line(3, 0.5), flat, thin=False).ods() == 1  # above 0.5 nothing is found
    assert edge_counts(np.zeros((20, 20)), HALVES).ods() == 0


def test_what_is_ignored_does_not_count():
    truth = HALVES.copy()
    truth[10:] = 9
    counts = edge_counts(line(9, 1, rows=10) + line(2, 0), truth, ignore=9, thin=False)
    assert counts.true[0] == 10
    assert counts.ods() == 1
    assert edge_counts(line(9, 1), truth, ignore=9, thin=False).found.max() == 10


def test_labelled_arrays_and_refusals(monkeypatch):
    edges = xr.DataArray(line(9, 1).T, dims=("x", "y"))
    truth = xr.DataArray(HALVES, dims=("y", "x"))
    assert edge_counts(edges, truth, thin=False).ods() == 1
    with pytest.raises(InputError, match="run from 0 to 2; for this truth give"):
        edge_counts(line(9, 2), HALVES)
    with pytest.raises(InputError, match=r"shape \(3, 3\)"):
        edge_counts(np.zeros((3, 3)), HALVES)
    with pytest.raises(InputError, match="have different thresholds"):
        edge_counts(edges, HALVES, thin=False) + edge_counts(
            edges, HALVES, thresholds=5, thin=False
        )
    monkeypatch.setitem(sys.modules, "skimage.morphology", None)
    with pytest.raises(ProbeError, match="pip install scikit-image"):
        edge_counts(edges, HALVES)
