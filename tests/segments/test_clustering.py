import warnings

import numpy as np
import pytest
import xarray as xr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import pixel_centres
from emerdiff_probe.segments import as_masks, cluster, embeddings, normalised, one_hot


def features_of(values):
    height, width, _ = np.shape(values)
    return xr.DataArray(
        np.asarray(values, np.float32),
        dims=("source_y", "source_x", "channel"),
        coords={"source_y": pixel_centres(height, 64), "source_x": pixel_centres(width, 64)},
        name="value",
        attrs={"site": "somewhere"},
    )


@pytest.fixture
def blobs():
    """8 x 8 locations of 5 channels around 4 far points, and which point each belongs to."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (8, 8))
    truth[0, :4] = [2, 0, 3, 1]
    return features_of(10 * rng.normal(size=(4, 5))[truth] + rng.normal(size=(8, 8, 5))), truth


class TestCluster:
    def test_finds_the_blobs_in_order_of_appearance(self, blobs):
        features, truth = blobs
        low_res = cluster(features, 4)
        assert low_res.name == "low_res"
        assert low_res.dtype == np.int16
        assert low_res.dims == ("source_y", "source_x")
        assert low_res.values[0, :4].tolist() == [0, 1, 2, 3]
        assert adjusted_rand_score(truth.ravel(), low_res.values.ravel()) == 1
        xr.testing.assert_equal(low_res.source_y, features.source_y)
        assert not low_res.attrs

    def test_is_the_partition_of_scikit_learn(self, blobs):
        features, _ = blobs
        theirs = KMeans(7, n_init=3, random_state=5).fit_predict(features.values.reshape(64, 5))
        ours = cluster(features, 7, restarts=3, seed=5)
        assert adjusted_rand_score(theirs, ours.values.ravel()) == 1
        other = cluster(features, 7, restarts=1, seed=6)
        assert adjusted_rand_score(theirs, other.values.ravel()) < 1  # the control

    def test_the_same_twice_and_whatever_the_order_of_dimensions(self, blobs):
        features, _ = blobs
        low_res = cluster(features, 9)
        xr.testing.assert_identical(low_res, cluster(features, 9))
        xr.testing.assert_identical(low_res, cluster(features.transpose("channel", ...), 9))

    def test_l2_ignores_length_and_standard_ignores_scale(self):
        rays = [[[1, 0], [9, 0], [0, 1], [0, 9]]]
        assert cluster(features_of(rays), 2, normalise="l2").values.tolist() == [[0, 0, 1, 1]]
        assert cluster(features_of(rays), 2).values.tolist() != [[0, 0, 1, 1]]
        # One loud channel against two quiet ones that agree.
        loud = features_of([[[0, 0, 0], [1000, 0, 0], [0, 1, 1], [1000, 1, 1]]])
        assert cluster(loud, 2, normalise="standard").values.tolist() == [[0, 0, 1, 1]]
        assert cluster(loud, 2).values.tolist() == [[0, 1, 0, 1]]

    def test_as_many_masks_as_locations_and_one(self, blobs):
        features, _ = blobs
        assert cluster(features, 64).values.ravel().tolist() == list(range(64))
        assert not cluster(features, 1).values.any()

    @pytest.mark.parametrize("masks", [0, -1, 65])
    def test_refuses_numbers_of_masks_out_of_range(self, blobs, masks):
        with pytest.raises(InputError, match=rf"masks={masks} on 8 x 8.*choose 1 to 64"):
            cluster(blobs[0], masks)

    def test_refuses_more_masks_than_different_features_without_a_warning(self):
        flat = features_of(np.zeros((4, 4, 3)))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not cluster(flat, 1).values.any()
            with pytest.raises(InputError, match="only 1 of masks=3 could be told apart"):
                cluster(flat, 3)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_refuses_features_that_are_not_finite(self, blobs, bad):
        features = blobs[0].copy()
        features[2, 3, 4] = bad
        with pytest.raises(InputError, match="1 values that are not finite"):
            cluster(features, 4)

    def test_refuses_other_dimensions_and_normalisations(self, blobs):
        features, _ = blobs
        with pytest.raises(InputError, match="no features of locations"):
            cluster(features.rename(source_y="row"), 4)
        with pytest.raises(InputError, match="no normalisation 'max'; choices"):
            cluster(features, 4, normalise="max")


def test_normalised_leaves_zeros_and_constants_at_zero():
    features = features_of([[[3, 4], [0, 0]], [[3, 0], [3, -4]]])
    expected = [[[0.6, 0.8], [0, 0]], [[1, 0], [0.6, -0.8]]]
    np.testing.assert_allclose(normalised(features, "l2"), expected)
    constant = features_of([[[7, 1], [7, 3]]])
    np.testing.assert_allclose(normalised(constant, "standard"), [[[0, -1], [0, 1]]])
    assert features.values[0, 0, 0] == 3  # the original is untouched


class TestOneHot:
    def test_by_hand(self):
        low_res = cluster(features_of([[[0], [0], [9]]]), 2)
        masks = one_hot(low_res, 3)
        assert masks.dims == ("mask", "source_y", "source_x")
        assert masks.dtype == np.float32
        assert masks.values.tolist() == [[[1, 1, 0]], [[0, 0, 1]], [[0, 0, 0]]]
        assert masks.mask.values.tolist() == [0, 1, 2]
        xr.testing.assert_equal(masks.source_x, low_res.source_x)

    def test_refuses_labels_out_of_range_and_floats(self):
        low_res = xr.DataArray([[0, 4]], dims=("source_y", "source_x"))
        with pytest.raises(InputError, match="labels run from 0 to 4; with masks=4: 0 to 3"):
            one_hot(low_res, 4)
        with pytest.raises(InputError, match="labels run from -4"):
            one_hot(-low_res, 4)
        with pytest.raises(InputError, match="labels are integers"):
            one_hot(low_res * 1.0, 5)


class TestEmbeddings:
    def test_means_by_hand(self):
        features = features_of([[[1, 10], [3, 30], [8, 80]]])
        masks = as_masks([[0, 0, 1]], (1, 3))
        means = embeddings(features, masks)
        assert means.dims == ("mask", "channel")
        assert means.dtype == np.float32
        assert means.values.tolist() == [[2, 20], [8, 80]]
        assert means.mask.values.tolist() == [0, 1]
        soft = as_masks(np.array([[[0.75, 0.25, 0]]]), (1, 3))
        assert embeddings(features, soft).values.tolist() == [[1.5, 15]]

    def test_refuses_an_empty_mask_and_another_grid(self, blobs):
        features, _ = blobs
        masks = one_hot(cluster(features, 4), 5)
        with pytest.raises(InputError, match="mask 4 is empty"):
            embeddings(features, masks)
        with pytest.raises(InputError, match="take both from the same site"):
            embeddings(features, masks.isel(source_x=slice(4)))


class TestAsMasks:
    def test_labels_and_stacks_at_the_grids_size(self):
        labels = np.array([[0, 1], [2, 1]])
        masks = as_masks(labels, (2, 2))
        assert masks.dims == ("mask", "source_y", "source_x")
        assert masks.dtype == np.float32
        assert masks.values[1].tolist() == [[0, 1], [0, 1]]
        stack = labels == np.arange(3)[:, None, None]
        for same in (stack, stack.astype(float), stack.astype(np.uint8), stack.tolist()):
            xr.testing.assert_identical(as_masks(same, (2, 2)), masks)

    def test_larger_ones_are_averaged_by_area(self):
        labels = [[0, 0, 1, 1], [0, 1, 1, 1]]
        assert as_masks(labels, (1, 2)).values.tolist() == [[[0.75, 0]], [[0.25, 1]]]
        weights = np.array([[[0.5, 1, 0, 0], [0, 0.5, 0, 1]]])
        assert as_masks(weights, (1, 2)).values.tolist() == [[[0.5, 0.25]]]

    def test_labels_at_any_size_weigh_one_in_sum(self):
        labels = np.random.default_rng(0).integers(0, 5, (24, 40))
        np.testing.assert_allclose(as_masks(labels, (8, 8)).sum("mask"), 1, rtol=1e-6)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((3, 4), int), r"masks of shape \(3, 4\) on 4 x 4"),
            (np.zeros((2, 2), int), r"masks of shape \(2, 2\)"),
            (np.zeros(16, int), r"masks of shape \(16,\)"),
            (np.zeros((1, 1, 4, 4)), r"masks of shape \(1, 1, 4, 4\)"),
            (np.zeros((0, 0), int), r"masks of shape \(0, 0\)"),
            (np.zeros((0, 4, 4)), "no masks in an array"),
            (np.zeros((4, 4)), r"labels \(h, w\) are integers, not float64.*mask\[None\]"),
            (np.eye(4, dtype=bool), "labels .* not bool"),
            (np.eye(4, dtype=int) - 1, r"labels are \[-1, 0\], but number from 0"),
            (2 * np.eye(4, dtype=int), r"labels are \[0, 2\], but number from 0"),
            (np.stack([np.eye(4), np.zeros((4, 4))]), "mask 1 is empty"),
            (np.full((1, 4, 4), np.nan), "masks of float64 with values outside"),
            (np.full((1, 4, 4), np.inf), "masks of float64 with values outside"),
            (np.full((1, 4, 4), -0.1), "masks of float64 with values outside"),
            (np.full((1, 4, 4), 255, np.uint8), "masks of uint8 with values outside"),
            (np.full((1, 4, 4), "a"), "masks of <U1"),
        ],
    )
    def test_refuses(self, array, message):
        with pytest.raises(InputError, match=message):
            as_masks(array, (4, 4))
