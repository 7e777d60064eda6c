import warnings

import numpy as np
import pytest
import xarray as xr
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import cluster, normalised
from tests.recordings import features_of


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
            with pytest.raises(InputError, match="only 1 of masks=3 can be told apart"):
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
        with pytest.raises(InputError, match="no normalisation 'max'; choose"):
            cluster(features, 4, normalise="max")


def test_normalised_leaves_zeros_and_constants_at_zero():
    features = features_of([[[3, 4], [0, 0]], [[3, 0], [3, -4]]])
    expected = [[[0.6, 0.8], [0, 0]], [[1, 0], [0.6, -0.8]]]
    np.testing.assert_allclose(normalised(features, "l2"), expected)
    constant = features_of([[[7, 1], [7, 3]]])
    np.testing.assert_allclose(normalised(constant, "standard"), [[[0, -1], [0, 1]]])
    assert features.values[0, 0, 0] == 3  # the original is untouched
