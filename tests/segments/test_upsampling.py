import numpy as np
import pytest
import torch
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.metrics import majority_class_miou
from emerdiff_probe.schema import pixel_centres
from emerdiff_probe.segments import (
    as_masks,
    bilinear_features,
    bilinear_masks,
    embeddings,
    guided_filter,
    nearest,
    one_hot,
)

SIZE = 32


def at_grid(array):
    height, width = array.sizes["source_y"], array.sizes["source_x"]
    return array.assign_coords(
        source_y=pixel_centres(height, SIZE), source_x=pixel_centres(width, SIZE)
    )


@pytest.fixture
def pixels():
    return pixel_centres(SIZE, SIZE)


@pytest.fixture
def low_res():
    values = np.random.default_rng(0).integers(0, 5, (8, 8))
    return at_grid(xr.DataArray(values, dims=("source_y", "source_x")))


@pytest.fixture
def masks():
    """Random weights, so that no two are equal anywhere."""
    values = np.random.default_rng(1).random((5, 8, 8))
    return at_grid(xr.DataArray(values, dims=("mask", "source_y", "source_x")))


def torch_upsampled(values, mode, **options):
    planes = torch.as_tensor(np.asarray(values, np.float64))[None]
    return torch.nn.functional.interpolate(planes, (SIZE, SIZE), mode=mode, **options)[0].numpy()


def test_nearest_agrees_with_torch(low_res, pixels):
    labels = nearest(low_res, pixels, pixels)
    expected = torch_upsampled(low_res.values[None], "nearest-exact")[0]
    np.testing.assert_array_equal(labels, expected)
    assert labels.dims == ("y", "x")
    assert labels.dtype == np.int16
    np.testing.assert_array_equal(labels.y, pixels)


def test_bilinear_masks_agree_with_torch(masks, pixels):
    expected = torch_upsampled(masks, "bilinear", align_corners=False).argmax(0)
    labels = bilinear_masks(masks, pixels, pixels)
    np.testing.assert_array_equal(labels, expected)
    askew = torch_upsampled(masks, "bilinear", align_corners=True).argmax(0)
    assert (labels.values != askew).any()  # the control
    np.testing.assert_array_equal(
        bilinear_masks(masks.transpose("source_x", "mask", "source_y"), pixels, pixels), labels
    )


def test_any_positions_can_be_asked_for(masks, pixels):
    labels = bilinear_masks(masks, pixels, pixels)
    some = bilinear_masks(masks, pixels[3:5], pixels[[7]])
    np.testing.assert_array_equal(some, labels[3:5, [7]])
    beyond = bilinear_masks(masks, [-100.0, 1e6], [16.5])  # the border's values continue
    np.testing.assert_array_equal(beyond.values[:, 0], labels.values[[0, -1], 16])


def test_equal_weights_go_to_the_lower_number(pixels):
    halves = at_grid(as_masks([[0, 1]], (1, 2)))
    middle = bilinear_masks(halves, pixels[:1], [15.9, 16.0, 16.1])
    assert middle.values.tolist() == [[0, 0, 1]]


def test_a_single_latent_location(pixels):
    one = at_grid(as_masks(np.array([[[0.2]], [[0.9]]]), (1, 1)))
    assert (bilinear_masks(one, pixels, pixels) == 1).all()


def test_bilinear_features_are_the_nearest_centroid_of_interpolated_features(pixels):
    rng = np.random.default_rng(2)
    features = at_grid(
        xr.DataArray(rng.normal(size=(8, 8, 6)), dims=("source_y", "source_x", "channel"))
    )
    centroids = xr.DataArray(rng.normal(size=(4, 6)) / 2, dims=("mask", "channel"))
    planes = torch_upsampled(features.transpose("channel", ...), "bilinear", align_corners=False)
    distance = ((planes[None] - centroids.values[:, :, None, None]) ** 2).sum(1)
    labels = bilinear_features(features, centroids, pixels, pixels)
    np.testing.assert_array_equal(labels, distance.argmin(0))
    assert len(np.unique(labels)) == 4
    shuffled = bilinear_features(features, centroids[::-1], pixels, pixels)
    assert (labels.values != shuffled.values).any()  # the control


@pytest.fixture
def disc():
    """A bright disc on a dark ground with some noise, its labels, and its low-resolution masks."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    truth = (np.hypot(y - 15, x - 17) < 9.3).astype(int)
    noise = np.random.default_rng(3).normal(0, 0.02, (SIZE, SIZE, 3))
    colours = np.clip(np.array([[0.2, 0.3, 0.2], [0.8, 0.5, 0.4]])[truth] + noise, 0, 1)
    picture = xr.DataArray(
        (colours * 255).astype(np.uint8),
        dims=("y", "x", "rgb"),
        coords={"y": y[:, 0], "x": x[0], "rgb": ["r", "g", "b"]},
    )
    low_res = as_masks(truth, (8, 8)).argmax("mask")
    return truth, picture, at_grid(one_hot(low_res, 2))


class TestGuidedFilter:
    def test_finds_the_edge_that_the_guide_shows(self, disc):
        truth, picture, masks = disc
        blind = majority_class_miou(bilinear_masks(masks, picture.y, picture.x), truth, 2)
        guided = majority_class_miou(guided_filter(masks, picture, radius=4), truth, 2)
        assert guided > 0.98 > blind
        turned = picture.copy(data=picture.values[::-1, ::-1])  # the control: another guide
        assert majority_class_miou(guided_filter(masks, turned, radius=4), truth, 2) < guided
        floats = guided_filter(masks, picture / 255, radius=4)
        np.testing.assert_array_equal(floats, guided_filter(masks, picture, radius=4))

    def test_is_the_equations_of_the_paper_window_by_window(self, disc):
        _, picture, masks = disc
        radius, epsilon, (rows, columns) = 2, 0.01, (12, 14)
        picture = picture[:rows, :columns]
        colours = picture.values.astype(np.float64) / 255
        planes = torch_upsampled(masks, "bilinear", align_corners=False)[:, :rows, :columns]

        def window(i, j):
            return (
                slice(max(i - radius, 0), i + radius + 1),
                slice(max(j - radius, 0), j + radius + 1),
            )

        filtered = np.zeros_like(planes)
        for p, q in zip(planes, filtered, strict=True):
            a, b = np.zeros((rows, columns, 3)), np.zeros((rows, columns))
            for i, j in np.ndindex(rows, columns):
                guide, values = colours[window(i, j)].reshape(-1, 3), p[window(i, j)].ravel()
                sigma = np.cov(guide.T, bias=True) + epsilon * np.eye(3)
                joint = (guide * values[:, None]).mean(0) - guide.mean(0) * values.mean()
                a[i, j] = np.linalg.solve(sigma, joint)
                b[i, j] = values.mean() - a[i, j] @ guide.mean(0)
            for i, j in np.ndindex(rows, columns):
                slope = a[window(i, j)].reshape(-1, 3).mean(0)
                q[i, j] = slope @ colours[i, j] + b[window(i, j)].mean()
        labels = guided_filter(masks, picture, radius=radius, epsilon=epsilon)
        np.testing.assert_array_equal(labels, filtered.argmax(0))

    def test_a_flat_guide_blurs_only(self, disc):
        _, picture, masks = disc
        labels = guided_filter(masks, xr.full_like(picture, 100), radius=1)
        unguided = bilinear_masks(masks, picture.y, picture.x)
        assert (labels == unguided).mean() > 0.9

    @pytest.mark.parametrize("bad", [{"radius": 0}, {"epsilon": 0}, {"epsilon": np.nan}])
    def test_refuses_settings_out_of_range(self, disc, bad):
        _, picture, masks = disc
        with pytest.raises(InputError, match="choose radius >= 1"):
            guided_filter(masks, picture, **bad)


def test_all_four_find_large_regions_again(pixels):
    truth = np.zeros((SIZE, SIZE), int)
    truth[:, 16:], truth[16:, :16] = 1, 2
    masks = at_grid(as_masks(truth, (8, 8)))
    colours = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)[truth]
    picture = xr.DataArray(colours, dims=("y", "x", "rgb"), coords={"y": pixels, "x": pixels})
    features = masks.rename(mask="channel").drop_vars("channel")
    for labels in (
        nearest(masks.argmax("mask"), pixels, pixels),
        bilinear_masks(masks, pixels, pixels),
        bilinear_features(features, embeddings(features, masks), pixels, pixels),
        guided_filter(masks, picture),
    ):
        assert (labels.values == truth).mean() > 0.98


def test_refuses_arrays_without_positions_and_other_dimensions(masks, low_res, pixels):
    with pytest.raises(InputError, match=r"low_res has dims .* with coordinates"):
        nearest(low_res.drop_vars("source_y"), pixels, pixels)
    with pytest.raises(InputError, match="masks has dims"):
        bilinear_masks(low_res, pixels, pixels)
    features = masks.rename(mask="channel")
    with pytest.raises(InputError, match="give 'mask' and 5 of 'channel'"):
        bilinear_features(
            features, xr.DataArray(np.zeros((3, 4)), dims=("mask", "channel")), [1], [1]
        )
