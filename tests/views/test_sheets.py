"""Contact sheets: every image with its name, whatever its size, and nothing of a name as markup."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from emerdiff_probe import views
from emerdiff_probe.errors import InputError
from tests.datasets import bands

RED, BLUE = (220, 30, 30), (30, 30, 220)


def plain(colour, height=40, width=60):
    return np.full((height, width, 3), colour, np.uint8)


def thumbnails(page):
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)" width="(\d+)" height="(\d+)"', page)
    for source, width, height in found:
        image = Image.open(io.BytesIO(base64.b64decode(source)))
        assert image.size == (int(width), int(height))
        yield np.asarray(image)


def test_images_stand_in_rows_in_their_order():
    shown = [("a", plain(RED)), ("a", plain(BLUE)), ("c", plain(RED) / 255)]
    sheet = np.asarray(views.contact_sheet(shown, columns=2, side=60))
    assert sheet.shape == (12 + 2 * (40 + 20 + 12), 12 + 2 * (60 + 12), 3)
    for (top, left), colour in {(12, 12): RED, (12, 84): BLUE, (84, 12): RED}.items():
        assert (sheet[top : top + 40, left : left + 60] == colour).all()
    assert (sheet[84:124, 84:] == 255).all()
    name = sheet[52:72, 12:72]
    assert (name < 100).any()
    assert (sheet[124:, 84:] == 255).all()


def test_large_images_shrink_and_small_ones_stay():
    sheet = np.asarray(
        views.contact_sheet({"a": plain(RED, 400, 200), "b": plain(BLUE, 16, 16)}, side=100)
    )
    assert (sheet[12:112, 12:62] == RED).all()
    assert (sheet[12:112, 62:112] == 255).all()
    assert (sheet == BLUE).all(-1).sum() == 16 * 16


def test_a_segmentation_is_shown_with_its_segments():
    ds = bands()
    sheet = np.asarray(views.contact_sheet({"bands": ds}))
    np.testing.assert_array_equal(sheet[12:60, 12:76], views.overlay_image(ds))


def test_a_page_links_names_and_has_them_as_text():
    hostile = '"><script>alert(1)</script>'
    page = views.contact_page(
        [("cat", plain(RED)), (hostile, plain(BLUE)), ("none", plain(RED))],
        heading=hostile,
        links={"cat": "my cat/index.html", hostile: "javascript:alert(1)"},
    )
    assert len(list(thumbnails(page))) == 3
    assert re.findall('href="([^"]*)"', page) == [
        "my%20cat/index.html",
        "javascript%3Aalert%281%29",
    ]
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)") == 3
    assert "default-src 'none'" in page


def test_long_names_are_cut_in_the_middle():
    wide = np.asarray(views.contact_sheet({"holiday-" * 40 + "end": plain(RED)}, side=60))
    assert wide.shape[1] == 84
    assert (wide[:, 73:] == 255).all()
    whole = np.asarray(views.contact_sheet({"a": plain(RED)}, side=60))
    assert (whole != wide).any()


def test_accents_that_the_font_lacks_are_left_out():
    accented, plain_name = (
        np.asarray(views.contact_sheet({name: plain(RED)})) for name in ("été", "ete")
    )
    np.testing.assert_array_equal(accented, plain_name)


@pytest.mark.parametrize(
    ("shown", "message"),
    [({}, "nothing to show"), ({"map": np.zeros((4, 4))}, r"'map' has shape \(4, 4\)")],
)
def test_what_is_no_image_is_refused(shown, message):
    with pytest.raises(InputError, match=message):
        views.contact_sheet(shown)
    with pytest.raises(InputError, match="columns is 0"):
        views.contact_sheet({"a": plain(RED)}, columns=0)
