"""Merging masks, normalised cuts and the choice of K, on features whose groups are known."""

import numpy as np
import pytest
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.metrics import adjusted_rand
from emerdiff_probe.segments import dendrogram, merge, normalised_cut, silhouettes
from tests.datasets import bands


@pytest.fixture
def result():
    """Four bands; 0 and 2 have nearly one embedding, 1 and 3 nearly another."""
    ds = bands(masks=4)
    ds["embeddings"] = (
        ("mask", "channel"),
        np.float32([[1, 0, 0], [0, 1, 0], [0.99, 0.1, 0], [0, 1, 0.3]]),
    )
    maps = np.zeros((4, 32, 32), np.float32)
    maps[:2, :16] = 1  # 0 and 1 move the same pixels
    maps[2, 16:] = maps[3, 16:] = 1
    maps[3, 0, 0] = 1
    ds["difference"] = (("mask", "model_y", "model_x"), maps)
    return ds


def test_the_most_alike_merge_first(result):
    found = merge(result, count=2)
    assert found["merged"].values.tolist() == [0, 1, 0, 1]
    assert np.array_equal(found["labels"], result["labels"] % 2)
    assert np.array_equal(found["low_res"], result["low_res"] % 2)
    by_responses = merge(result, count=2, by="responses")
    assert by_responses["merged"].values.tolist() == [0, 0, 1, 1]


def test_a_distance_merges_what_is_within_it(result):
    tree = dendrogram(result)
    first = tree.sel(merge=0)
    assert set(first.sel(column=["first", "second"]).values) == {0, 2}
    expected = 1 - 0.99 / np.hypot(0.99, 0.1)
    assert first.sel(column="distance").item() == pytest.approx(expected, rel=1e-4)
    assert (np.diff(tree.sel(column="distance")) >= 0).all()
    for distance, left in ((0.0, 4), (0.01, 3), (0.5, 2), (2.0, 1)):
        assert merge(result, distance=distance)["merged"].max() + 1 == left


def test_a_mask_that_moves_nothing_is_like_no_other(result):
    result["difference"][2] = 0
    tree = dendrogram(result, "responses")
    assert tree.sel(column="distance").max() == 1


def test_what_cannot_be_merged_is_refused(result):
    for options in (
        {},
        {"count": 2, "distance": 1.0},
        {"count": 0},
        {"count": 5},
        {"distance": -1.0},
        {"count": 2, "by": "colour"},
    ):
        with pytest.raises(InputError):
            merge(result, **options)
    with pytest.raises(InputError, match="1 mask"):
        dendrogram(result.isel(mask=[0]))


def blobs(groups, seed=0, spread=0.1):
    """Features (8, 8, 5) around one direction for each band of columns."""
    random = np.random.RandomState(seed)
    truth = np.tile(np.arange(8) * groups // 8, (8, 1))
    values = 3 * np.eye(5)[truth] + spread * random.randn(8, 8, 5)
    features = xr.DataArray(values, dims=("source_y", "source_x", "channel"))
    return features, truth


def test_cuts_find_groups_and_chance_does_not():
    features, truth = blobs(4)
    found = normalised_cut(features, 4)
    assert found.dims == ("source_y", "source_x")
    assert adjusted_rand(found, truth) == 1
    assert found.values[0, 0] == 0
    shuffled = np.random.RandomState(0).permutation(truth.ravel()).reshape(8, 8)
    assert adjusted_rand(found, shuffled) < 0.2
    with pytest.raises(InputError, match="2 to 63"):
        normalised_cut(features, 1)


@pytest.mark.parametrize("groups", [2, 4])
def test_the_silhouette_knows_how_many_there_are(groups):
    features, _ = blobs(groups)
    scores = silhouettes(features, range(2, 6), restarts=3)
    assert int(scores.idxmax()) == groups
    assert scores.max() > 0.8
    noise, _ = blobs(groups, spread=10)
    assert silhouettes(noise, range(2, 6), restarts=3).max() < 0.4
    with pytest.raises(InputError, match="2 to 63"):
        silhouettes(features, [1, 2])
