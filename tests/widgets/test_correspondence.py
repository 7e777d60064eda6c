"""The correspondence explorer without a browser: clicks, brushes, sums and a live responder."""

import io

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError
from emerdiff_probe.widgets import CorrespondenceExplorer, Responder, StoredResponses
from tests.datasets import responses


def pixels(picture):
    return np.asarray(Image.open(io.BytesIO(picture.png)))


def click(picture, y, x, shift=False):
    picture.clicked = {"y": y, "x": x, "shift": shift, "count": picture.clicked.get("count", 0) + 1}


@pytest.fixture
def explorer():
    return CorrespondenceExplorer(responses())


def test_a_location_shows_its_pixels(explorer):
    shown, grid, _ = explorer.pictures
    plain = pixels(shown)
    np.testing.assert_array_equal(plain, responses()["picture"])
    click(grid, 12, 20)
    assert explorer.selection == ((1, 2),)
    assert shown.cells == [[1, 2]]
    np.testing.assert_allclose(explorer.response(), responses()["response"][1, 2])
    changed = pixels(shown).astype(int) - plain
    light = pixels(shown).astype(int).sum(-1)
    assert changed.any()
    assert light[8:, 16:24].mean() > light[8:, :16].mean() + 100


def test_signed_responses_are_added_before_the_norm(explorer):
    _, grid, _ = explorer.pictures
    grid.dragged = {"path": [[4, 4], [5, 5], [4, 12]], "shift": False, "count": 1}
    assert explorer.selection == ((0, 0), (0, 1))
    click(grid, 4, 20, shift=True)
    click(grid, 4, 4, shift=True)
    assert explorer.selection == ((0, 1), (0, 2)), "shift adds and takes away"
    expected = responses()["response"].values[0, 1:3].astype(np.float32).sum(0)
    np.testing.assert_allclose(explorer.response(), expected)


def test_a_pixel_shows_its_locations(explorer):
    shown, grid, _ = explorer.pictures
    click(grid, 4, 4)
    click(shown, 9.7, 17.2)
    assert explorer.selection == ()
    assert explorer.pixel == (9.7, 17.2)
    expected = np.linalg.norm(responses()["response"].values[..., 9, 17].astype(float), axis=-1)
    np.testing.assert_allclose(explorer.movers(), expected, rtol=1e-3)
    assert grid.marks == [[9.7, 17.2]]
    assert "y 9, x 17" in grid.caption
    click(shown, 16, 32)
    assert explorer.movers().argmax() == 7, "the edge belongs to the last pixel"


def test_the_picture_moves_by_half_the_response_times_the_strength(explorer):
    moved = explorer.pictures[2]
    explorer.choose(((1, 3),))
    picture = responses()["picture"].values / 255
    response = responses()["response"][1, 3].values.transpose(1, 2, 0).astype(float)
    for strength in (1, -2):
        explorer.strength = strength
        expected = (picture + strength / 2 * response).clip(0, 1) * 255
        np.testing.assert_allclose(pixels(moved), expected, atol=0.51)
    assert explorer._slider.value == -2


class Live:
    """Asked one location at a time, as a model would be."""

    grid = (2, 4)
    picture = responses()["picture"]

    def __init__(self):
        self.asked = []

    def location(self, row, column):
        self.asked.append((row, column))
        return responses()["response"][row, column]


def test_a_live_responder_is_asked_for_what_is_chosen_and_once():
    live = Live()
    assert isinstance(live, Responder)
    assert isinstance(StoredResponses(responses()), Responder)
    explorer = CorrespondenceExplorer(live)
    assert live.asked == []
    explorer.choose(((1, 2), (0, 0)))
    explorer.choose(((1, 2),))
    assert live.asked == [(1, 2), (0, 0)]
    explorer.choose(pixel=(9, 17))
    assert np.isfinite(explorer.movers()).sum() == 2
    assert "2 of 8 were asked for" in explorer.pictures[1].caption


def test_errors_of_a_responder_are_shown():
    class Broken(Live):
        def location(self, row, column):
            raise RuntimeError("out of memory")

    explorer = CorrespondenceExplorer(Broken())
    explorer.choose(((0, 0),))
    assert explorer.error == "RuntimeError: out of memory"


def test_wrong_states_are_refused(explorer):
    with pytest.raises(InputError, match="rows are 0 to 1"):
        explorer.selection = ((2, 0),)
    with pytest.raises(InputError, match="16 x 32"):
        explorer.pixel = (17, 0)
    with pytest.raises(InputError, match="to='locations'"):
        CorrespondenceExplorer(xr.Dataset({"response": ("mask", [1.0])}))


def test_the_code_makes_the_same_view_again(explorer):
    explorer.choose(((1, 2), (0, 1)))
    explorer.strength = 2
    again = eval(explorer.code(), {"ep": ep, "responses": responses()})
    assert [each.png for each in again.pictures] == [each.png for each in explorer.pictures]
