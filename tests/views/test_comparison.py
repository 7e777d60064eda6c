"""Methods beside each other: colours that agree, points where they belong, the tree by hand."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from emerdiff_probe import views
from emerdiff_probe.errors import InputError
from tests.datasets import bands
from tests.views.drawn import HOSTILE, assert_escaped, images, maps


def test_colours_follow_the_first_method_and_numbers_stay_ones_own():
    ds = bands(masks=4)
    mirrored = 3 - ds["labels"]
    figure = views.comparison({"truth": ds["labels"], "other": mirrored}, ds["picture"])
    picture, first, second = images(figure)
    np.testing.assert_array_equal(picture, ds["picture"])
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(maps(figure)[1], mirrored)


def test_segments_beyond_those_of_the_first_have_colours_of_their_own():
    ds = bands(masks=4)
    two = xr.where(ds["labels"] < 2, 0, 1)
    figure = views.comparison({"two": two, "four": ds["labels"]}, ds["picture"], alpha=1)
    colours = images(figure)[2][8]
    fills = {tuple(colour) for colour in colours} - {(0, 0, 0), (255, 255, 255)}
    assert fills == {tuple(colour) for colour in views.palette(6)[[0, 1, 2, 4]]} or len(fills) == 4


def test_other_sizes_are_refused():
    ds = bands()
    with pytest.raises(InputError, match="'small' are 24 x 64"):
        views.comparison({"small": ds["labels"][:24]}, ds["picture"])
    with pytest.raises(InputError, match="no methods"):
        views.comparison({}, ds["picture"])


def table(**columns):
    return pd.DataFrame(
        {"seconds": [120.0, 4.0], "agreement": [1.0, 0.8], **columns}, index=["literal", HOSTILE]
    )


def test_a_method_is_a_point_with_its_interval():
    figure = views.tradeoff(table(low=[0.9, 0.7], high=[1.0, 0.95]))
    points = figure.data[0]
    np.testing.assert_array_equal(points.x, [120, 4])
    np.testing.assert_array_equal(points.y, [1, 0.8])
    np.testing.assert_allclose(points.error_y.array, [0, 0.15])
    np.testing.assert_allclose(points.error_y.arrayminus, [0.1, 0.1])
    assert figure.layout.xaxis.type == "log"
    assert "&lt;script&gt;" in points.text[1]
    assert "<script>" not in points.text[1]


def test_tables_that_cannot_be_drawn_are_refused():
    with pytest.raises(InputError, match="agreement"):
        views.tradeoff(pd.DataFrame({"seconds": [1.0]}))
    with pytest.raises(InputError, match="above 0"):
        views.tradeoff(table(seconds=[0.0, 1.0]))


def test_the_likest_masks_are_joined_first():
    ds = bands(masks=3, source=HOSTILE)
    # Cosine distances: 0-2 is 1 - 0.8 = 0.2; 0-1 is 1; 2-1 is 1 - 0.6 = 0.4; average linkage: 0.7.
    ds["embeddings"] = (("mask", "channel"), np.float32([[1, 0, 0], [0, 2, 0], [0.8, 0.6, 0]]))
    figure = views.dendrogram(ds)
    lines, leaves = figure.data
    heights = {x for x in lines.x if x is not None}
    assert sorted(round(height, 5) for height in heights) == [0, 0.2, 0.7]
    order = [int(row[0]) for row in leaves.customdata]
    assert {tuple(order[:2]), tuple(order[1:])} & {(0, 2), (2, 0)}
    assert list(figure.layout.yaxis.ticktext) == [f"mask {number}" for number in order]
    colours = [f"rgb{tuple(map(int, views.palette(3)[number]))}" for number in order]
    assert list(leaves.marker.color) == colours
    assert_escaped(figure)


def test_masks_are_compared_by_what_they_move_too():
    ds = bands(masks=3)
    ds["difference"][:, 0, :3] = np.float32([[1, 0, 0], [0.6, 0.8, 0], [0, 0, 1]])
    lines = views.dendrogram(ds, by="responses").data[0]
    assert sorted({round(x, 5) for x in lines.x if x is not None}) == [0, 0.4, 1]


def test_masks_that_cannot_be_compared_are_refused():
    with pytest.raises(InputError, match="1 mask"):
        views.dendrogram(bands(masks=1))
