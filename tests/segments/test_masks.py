import numpy as np
import pytest
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import cluster
from emerdiff_probe.segments import as_masks, embeddings, one_hot
from tests.recordings import features_of


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
        with pytest.raises(InputError, match="labels run from 0 to 4; masks=4 allows 0 to 3"):
            one_hot(low_res, 4)
        with pytest.raises(InputError, match="labels run from -4"):
            one_hot(-low_res, 4)
        with pytest.raises(InputError, match="give integers"):
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

    def test_refuses_an_empty_mask_and_another_grid(self):
        features = features_of(np.random.default_rng(0).normal(size=(8, 8, 5)))
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
            (np.zeros((0, 4, 4)), "has no masks; give at least one"),
            (np.zeros((4, 4)), r"labels \(h, w\) have type float64; give integers.*mask\[None\]"),
            (np.eye(4, dtype=bool), "labels .* have type bool"),
            (np.eye(4, dtype=int) - 1, r"labels are \[-1, 0\]; number them from 0"),
            (2 * np.eye(4, dtype=int), r"labels are \[0, 2\]; number them from 0"),
            (np.stack([np.eye(4), np.zeros((4, 4))]), "mask 1 is empty"),
            (np.full((1, 4, 4), np.nan), "masks of float64 have values outside"),
            (np.full((1, 4, 4), np.inf), "masks of float64 have values outside"),
            (np.full((1, 4, 4), -0.1), "masks of float64 have values outside"),
            (np.full((1, 4, 4), 255, np.uint8), "masks of uint8 have values outside"),
            (np.full((1, 4, 4), "a"), "masks of <U1"),
        ],
    )
    def test_refuses(self, array, message):
        with pytest.raises(InputError, match=message):
            as_masks(array, (4, 4))
