import dask.array
import numpy as np
import pytest
import xarray as xr

from emerdiff_probe.errors import InputError, SiteError
from emerdiff_probe.layers import features, labels_on, resized
from emerdiff_probe.layers.features import (
    area_weights,
    as_points,
    blocks,
    class_shares,
    colours_on,
)
from emerdiff_probe.locations import by_location
from tests.recordings import layer as made
from tests.recordings import recording

RNG = np.random.default_rng(0)


def test_features_are_those_of_the_recording_at_a_timestep():
    values = RNG.random((2, 3, 4, 4, 5))
    run = recording({"up/out": values}, np.zeros((2, 8, 8, 3), np.uint8), (981, 481, 1))
    assert features(run, "up").shape == (2, 3, 4, 4, 5)
    assert np.array_equal(features(run, "up:out", 481), values[:, 1])
    with pytest.raises(InputError, match="timestep 5 was not recorded; choices: 981, 481, 1"):
        features(run, "up", 5)
    with pytest.raises(SiteError):
        features(run, "down")


def test_heads_are_joined_and_the_conditional_half_is_taken():
    values = RNG.random((2, 2, 3, 3, 4, 5))
    array = xr.DataArray(
        values,
        dims=("sample", "guidance", "y", "x", "head", "channel"),
        coords={"guidance": ["uncond", "cond"]},
    )
    assert np.array_equal(by_location(array), values[:, 1].reshape(2, 3, 3, 20))
    assert by_location(array.isel(sample=0)).sizes["sample"] == 1
    with pytest.raises(InputError, match="has no features of locations"):
        by_location(array.rename(y="token"))


def test_blocks_are_the_chunks_and_cover_everything_once():
    values = RNG.random((2, 5, 3, 3, 4))
    lazy = made(values).chunk({"sample": 1, "timestep": 2})
    assert isinstance(lazy.data, dask.array.Array)
    parts = list(blocks(lazy))
    assert [part.shape[:2] for part in parts] == [(1, 2), (1, 2), (1, 1)] * 2
    assert all(isinstance(part.data, np.ndarray) for part in parts)
    assert sum(float(part.sum()) for part in parts) == pytest.approx(values.sum())
    assert len(list(blocks(made(values)))) == 1


def test_points_know_their_picture_and_refuse_what_is_missing():
    values = RNG.random((2, 3, 4, 5))
    points, pictures = as_points(made(values))
    assert np.array_equal(points, values.reshape(-1, 5))
    assert pictures.tolist() == [0] * 12 + [1] * 12
    values[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="1 features are not finite"):
        as_points(made(values))


def test_averaging_keeps_means_and_places():
    values = RNG.random((2, 6, 4, 3))
    coarse = resized(made(values, 12), 3, 2)
    assert np.allclose(coarse, values.reshape(2, 3, 2, 2, 2, 3).mean((2, 4)))
    assert coarse.dims == ("sample", "y", "x", "channel")
    assert coarse["y"].values.tolist() == [2, 6, 10]
    odd = area_weights(5, 3)
    assert np.allclose(odd.sum(1), 1)
    assert np.allclose(odd.sum(0), 3 / 5)
    with pytest.raises(InputError, match="cannot be averaged to 7 x 4"):
        resized(made(values), 7, 4)


def test_labels_and_colours_on_a_grid_by_hand():
    labels = np.array([[[4, 4, 7, 9], [4, 7, 9, 7]]])
    shares = class_shares(np.searchsorted([4, 7, 9], labels), 1, 2, 3)
    assert shares[0, 0].tolist() == [[0.75, 0.25, 0], [0, 0.5, 0.5]]
    assert labels_on(labels, 1, 2).tolist() == [[[4, 7]]]
    assert labels_on(labels, 1, 2, ignore=4).tolist() == [[[-1, 7]]]
    with pytest.raises(InputError, match=r"give integers \(sample, y, x\)"):
        labels_on(labels[0], 1, 2)
    pictures = xr.DataArray(
        np.array([[[[0, 0, 255], [255, 0, 255]]]], np.uint8), dims=("sample", "y", "x", "rgb")
    )
    assert colours_on(pictures, 1, 1).tolist() == [[[[0.5, 0, 1]]]]
