"""Pictures and maps side by side: what is drawn, where, and what is refused."""

import numpy as np
import pytest
import xarray as xr

from emerdiff_probe import views
from emerdiff_probe.errors import InputError
from tests.views.drawn import HOSTILE, extent, images, maps, texts

RED = np.zeros((8, 12, 3), np.uint8)
RED[..., 0] = 200


def test_pictures_are_drawn_as_they_are_and_floats_in_their_range():
    floats = np.zeros((8, 12, 3))
    floats[0, 0] = [-1, 0.5, 2]
    figure = views.pictures({"bytes": RED, "floats": floats})
    drawn = images(figure)
    assert np.array_equal(drawn[0], RED)
    assert drawn[1][0, 0].tolist() == [0, 128, 255]
    assert not drawn[1][1:].any()
    assert [each.text for each in figure.layout.annotations] == ["bytes", "floats"]


def test_a_coarse_map_spans_the_picture_from_black_to_its_own_largest_value():
    coarse = xr.DataArray([[0.0, 3.0, 1.0], [0.5, 0.0, 0.0]], dims=["source_y", "source_x"])
    figure = views.pictures({"picture": RED, "map": coarse})
    (values,) = maps(figure)
    assert np.array_equal(values, coarse)
    heatmap = figure.data[1]
    half = views.pictures({"map": coarse.astype(np.float16)})
    assert "bdata" in half.to_dict()["data"][0]["z"]
    assert (heatmap.zmin, heatmap.zmax) == (0, 3)
    assert extent(heatmap, 2, 3) == (0, 12, 0, 8)
    black = views.pictures({"nothing": np.zeros((4, 4))}).data[0]
    assert black.zmax > black.zmin


def test_labelled_arrays_lie_where_their_coordinates_say():
    places = {"y": [4.0, 12.0], "x": [4.0, 12.0, 20.0]}
    coarse = xr.DataArray(np.arange(6.0).reshape(3, 2), dims=("x", "y"), coords=places)
    figure = views.pictures({"map": coarse})
    assert extent(figure.data[0], 2, 3) == (0, 24, 0, 16)
    assert tuple(figure.layout.yaxis.range) == (16, 0)
    assert np.array_equal(maps(figure)[0], coarse.values.T)
    bare = views.pictures({"map": coarse.values})
    assert extent(bare.data[0], 3, 2) == (0, 2, 0, 3)


def test_pointing_at_a_picture_tells_its_colour():
    (trace,) = views.pictures({"picture": RED}).data
    assert trace.hovertemplate.startswith("RGB %{color[0]}, ")


def test_they_are_wrapped_into_rows():
    figure = views.pictures(dict.fromkeys("abcde", RED), columns=2)
    rows, columns = zip(*(_place(figure, each) for each in figure.data), strict=True)
    assert rows == (1, 1, 2, 2, 3)
    assert columns == (1, 2, 1, 2, 1)


def _place(figure, trace):
    """Row and column of a trace, by its axes."""
    left = {axis.domain[0] for axis in figure.select_xaxes()}
    low = {axis.domain[0] for axis in figure.select_yaxes()}
    x = figure.layout["xaxis" + trace.xaxis[1:]].domain[0]
    y = figure.layout["yaxis" + trace.yaxis[1:]].domain[0]
    return sorted(low, reverse=True).index(y) + 1, sorted(left).index(x) + 1


def test_titles_are_text():
    figure = views.pictures({HOSTILE: RED}, heading=HOSTILE)
    assert not any("<script>" in each for each in texts(figure))


@pytest.mark.parametrize(
    ("shown", "columns", "message"),
    [
        ({}, 4, "0 images in 4 columns"),
        ({"a": RED}, 0, "1 images in 0 columns"),
        ({"a": RED[..., :2]}, 4, r"'a' has shape \(8, 12, 2\); an image is \(y, x, 3\)"),
        ({"a": RED[0, 0]}, 4, r"'a' has shape \(3,\)"),
    ],
)
def test_what_is_no_picture_is_refused(shown, columns, message):
    with pytest.raises(InputError, match=message):
        views.pictures(shown, columns=columns)
