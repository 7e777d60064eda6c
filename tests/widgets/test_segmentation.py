"""Explorers of segments without a browser: what a click chooses, and what agrees."""

import io

import numpy as np
import pytest
from PIL import Image

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError
from emerdiff_probe.widgets import Compare, SegmentationExplorer
from tests.datasets import bands


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture.png)))


def click(picture, y, x):
    picture.clicked = {"y": y, "x": x, "shift": False, "count": 1}


@pytest.fixture
def result():
    ds = bands(masks=4)
    ds["difference"][2, 0, 0] = 0.5
    return ds


def test_a_click_chooses_the_segment_or_the_mask_below_it(result):
    explorer = SegmentationExplorer(result)
    segments, masks, difference = explorer.pictures
    before = pixels(segments)
    click(segments, 10, 40)
    assert explorer.selection == 2
    assert "segment 2, 25.0%" in segments.caption
    np.testing.assert_array_equal(pixels(segments)[:, 34:46], before[:, 34:46])
    np.testing.assert_array_equal(pixels(segments)[:, :16], before[:, :16] // 3)
    assert "at most 0.5" in difference.caption
    assert (pixels(difference).astype(int).sum(-1) > 400).sum() == 1
    click(masks, 47.9, 63.9)
    assert explorer.selection == 3
    explorer.selection = -1
    np.testing.assert_array_equal(pixels(segments), before)


def test_colours_can_be_taken_away(result):
    explorer = SegmentationExplorer(result, alpha=0.0)
    np.testing.assert_array_equal(pixels(explorer.pictures[0])[:, 5], result["picture"][:, 5])
    with pytest.raises(InputError, match="0 to 3"):
        explorer.selection = 4


def test_the_code_makes_the_same_view_again(result):
    explorer = SegmentationExplorer(result, selection=1, alpha=0.25)
    again = eval(explorer.code(), {"ep": ep, "result": result})
    assert [each.png for each in again.pictures] == [each.png for each in explorer.pictures]


def test_what_differs_after_matching(result):
    other = 3 - result["labels"]
    assert Compare(result, other).agreement == 1
    moved = other.copy()
    moved[:12, :16] = 0
    compare = Compare(result, moved)
    assert compare.agreement == pytest.approx(1 - 12 * 16 / (48 * 64))
    bright = (pixels(compare.pictures[2]) == [255, 212, 0]).all(-1)
    assert bright[:12, :16].all()
    assert bright.sum() == 12 * 16
    click(compare.pictures[0], 3.5, 4.5)
    assert all(each.marks == [[3.5, 4.5]] for each in compare.pictures)
    assert "segment 0 of a, segment 0 of b" in compare._said.value


def test_what_cannot_be_compared_is_refused(result):
    with pytest.raises(InputError, match="picture="):
        Compare(result["labels"], result)
    with pytest.raises(InputError, match="one size"):
        Compare(result, result["labels"][:10])
