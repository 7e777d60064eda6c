"""Assignment by the largest difference, by hand-computed cases."""

import numpy as np
import pytest
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import pixel_centres
from emerdiff_probe.segments import assign, balanced, smooth


def maps(values, extent=None):
    values = np.asarray(values, np.float32)
    _, height, width = values.shape
    extent = extent or (height, width)
    return xr.DataArray(
        values,
        dims=("mask", "model_y", "model_x"),
        coords={
            "model_y": pixel_centres(height, extent[0]),
            "model_x": pixel_centres(width, extent[1]),
        },
    )


def test_the_largest_wins_and_the_margin_is_relative():
    difference = maps([[[4, 0, 2]], [[1, 0, 2]], [[3, 0, 0]]])
    result = assign(difference, [0.5], [0.5, 1.5, 2.5])
    assert result["labels"].values.tolist() == [[0, 0, 0]]
    assert result["strength"].values.tolist() == [[4, 0, 2]]
    # Three quarters of the first; nothing moved; a tie.
    assert result["margin"].values.tolist() == [[0.25, 0, 0]]


def test_labels_follow_the_order_of_masks():
    random = np.random.RandomState(0).rand(5, 6, 7).astype(np.float32)
    order = [3, 0, 4, 1, 2]
    plain = assign(maps(random), np.arange(6) + 0.5, np.arange(7) + 0.5)
    mixed = assign(maps(random[order]), np.arange(6) + 0.5, np.arange(7) + 0.5)
    assert np.array_equal(np.array(order)[mixed["labels"]], plain["labels"])
    xr.testing.assert_equal(plain["margin"], mixed["margin"])


def test_a_larger_photograph_gets_interpolated_maps():
    """Two masks that decrease and increase linearly meet in the middle of the photograph."""
    ramp = np.linspace(0, 1, 4)[None].repeat(3, 0)
    difference = maps([1 - ramp, ramp], extent=(30, 40))
    y, x = pixel_centres(30, 30), pixel_centres(40, 40)
    result = assign(difference, y, x)
    assert result["labels"].shape == (30, 40)
    assert (result["labels"].values == (x > 20)).all()
    assert result["margin"].sel(x=19.5).max() < 0.15 < result["margin"].sel(x=1.5).min()


def test_one_mask_has_no_rival():
    result = assign(maps([[[3.0, 0.0]]]), [0.5], [0.5, 1.5])
    assert result["margin"].values.tolist() == [[1, 0]]


def test_filtering_spreads_and_keeps_the_sum():
    values = np.zeros((1, 21, 21))
    values[0, 10, 10] = 1
    spread = smooth(maps(values), 1.5)
    assert float(spread.sum()) == pytest.approx(1, abs=1e-4)
    assert float(spread[0, 10, 10]) == pytest.approx(1 / (2 * np.pi * 1.5**2), rel=0.02)
    xr.testing.assert_identical(smooth(maps(values), 0), maps(values))


def masks_of(values, extent=None):
    values = np.asarray(values, np.float32)
    _, height, width = values.shape
    extent = extent or (height, width)
    return xr.DataArray(
        values,
        dims=("mask", "source_y", "source_x"),
        coords={
            "source_y": pixel_centres(height, extent[0]),
            "source_x": pixel_centres(width, extent[1]),
        },
    )


def test_the_papers_comparison_leaves_maps_alone():
    difference = maps([[[4, 1]], [[1, 2]]])
    assert balanced(difference, masks_of([[[1, 0]], [[0, 1]]]), "none", 1.0) is difference


def test_maps_are_divided_by_what_they_are_inside_their_mask():
    difference = maps([[[4, 3]], [[0.5, 1]]])
    masks = masks_of([[[1, 0]], [[0, 1]]])
    fair = balanced(difference, masks, "mean", 1.0)
    np.testing.assert_allclose(fair.values, [[[1, 0.75]], [[0.5, 1]]])
    fair = balanced(difference, masks, "root", 1.0)
    np.testing.assert_allclose(fair.values, [[[2, 1.5]], [[0.5, 1]]])
    # The small mask now keeps its own pixel.
    assert assign(difference, [0.5], [0.5, 1.5])["labels"].values.tolist() == [[0, 0]]
    fair = balanced(difference, masks, "mean", 1.0)
    assert assign(fair, [0.5], [0.5, 1.5])["labels"].values.tolist() == [[0, 1]]


def test_differences_elsewhere_count_less():
    difference = maps([[[4, 3]], [[0.5, 1]]])
    masks = masks_of([[[1, 0]], [[0, 1]]])
    fair = balanced(difference, masks, "none", 0.25)
    np.testing.assert_allclose(fair.values, [[[4, 0.75]], [[0.125, 1]]])
    # A mask that moves nothing at all stays at 0.
    still = balanced(maps([[[0, 0]]]), masks_of([[[1, 0]]]), "mean", 0.0)
    assert not still.values.any()


@pytest.mark.parametrize(("how", "elsewhere"), [("max", 1.0), ("none", 1.5), ("none", -0.1)])
def test_unknown_ways_to_balance_are_refused(how, elsewhere):
    with pytest.raises(InputError, match="choose how from"):
        balanced(maps([[[1, 1]]]), masks_of([[[1, 0]]]), how, elsewhere)
