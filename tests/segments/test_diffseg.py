import itertools

import numpy as np
import pytest
import xarray as xr
from scipy.stats import entropy
from sklearn.metrics import adjusted_rand_score

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers.attention import attention as recorded_attention
from emerdiff_probe.schema import pixel_centres
from emerdiff_probe.segments import (
    DiffSegConfig,
    aggregate_attention,
    diffseg,
    diffseg_recorded,
    merge_attention,
)
from emerdiff_probe.segments.diffseg import _distances

RNG = np.random.default_rng(0)

TRUTH = np.kron([[0, 0, 1], [0, 2, 1], [2, 2, 1]], np.ones((4, 4), int))


def attention(truth, noise=0.2):
    """Each place attends to those of its own object, and a little to all."""
    flat = truth.ravel()
    maps = (flat[:, None] == flat) + noise * RNG.random((flat.size, flat.size)) + 0.02
    return (maps / maps.sum(1, keepdims=True)).reshape(truth.shape * 2)


def test_distances_are_those_of_scipy():
    p, q = RNG.dirichlet(np.ones(6), (2, 3)).astype(np.float32)
    found = _distances(p, q)
    for i, j in itertools.product(range(3), range(3)):
        expected = (entropy(p[i], q[j]) + entropy(q[j], p[i])) / 2
        assert found[i, j] == pytest.approx(expected, rel=1e-4)
    assert np.diag(_distances(p, p)) == pytest.approx(np.zeros(3), abs=1e-5)


def test_maps_of_several_sizes_are_weighted_by_their_side():
    small, large = attention(TRUTH[::2, ::2]), attention(TRUTH)
    found = aggregate_attention([small, large])
    assert found.shape == (12, 12, 12, 12)
    assert found.sum((2, 3)) == pytest.approx(np.ones((12, 12)), rel=1e-4)
    # Far from its edges a coarse map keeps its values, a quarter of them a pixel.
    only_small = aggregate_attention([small, np.full((12, 12, 12, 12), 1 / 144)])
    plain = (only_small - 2 / 3 / 144) * 3
    assert plain[0, 0] == pytest.approx(plain[1, 1])
    assert plain[0, 0, 0, 0] == pytest.approx(small[0, 0, 0, 0] / 4, rel=0.05)
    assert found == pytest.approx(plain / 3 + large * 2 / 3, abs=1e-5)


def test_finds_the_objects_and_how_many_there_are():
    labels = diffseg([attention(TRUTH), attention(TRUTH[::2, ::2])], (48, 48))
    truth = np.kron(TRUTH, np.ones((4, 4), int))
    assert labels.dims == ("y", "x")
    assert sorted(np.unique(labels)) == [0, 1, 2]
    assert adjusted_rand_score(truth.ravel(), labels.values.ravel()) > 0.9


def test_attention_without_objects_gives_one_segment_and_shuffled_places_none_of_them():
    flat = np.full((12, 12, 12, 12), 1 / 144)
    assert set(np.unique(diffseg([flat], (24, 24)))) == {0}
    order = RNG.permutation(144)
    shuffled = attention(TRUTH.ravel()[order].reshape(12, 12))
    labels = diffseg([shuffled], (12, 12))
    assert abs(adjusted_rand_score(TRUTH.ravel(), labels.values.ravel())) < 0.1


def test_a_lower_threshold_gives_more_proposals():
    maps = aggregate_attention([attention(TRUTH)])
    counts = [
        len(merge_attention(maps, DiffSegConfig(anchors=6, threshold=threshold)))
        for threshold in (1e-6, 1.0, 100.0)
    ]
    assert counts[0] == 36
    assert counts[1] == 3
    assert counts[2] == 1


def test_one_iteration_leaves_every_anchor_a_proposal():
    maps = aggregate_attention([attention(TRUTH)])
    assert len(merge_attention(maps, DiffSegConfig(anchors=4, iterations=1))) == 16
    assert len(merge_attention(maps, DiffSegConfig(anchors=99, iterations=1))) == 144


def test_refusals():
    with pytest.raises(InputError, match="no attention maps"):
        aggregate_attention([])
    with pytest.raises(InputError, match=r"expected \(y, x, y, x\) on a grid that divides 12 x 12"):
        aggregate_attention([attention(TRUTH), attention(TRUTH[:5, :5])])
    with pytest.raises(InputError, match="anchors is 0; choose an integer, 1 or more"):
        merge_attention(attention(TRUTH), DiffSegConfig(anchors=0))


def recorded(truths, heads=2, **root):
    """A recording of self-attentions whose places attend to those of their own object."""
    leaves = {"image": {"value": (("sample", "y", "x", "rgb"), np.zeros((2, 24, 24, 3), np.uint8))}}
    for number, truth in enumerate(truths):
        rows, columns = truth.shape
        # Of the second sample the first timestep has the objects and the other nothing.
        sharp = np.eye(4)[truth] * np.array([[0, 0], [5, 0]])[..., None, None, None]
        values = np.repeat(sharp[..., None, :], heads, -2)  # sample, timestep, y, x, head, channel
        for port in ("query", "key"):
            leaves[f"mid_block/attn{number}/{port}"] = xr.Dataset(
                {"value": (("sample", "timestep", "y", "x", "head", "channel"), values)},
                {"y": pixel_centres(rows, 24), "x": pixel_centres(columns, 24)},
            )
    places = {dim: pixel_centres(24, 24) for dim in ("y", "x")}
    leaves["image"] = xr.Dataset(leaves["image"], places)
    return xr.DataTree.from_dict({"/": xr.Dataset(coords={"timestep": [281, 1]}), **leaves})


def test_of_a_recording_in_one_call():
    run = recorded([TRUTH, TRUTH[::2, ::2]])
    found = diffseg_recorded(run, 281, sample=1)
    assert found.shape == (24, 24)
    truth = np.kron(TRUTH, np.ones((2, 2), int))
    assert adjusted_rand_score(truth.ravel(), found.values.ravel()) > 0.9
    # The same as by hand, from the layers' probabilities.
    layers = [
        recorded_attention(run, f"mid_block.attn{number}")
        .isel(sample=1)
        .sel(timestep=281)
        .mean("head")
        .values
        for number in range(2)
    ]
    assert np.array_equal(found, diffseg(layers, (24, 24)))
    one = diffseg_recorded(run, 281, sample=1, attentions=["mid_block.attn1"])
    assert np.array_equal(one, diffseg(layers[1:], (24, 24)))
    # Where every place attends to all alike there is one segment.
    assert diffseg_recorded(run, 1, sample=1).max() == 0
    assert diffseg_recorded(run, 281, sample=0).max() == 0


def test_refusals_of_a_recording():
    run = recorded([TRUTH])
    with pytest.raises(InputError, match="timestep 5 was not recorded; choices"):
        diffseg_recorded(run, 5)
    with pytest.raises(InputError, match="sample=2; choose 0 to 1"):
        diffseg_recorded(run, 281, sample=2)
    del run["mid_block/attn0"]["key"]
    with pytest.raises(InputError, match="no queries and keys of any self-attention; record them"):
        diffseg_recorded(run, 281)
