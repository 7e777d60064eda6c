"""Figures: what is shown, where it lies, and what pointing at it tells."""

import numpy as np
import pytest

from emerdiff_probe import views
from emerdiff_probe.errors import InputError
from tests.datasets import bands
from tests.views.drawn import extent, pixels

FIGURES = (views.segments, views.low_resolution, views.overview)
HOSTILE = "prompt '<b>x</b> <script>alert(1)</script> & <a href=\"y\">', seed 0"


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("size", [(48, 64), (67, 101), (2000, 30)])
def test_every_layer_covers_the_picture(figure, size):
    drawn = figure(bands(*size))
    assert len(drawn.data) == (6 if figure is views.overview else 2)
    for trace in drawn.data:
        grid = pixels(trace) if trace.type == "image" else np.asarray(trace.z)
        np.testing.assert_allclose(extent(trace, *grid.shape[:2]), [0, size[1], 0, size[0]])
    axes = [drawn.layout[name] for name in drawn.to_dict()["layout"] if name.startswith("yaxis")]
    assert all(tuple(axis.range) == (size[0], 0) for axis in axes), "y runs downwards"


def test_pointing_at_a_pixel_tells_its_segment_share_strength_and_margin():
    ds = bands(height=24, width=32, masks=4)
    hover = views.segments(ds).data[1]
    np.testing.assert_array_equal(hover.z, ds["labels"])
    share, strength, margin = np.moveaxis(np.asarray(hover.customdata), -1, 0)
    np.testing.assert_allclose(share, 0.25)
    np.testing.assert_allclose(strength, ds["strength"])
    np.testing.assert_allclose(margin, 0.5)
    for part in ("segment %{z}", "%{customdata[0]", "strength %{customdata[1]", "margin"):
        assert part in hover.hovertemplate


def test_classes_are_told_where_they_are_known_and_are_no_markup():
    ds = bands(height=24, width=32, masks=4)
    hover = views.segments(ds, classes={0: "<b>sky", 2: "house"}).data[1]
    names = np.array([" (&lt;b&gt;sky)", "", " (house)", ""])
    np.testing.assert_array_equal(hover.text, names[ds["labels"]])
    assert "segment %{z}%{text}" in hover.hovertemplate
    assert "%{text}" not in views.segments(ds).data[1].hovertemplate


def test_pointing_at_a_location_tells_its_mask():
    ds = bands(masks=4, grid=(4, 8))
    hover = views.low_resolution(ds).data[1]
    np.testing.assert_array_equal(hover.z, ds["low_res"])
    np.testing.assert_allclose(hover.customdata, 0.25)
    np.testing.assert_array_equal(
        pixels(views.low_resolution(ds).data[0])[0, 0], views.palette(1)[0]
    )


def test_panels_of_the_overview_zoom_together():
    drawn = views.overview(bands())
    assert {drawn.layout.xaxis2.matches, drawn.layout.xaxis3.matches} == {"x"}
    assert {drawn.layout.yaxis2.matches, drawn.layout.yaxis3.matches} == {"y"}
    assert drawn.layout.yaxis.scaleanchor == "x"


def test_small_pictures_keep_their_pixels_and_are_never_blurred():
    ds = bands(height=48, width=64)
    np.testing.assert_array_equal(pixels(views.overview(ds).data[0]), ds["picture"])
    shown = pixels(views.segments(ds, alpha=0).data[0])
    np.testing.assert_array_equal(shown[8::16, 8::16], ds["picture"])
    assert all(trace.zsmooth in (None, False) for trace in views.overview(ds).data)


def test_a_large_photograph_makes_a_light_figure():
    drawn = views.overview(bands(height=1500, width=2000, model_grid=(64, 64)))
    assert max(pixels(drawn.data[2]).shape) == 1024
    assert np.asarray(drawn.data[3].z).shape == (64, 64)
    assert drawn.data[3].z.dtype == np.uint8
    # Noise, of which PNG saves nothing; all pixels of it, twice in base64, would be 24 MB.
    assert len(drawn.to_json()) < 8e6


def test_titles_name_model_and_source_without_their_markup():
    ds = bands(source=HOSTILE, model="a<i>b")
    for figure in FIGURES:
        title = figure(ds).layout.title.text
        assert "a&lt;i&gt;b" in title
        assert "&lt;script&gt;" in title
        assert "<script>" not in title
        assert "<a" not in title


def test_a_long_prompt_does_not_outgrow_the_title():
    title = views.segments(bands(source="prompt '" + "house " * 500)).layout.title.text
    assert len(title) < 200
    assert "..." in title


def test_more_segments_than_a_byte_can_count():
    hover = views.segments(bands(height=16, width=600, masks=300, model_grid=(16, 600))).data[1]
    assert hover.z.max() == 299


def test_a_share_out_of_range_is_refused():
    with pytest.raises(InputError, match="alpha"):
        views.segments(bands(), alpha=2)
