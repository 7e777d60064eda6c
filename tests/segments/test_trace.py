"""TRACE on attention whose objects are known."""

import numpy as np
import pytest
import xarray as xr
from scipy.stats import entropy
from sklearn.metrics import adjusted_rand_score

from emerdiff_probe.errors import InputError
from emerdiff_probe.metrics import edge_counts
from emerdiff_probe.segments import (
    attention_change,
    boundary_divergence,
    edge_components,
    trace_recorded,
)
from emerdiff_probe.segments.trace import mean_attention
from tests.segments.test_diffseg import TRUTH, attention, recorded

RNG = np.random.default_rng(0)


def test_divergence_of_neighbours_by_hand():
    maps = RNG.dirichlet(np.ones(12), (3, 4)).reshape(3, 4, 3, 4)
    found = boundary_divergence(maps)
    flat = maps.reshape(3, 4, 12)
    expected = entropy(flat[2, 1], flat[0, 1]) + entropy(flat[1, 2], flat[1, 0])
    assert found[1, 1] == pytest.approx(expected)
    # At the border a location stands in for its missing neighbour.
    corner = entropy(flat[1, 0], flat[0, 0]) + entropy(flat[0, 1], flat[0, 0])
    assert found[0, 0] == pytest.approx(corner)


def test_change_is_the_mean_divergence_in_the_papers_order():
    one, other = RNG.dirichlet(np.ones(6), (2, 2, 3)).reshape(2, 2, 3, 2, 3)
    rows = [entropy(p, q) for p, q in zip(one.reshape(6, 6), other.reshape(6, 6), strict=True)]
    assert attention_change(one, other) == pytest.approx(np.mean(rows))
    assert attention_change(one, other) != pytest.approx(attention_change(other, one))
    assert attention_change(one, one) == 0


def test_edges_are_where_objects_meet():
    strength = boundary_divergence(attention(TRUTH))
    meets = np.zeros(TRUTH.shape, bool)
    meets[1:-1] |= TRUTH[2:] != TRUTH[:-2]
    meets[:, 1:-1] |= TRUTH[:, 2:] != TRUTH[:, :-2]
    assert strength[meets].min() > 2 * strength[~meets].max()


def test_layers_are_averaged_on_the_largest_grid():
    small, large = attention(TRUTH[::2, ::2]), attention(TRUTH)
    found = mean_attention([small, large])
    assert found.shape == (12, 12, 12, 12)
    assert found.sum((2, 3)) == pytest.approx(np.ones((12, 12)), rel=1e-4)
    assert mean_attention([large]) == pytest.approx(large, rel=1e-6)
    flat = mean_attention([np.full((6, 6, 6, 6), 1 / 36), large])
    assert flat == pytest.approx(large / 2 + 0.5 / 144, rel=1e-4)
    with pytest.raises(InputError, match="no attention maps"):
        mean_attention([])


def test_regions_are_those_between_edges():
    edges = xr.DataArray(np.zeros((9, 9)), dims=("y", "x"))
    edges[4] = edges[:, 4] = 1
    labels = edge_components(edges)
    assert labels.dtype == np.int16
    assert sorted(np.unique(labels)) == [0, 1, 2, 3]
    assert [int(labels[at]) for at in ((0, 0), (0, 8), (8, 0), (8, 8))] == [0, 1, 2, 3]
    assert edge_components(edges * 0).max() == 0


def objects():
    """A recording whose second sample has objects at 281 and 601, and nothing at 1."""
    nodes = {"/": xr.Dataset(coords={"timestep": [601, 281, 1]})}
    for leaf in recorded([TRUTH, TRUTH[::2, ::2]]).leaves:
        values = leaf.to_dataset(inherit=False)
        timed = "timestep" in values.dims
        nodes[leaf.path] = values.isel(timestep=[0, 0, 1]) if timed else values
    return xr.DataTree.from_dict(nodes)


def test_of_a_recording_in_one_call():
    run = objects()
    found = trace_recorded(run, sample=1)
    # From 1 to 281 attention changes, from 281 to 601 it does not.
    assert found.attrs["timestep"] == 281
    assert found["timestep"].values.tolist() == [1, 281, 601]
    assert np.isnan(found["change"].values[0])
    assert found["change"].sel(timestep=281) > 0.1
    assert found["change"].sel(timestep=601) == pytest.approx(0, abs=1e-6)
    edges, truth = found["edges"], np.kron(TRUTH, np.ones((2, 2), int))
    assert edges.shape == (24, 24)
    assert (float(edges.min()), float(edges.max())) == (pytest.approx(0, abs=0.05), 1)
    assert edge_counts(edges, truth, tolerance=2).ods() > 0.7
    mirrored = edge_counts(edges[::-1, ::-1].values, truth, tolerance=2)
    assert mirrored.ods() < edge_counts(edges, truth, tolerance=2).ods() - 0.15
    assert adjusted_rand_score(truth.ravel(), found["labels"].values.ravel()) > 0.6
    xr.testing.assert_identical(trace_recorded(run, [1, 281], sample=1)["edges"], edges)


def test_refusals():
    run = objects()
    with pytest.raises(InputError, match="TRACE compares at least two"):
        trace_recorded(run, [281], sample=1)
    with pytest.raises(InputError, match="sample=2; choose 0 to 1"):
        trace_recorded(run, sample=2)
    with pytest.raises(InputError, match="were not recorded"):
        trace_recorded(run, [5, 281])
