"""The correspondence explorer without a browser: clicks, brushes, sums and a live responder."""

import math
import threading

import numpy as np
import pytest
import xarray as xr

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError
from emerdiff_probe.widgets import CorrespondenceExplorer
from tests.datasets import responses


def pixels(picture):
    return picture.pixels()


def click(picture, y, x, shift=False):
    picture.clicked = {"y": y, "x": x, "shift": shift, "count": picture.clicked.get("count", 0) + 1}


@pytest.fixture
def explorer():
    return CorrespondenceExplorer(responses())


def test_a_location_shows_its_pixels(explorer):
    shown, grid, *_ = explorer.pictures
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
    _, grid, *_ = explorer.pictures
    grid.dragged = {"path": [[4, 4], [5, 5], [4, 12]], "shift": False, "count": 1}
    assert explorer.selection == ((0, 0), (0, 1))
    click(grid, 4, 20, shift=True)
    click(grid, 4, 4, shift=True)
    assert explorer.selection == ((0, 1), (0, 2)), "shift adds and takes away"
    expected = responses()["response"].values[0, 1:3].astype(np.float32).sum(0)
    np.testing.assert_allclose(explorer.response(), expected)


def test_a_pixel_shows_its_locations(explorer):
    shown, grid, *_ = explorer.pictures
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
    assert explorer._strength.value == -2


class Live:
    """Asked one location at a time, as a model would be."""

    grid = (2, 4)
    frame = responses().drop_vars("response")
    engines = ("shared", "jump")

    def __init__(self, hold=None):
        self.hold = hold
        self.use("shared")

    def use(self, engine):
        self.engine = engine
        self.kept = {}

    def location(self, row, column):
        response = responses()["response"][row, column]
        self.kept[row, column] = response if self.engine == "shared" else response / 2
        return self.kept[row, column]

    def movers(self, y, x):
        moved = responses()["response"].isel(y=int(y), x=int(x)).astype(float)
        there = np.zeros(self.grid, bool)
        for place in list(self.kept):
            there[place] = True
        return ((moved**2).sum("rgb") ** 0.5).where(there)

    def responses(self):
        assert len(self) == 8
        return responses()

    def fill(self, near=None, *, stop=None, progress=None):
        for place in sorted(np.ndindex(self.grid), key=lambda each: math.dist(each, near)):
            while self.hold and not self.hold.wait(0.02) and not stop.is_set():
                pass
            if stop.is_set():
                return
            self.location(*place)
            progress(len(self), 8)

    def __len__(self):
        return len(self.kept)


def wait(explorer):
    explorer.answers._thread.join(60)
    assert not explorer.answers._thread.is_alive()


def test_a_live_responder_is_asked_for_what_is_chosen_first_and_for_the_rest_behind():
    hold = threading.Event()
    live = Live(hold)
    asked = {name for name, thing in vars(Live).items() if callable(thing)}
    assert asked <= set(dir(ep.emerdiff.Responder)), "what is asked of this one, is asked of that"
    explorer = CorrespondenceExplorer(live)
    assert len(live) == 0
    explorer.choose(((1, 2),))
    assert list(live.kept) == [(1, 2)]
    assert explorer._filling.description == "stop"
    explorer.choose(pixel=(9, 17))
    assert np.isfinite(explorer.movers()).sum() == 1
    assert "1 of 8 are known" in explorer.pictures[1].caption
    hold.set()
    wait(explorer)
    assert (explorer.known, explorer._progress.value) == (8, 8)
    assert list(live.kept)[:2] == [(1, 2), (0, 2)], "nearest first"
    assert "known" not in explorer.pictures[1].caption, "the last of them are drawn"
    explorer.masks = 2
    assert explorer.segments()["labels"].max() == 1


def test_computing_the_rest_can_be_stopped_and_gone_on_with():
    hold = threading.Event()
    explorer = CorrespondenceExplorer(Live(hold))
    explorer.choose(((1, 2),))
    explorer._filling.click()
    hold.set()
    wait(explorer)
    assert explorer._filling.description == "compute all"
    assert explorer.known == 1
    explorer.masks = 2
    assert "1 of 8 locations" in explorer.error
    explorer._filling.click()
    wait(explorer)
    assert explorer.known == 8
    assert explorer.error == ""
    assert explorer.pictures[3].over, "segments come once all is known"


def test_another_engine_answers_anew():
    explorer = CorrespondenceExplorer(Live())
    explorer.choose(((1, 2),))
    wait(explorer)
    shared = explorer.response()
    explorer._engine.value = "jump"
    assert explorer.engine == "jump"
    np.testing.assert_allclose(explorer.response(), shared / 2)
    wait(explorer)
    assert explorer.known == 8, "the rest is computed with it, too"
    assert "engine='jump'" in explorer.code()
    again = CorrespondenceExplorer(Live(), engine="jump", selection=((1, 2),))
    np.testing.assert_allclose(again.response(), shared / 2)
    wait(again)
    with pytest.raises(InputError, match="'shared', 'jump'"):
        explorer.engine = "leap"
    with pytest.raises(InputError, match="choose one of ''"):
        CorrespondenceExplorer(responses(), engine="jump")


def test_errors_of_a_responder_are_shown():
    class Broken(Live):
        def location(self, row, column):
            raise RuntimeError("out of memory")

    explorer = CorrespondenceExplorer(Broken())
    explorer.choose(((0, 0),))
    assert explorer.error == "RuntimeError: out of memory"
    explorer.choose()

    class BrokenBehind(Live):
        def fill(self, *_, **__):
            raise RuntimeError("out of memory")

    explorer = CorrespondenceExplorer(BrokenBehind())
    explorer.choose(((0, 0),))
    wait(explorer)
    assert explorer.error == "RuntimeError: out of memory"


@pytest.mark.parametrize("how", [{"rank": 8}, {"rank": 8, "bits": 8}, {"bits": 8, "reduce": 2}])
def test_compressed_responses_are_accepted(explorer, how):
    small = ep.responses.compress(responses(), **how)
    other = CorrespondenceExplorer(small)
    for each in (explorer, other):
        each.choose(((1, 2), (0, 0)))
        each.masks = 2
    expected = explorer.response()
    if "reduce" in how:
        expected = expected.reshape(3, 8, 2, 16, 2).mean((2, 4))
    np.testing.assert_allclose(other.response(), expected, atol=0.02)
    assert other.pictures[0].extent == [16, 32], "pixels keep their places"
    segments = other.segments()["labels"]
    same = explorer.segments()["labels"].sel(y=segments.y, x=segments.x, method="nearest")
    # Averaged over squares, signs that alternate cancel.
    assert (segments.values == same.values).mean() > (0.6 if "reduce" in how else 0.99)
    for each in (explorer, other):
        each.choose(pixel=(9.7, 17.2))
    if "reduce" not in how:
        np.testing.assert_allclose(other.movers(), explorer.movers(), atol=0.02)


def test_the_slider_clusters_anew_and_a_segment_chooses_its_locations(explorer):
    segments = explorer.pictures[3]
    assert segments.layout.display == "none"
    explorer._masks.value = 2
    assert explorer.masks == 2
    assert segments.layout.display is None
    two = segments.over
    click(segments, 12, 20)
    assert explorer.selection == ((1, 0), (1, 1), (1, 2), (1, 3)), "rows are alike"
    expected = ep.responses.segment_from(responses(), 2)
    np.testing.assert_array_equal(explorer.segments()["labels"], expected["labels"])
    explorer.masks = 4
    assert segments.over != two
    click(segments, 12, 20)
    assert explorer.selection == ((1, 2), (1, 3))
    with pytest.raises(InputError, match="1 to 8"):
        explorer.masks = 9
    bare = CorrespondenceExplorer(responses().drop_vars("features"))
    with pytest.raises(InputError, match="no features"):
        bare.masks = 2


def test_one_click_on_a_large_picture_sends_little():
    rng = np.random.default_rng(0)
    tile = rng.normal(scale=0.1, size=(1, 1, 3, 512, 512)).astype(np.float16)
    noise = np.tile(tile, (2, 2, 1, 1, 1))
    photo = np.add.outer(np.arange(512), np.arange(512))[..., None] // 4 + np.arange(3)
    large = responses(512, 512, (2, 2)).assign(
        response=(("source_y", "source_x", "rgb", "y", "x"), noise),
        picture=(("y", "x", "rgb"), photo.astype(np.uint8)),
    )
    explorer = CorrespondenceExplorer(large)
    before = explorer.pictures[0].image
    explorer.choose(((0, 1),))
    shown, grid, moved, _ = explorer.pictures
    assert shown.image is before, "the picture itself is not sent again"
    # Noise cannot be compressed, so that this is the most there can be of the map.
    assert 10_000 < len(shown.over) < 70_000
    assert len(grid.over) == 0
    assert np.abs(moved.pixels().astype(int) - photo).mean() > 5
    explorer.choose(pixel=(100, 100))
    assert 0 < len(grid.over) < 2_000


def test_wrong_states_are_refused(explorer):
    with pytest.raises(InputError, match="rows are 0 to 1"):
        explorer.selection = ((2, 0),)
    with pytest.raises(InputError, match="16 x 32"):
        explorer.pixel = (17, 0)
    with pytest.raises(InputError, match=r"run\.respond\(\)"):
        CorrespondenceExplorer(xr.Dataset({"response": ("mask", [1.0])}))


def test_the_code_makes_the_same_view_again(explorer):
    explorer.choose(((1, 2), (0, 1)))
    explorer.strength = 2
    explorer.masks = 3
    again = eval(explorer.code(), {"ep": ep, "responses": responses()})
    assert [each.image for each in again.pictures] == [each.image for each in explorer.pictures]
