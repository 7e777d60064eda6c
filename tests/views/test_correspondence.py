"""The correspondence: both directions by hand, and a page that holds the same numbers."""

import base64
import json
import re
import sys
import zlib

import numpy as np
import pytest

from emerdiff_probe import views
from emerdiff_probe.errors import InputError
from emerdiff_probe.responses import compress
from tests.datasets import responses
from tests.views.drawn import HOSTILE, assert_escaped, images, maps


def norm(values, axis):
    return np.linalg.norm(values.astype(np.float64), axis=axis)


def test_both_directions_are_norms_over_colours():
    ds = responses()
    figure = views.correspondence(ds, location=(12, 20), pixel=(9, 17))
    response = ds["response"].values
    moved, movers = maps(figure)
    np.testing.assert_allclose(moved, norm(response[1, 2], 0), rtol=1e-3)
    np.testing.assert_allclose(movers, norm(response[..., 9, 17], -1), rtol=1e-3)
    assert movers.argmax() == 6
    np.testing.assert_array_equal(images(figure)[0], ds["picture"])
    box = figure.layout.shapes[0]
    assert (box.x0, box.x1, box.y0, box.y1) == (16, 24, 8, 16)
    mark = next(trace for trace in figure.data if trace.type == "scatter")
    assert (mark.x[0], mark.y[0]) == (17.5, 9.5) or (mark.x[0], mark.y[0]) == (16.5, 8.5)


def test_by_default_the_location_and_pixel_that_move_most():
    figure = views.correspondence(responses())
    box = figure.layout.shapes[0]
    assert (box.x0, box.y0) == (24, 8)
    moved, movers = maps(figure)
    assert movers.argmax() == 7
    assert moved.max() == movers.max()


def embedded(page):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S)[1])
    tiles = np.frombuffer(zlib.decompress(base64.b64decode(data["tiles"])), np.int8)
    count = data["rows"] * data["columns"]
    scale = np.array(data["scale"])[:, None, None, None]
    return data, tiles.reshape(count, 3, *data["tile"]) * scale


def test_the_page_holds_signed_responses(tmp_path):
    ds = responses()
    page = views.correspondence_page(ds, tmp_path / "page.html").read_text()
    data, found = embedded(page)
    expected = ds["response"].values.astype(float).reshape(8, 3, 16, 32)
    np.testing.assert_allclose(found, expected, atol=np.abs(expected).max() / 254 + 1e-4)
    assert (found < 0).any()
    assert (data["height"], data["width"], data["rows"], data["columns"]) == (16, 32, 2, 4)
    assert len(data["colours"]) == 256
    assert data["colours"][0] == [0, 34, 78]


def test_what_does_not_fit_is_averaged(tmp_path, monkeypatch):
    # The package has a function by the module's name.
    monkeypatch.setattr(sys.modules[views.correspondence.__module__], "_LARGEST", 7500)
    rng = np.random.default_rng(0)
    ds = responses()
    ds["response"] = ds["response"].copy(data=rng.normal(size=ds["response"].shape))
    page = views.correspondence_page(ds, tmp_path / "page.html").read_text()
    data, found = embedded(page)
    assert data["tile"] == [8, 16]
    expected = ds["response"].values.reshape(8, 3, 8, 2, 16, 2).mean((3, 5))
    np.testing.assert_allclose(found, expected, atol=0.02)
    assert "the mean of 2 x 2 pixels" in page


def test_compressed_responses_are_drawn_too(tmp_path):
    ds = responses()
    small = compress(ds, rank=8)
    where = {"location": (12, 20), "pixel": (9, 17)}
    for one, other in zip(
        maps(views.correspondence(ds, **where)),
        maps(views.correspondence(small, **where)),
        strict=True,
    ):
        np.testing.assert_allclose(other, one, atol=0.01)
    box = views.correspondence(small).layout.shapes[0]
    assert (box.x0, box.y0) == (24, 8)
    _, whole = embedded(views.correspondence_page(ds, tmp_path / "one.html").read_text())
    page = views.correspondence_page(small, tmp_path / "two.html").read_text()
    np.testing.assert_allclose(embedded(page)[1], whole, atol=0.02)
    reduced = views.correspondence_page(compress(ds, bits=8, reduce=2), tmp_path / "three.html")
    data, _ = embedded(reduced.read_text())
    assert (data["height"], data["width"], data["tile"]) == (16, 32, [8, 16])


def test_the_page_says_how_far_off_it_is(tmp_path):
    page = views.correspondence_page(responses(), tmp_path / "page.html").read_text()
    error = float(compress(responses(), bits=8)["error"].median())
    assert 0 < error < 0.02
    assert f"leaves them {error:.1%} off" in page


def test_the_page_is_whole_and_escaped(tmp_path):
    path = tmp_path / "page.html"
    page = views.correspondence_page(responses(source=HOSTILE, model=HOSTILE), path).read_text()
    assert "default-src 'none'" in page
    assert "&lt;script&gt;alert(1)" in page
    for markup in ("<script>alert", "<b>x", '<a href="y"'):
        assert markup not in page
    assert page.count("</script>") == page.count("<script")
    assert not re.search(r"<(link|iframe|img)\b|<\w[^>]*\bsrc=|@import|https?://", page)
    assert_escaped(views.correspondence(responses(source=HOSTILE, model=HOSTILE)))


def test_other_responses_are_refused(tmp_path):
    masks = responses().isel(source_y=0).rename(source_x="mask")
    for call in (views.correspondence, lambda ds: views.correspondence_page(ds, tmp_path / "x")):
        with pytest.raises(InputError, match=r"run\.respond"):
            call(masks)
