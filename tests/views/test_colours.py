"""Colours: far apart also to the colour-blind, and put where the segments are."""

import numpy as np
import pytest

from emerdiff_probe.errors import InputError
from emerdiff_probe.views import overlay_image, palette
from tests.datasets import bands

# Another simulation than the palette's: Viénot, Brettel and Mollon, Color Research and
# Application 24(4), 1999, for linear RGB.
PROTANOPIA = np.array([[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]])
DEUTERANOPIA = np.array([[0.29275, 0.70725, 0], [0.29275, 0.70725, 0], [-0.02234, 0.02234, 1]])


def nearest_pair(colours, vision):
    """The least CIELAB distance (1976, white D65) of two colours as that vision sees them."""
    srgb = colours / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = (
        np.clip(linear @ vision.T, 0, 1)
        @ np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]).T
    )
    scaled = xyz / [0.9505, 1, 1.089]
    f = np.where(scaled > 216 / 24389, np.cbrt(scaled), (24389 / 27 * scaled + 16) / 116)
    lab = np.stack(
        [116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], axis=1
    )
    distance = np.linalg.norm(lab[:, None] - lab, axis=-1)
    return distance[np.triu_indices(len(lab), 1)].min()


@pytest.mark.parametrize("vision", [np.eye(3), PROTANOPIA, DEUTERANOPIA])
def test_colours_are_told_apart_by_the_colour_blind_too(vision):
    assert nearest_pair(palette(12), vision) > 12
    assert nearest_pair(palette(40), vision) > 1


def test_hues_around_the_wheel_are_not():
    hues = np.arange(12) * 30
    wheel = np.clip(np.abs((hues[:, None] + [0, 240, 120]) % 360 / 60 - 3) - 1, 0, 1) * 255
    assert nearest_pair(wheel, DEUTERANOPIA) < 12 < nearest_pair(palette(12), DEUTERANOPIA)


def test_palettes_begin_alike_and_repeat_no_colour():
    many = palette(300)
    assert many.dtype == np.uint8
    assert len(np.unique(many, axis=0)) == 300
    np.testing.assert_array_equal(palette(7), many[:7])
    many[0] = 0
    assert palette(1).any(), "a palette is the caller's own to change"


@pytest.mark.parametrize("n", [0, -1, 1025])
def test_a_number_of_colours_out_of_range_is_refused(n):
    with pytest.raises(InputError, match=f"n is {n}"):
        palette(n)


def test_segments_are_blended_by_hand():
    ds = bands(height=6, width=8, masks=2)
    colours, picture = palette(2).astype(float), ds["picture"].values.astype(float)
    image = overlay_image(ds, alpha=0.25)
    assert image.dtype == np.uint8
    assert image.shape == (6, 8, 3)
    np.testing.assert_allclose(image[:, 0], 0.75 * picture[:, 0] + 0.25 * colours[0], atol=0.5)
    np.testing.assert_allclose(image[:, 7], 0.75 * picture[:, 7] + 0.25 * colours[1], atol=0.5)


def test_a_border_is_white_on_one_side_and_black_on_the_other():
    ds = bands(height=6, width=8, masks=2)
    image = overlay_image(ds, alpha=0)
    assert (image[:, 3] == 255).all()
    assert (image[:, 4] == 0).all()
    np.testing.assert_array_equal(image[:, [2, 5]], ds["picture"].values[:, [2, 5]])


def test_one_segment_has_no_border():
    ds = bands(masks=1)
    np.testing.assert_array_equal(overlay_image(ds, alpha=0), ds["picture"].values)


def test_a_transposed_dataset_is_painted_the_same():
    ds = bands()
    np.testing.assert_array_equal(
        overlay_image(ds.transpose("rgb", "x", "y", ...)), overlay_image(ds)
    )


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_a_share_out_of_range_is_refused(alpha):
    with pytest.raises(InputError, match="alpha"):
        overlay_image(bands(), alpha=alpha)
