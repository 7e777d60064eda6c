"""Explorers of segments without a browser: what a click chooses, and what agrees."""

import json

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from pycocotools import mask as coco

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError, StoreError
from emerdiff_probe.views.colours import shaded
from emerdiff_probe.widgets import SegmentationExplorer
from emerdiff_probe.widgets.segmenting import BASELINES
from tests.datasets import bands, responses


def pixels(picture):
    return picture.pixels()


def click(picture, y, x):
    picture.clicked = {"y": y, "x": x, "shift": False, "count": 1}


@pytest.fixture
def result():
    ds = bands(masks=4)
    ds["difference"][2, 0, 0] = 0.5
    return ds


def test_a_click_chooses_the_segment_or_the_mask_below_it(result):
    explorer = SegmentationExplorer(result)
    segments, _, masks, difference = explorer.pictures
    before = pixels(segments)
    click(segments, 10, 40)
    assert explorer.selection == 2
    assert "segment 2, 25.0%" in segments.caption
    chosen, others = slice(34 * 8, 46 * 8), slice(0, 14 * 8)
    np.testing.assert_array_equal(pixels(segments)[:, chosen], before[:, chosen])
    np.testing.assert_allclose(pixels(segments)[:, others], before[:, others] / 3, atol=1.5)
    assert "at most 0.5" in difference.caption
    assert (pixels(difference).astype(int).sum(-1) > 400).sum() == 1
    click(masks, 47.9, 63.9)
    assert explorer.selection == 3
    numbers = np.frombuffer(segments.values, "<f4").reshape(segments.value_grid)
    np.testing.assert_array_equal(numbers, result["labels"])
    assert (segments.value_name, masks.value_name) == ("segment", "mask")
    explorer.selection = -1
    np.testing.assert_array_equal(pixels(segments), before)


def test_colours_can_be_taken_away(result):
    explorer = SegmentationExplorer(result, alpha=0.0)
    shown = pixels(explorer.pictures[0])[4::8, 4::8]
    np.testing.assert_array_equal(shown[:, 5], result["picture"][:, 5])
    with pytest.raises(InputError, match="0 to 3"):
        explorer.selection = 4


def test_the_code_makes_the_same_view_again(result):
    explorer = SegmentationExplorer(result, selection=1, alpha=0.25)
    again = eval(explorer.code(), {"ep": ep, "result": result})
    assert [each.image for each in again.pictures] == [each.image for each in explorer.pictures]


@pytest.fixture
def answers():
    """Responses at the model's pixels, a third as many as the photograph has on each side."""
    return responses(16, 32, (4, 8), size=(48, 96))


@pytest.fixture
def explorer(answers):
    rng = np.random.default_rng(0)
    ds = bands(48, 96, masks=4, grid=(4, 8), model_grid=(16, 32))
    ds["difference"][:] = rng.uniform(0.1, 1, ds["difference"].shape)
    assigned = ep.segments.assign(ds["difference"], ds["y"], ds["x"])
    for name in ("labels", "margin", "strength"):
        ds[name][:] = assigned[name]
    ds["embeddings"][:] = rng.normal(size=ds["embeddings"].shape)
    ds["features"] = answers["features"].assign_coords(
        source_y=ds["source_y"], source_x=ds["source_x"]
    )
    return SegmentationExplorer(ds, answers)


def test_another_number_of_masks_is_clustered_from_responses(explorer, answers):
    explorer.masks = 2
    found = explorer.segments()
    again = ep.responses.segment_from(answers, 2)
    # The photograph has three times as many pixels: interpolated in between, the same at centres.
    np.testing.assert_array_equal(found["labels"][1::3, 1::3], again["labels"])
    assert found["labels"].shape == (48, 96)
    np.testing.assert_array_equal(found["low_res"], again["low_res"])
    assert (explorer.merged, explorer._menus["merged"].max) == (2, 2)
    explorer.masks = 4
    assert explorer.merged == 4
    bare = SegmentationExplorer(bands())
    with pytest.raises(InputError, match="needs responses"):
        bare.masks = 3


def test_another_number_of_masks_keeps_the_settings_of_the_result():
    """Seed and filter are the result's, and difference maps are filtered once."""
    settings = {"normalise": "l2", "restarts": 1, "seed": 3, "sigma": 1.5, "balance": "mean"}
    plain = responses(16, 32, (4, 8), size=(48, 96))
    noise = np.random.default_rng(0).normal(size=plain["features"].shape).astype(np.float32)
    plain["features"] = plain["features"].copy(data=noise)
    stated = json.loads(plain.attrs["config"]) | settings
    answers = plain.assign_attrs(config=json.dumps(stated))
    result = bands(48, 96, grid=(4, 8), model_grid=(16, 32), config=json.dumps(stated))
    for given in (answers, plain):
        explorer = SegmentationExplorer(result, given, masks=8)
        assert explorer.error == ""
        again = ep.responses.segment_from(answers, 8)
        np.testing.assert_array_equal(explorer.segments()["labels"][1::3, 1::3], again["labels"])
        np.testing.assert_array_equal(explorer.segments()["difference"], again["difference"])
    for name in ("seed", "sigma", "balance"):
        changed = {**stated, name: json.loads(plain.attrs["config"])[name]}
        other = ep.responses.segment_from(plain.assign_attrs(config=json.dumps(changed)), 8)
        assert not other["labels"].equals(again["labels"]), name


@pytest.mark.parametrize("count", [2, 6])
def test_an_explorer_begins_with_another_number_of_masks(explorer, answers, count):
    result = explorer._segmenter._result
    begun = SegmentationExplorer(result, answers, masks=count)
    assert (begun.masks, begun.merged, begun.error) == (count, count, "")
    assert begun.code() == f"ep.widgets.SegmentationExplorer(result, responses, masks={count})"
    more = SegmentationExplorer(result, answers, masks=6, merged=4)
    again = eval(more.code(), {"ep": ep, "result": result, "responses": answers})
    assert (again.masks, again.merged) == (6, 4)


def test_responses_of_another_image_or_grid_are_refused():
    result = bands(48, 96, grid=(4, 8), model_grid=(16, 32))
    with pytest.raises(InputError, match="of 16 x 32 pixels, the result an image of 48 x 96"):
        SegmentationExplorer(result, responses(16, 32, (4, 8)))
    with pytest.raises(InputError, match="2 x 4 latent locations, the result 4 x 8"):
        SegmentationExplorer(result, responses(16, 32, (2, 4), size=(48, 96)))
    with pytest.raises(InputError, match="not responses"):
        SegmentationExplorer(result, result)


def test_merging_joins_the_likest_masks(explorer):
    explorer.selection = 3
    explorer._menus["merged"].value = 2
    assert explorer.merged == 2
    assert explorer.selection == 1, "one that is left"
    expected = ep.segments.merge(explorer._segmenter._result, count=2)["merged"].values
    explorer.merged = 4
    four = explorer.segments()
    explorer.merged = 2
    two = explorer.segments()
    np.testing.assert_array_equal(two["labels"], expected[four["labels"].values])
    joined = [four["difference"].values[expected == number].max(0) for number in (0, 1)]
    np.testing.assert_array_equal(two["difference"], joined)
    with pytest.raises(InputError, match="1 to 4"):
        explorer.merged = 5
    alike = SegmentationExplorer(bands(), merged=3)
    assert alike.error == ""
    assert alike.segments().sizes["mask"] == 1, "all are as far from each other"


def test_sigma_adds_to_the_filter_of_the_result(explorer):
    before = explorer.segments()["labels"].values
    maps = explorer._segmenter._result["difference"]
    explorer.sigma = 2
    smooth = ep.segments.smooth(maps, 2.0)
    at = explorer._picture.y, explorer._picture.x
    expected = ep.segments.assign(smooth, *at)["labels"]
    np.testing.assert_array_equal(explorer.segments()["labels"], expected)
    explorer.sigma = 0
    np.testing.assert_array_equal(explorer.segments()["labels"], before)
    assert (before != expected.values).any()
    config = json.dumps({"sigma": 1.5})
    filtered = bands(config=config)
    assert SegmentationExplorer(filtered).sigma == 1.5
    with pytest.raises(InputError, match=r"1\.5 already"):
        SegmentationExplorer(filtered, sigma=1)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_stand_beside(explorer, name):
    _, beside, *_ = explorer.pictures
    assert beside.layout.display == "none"
    explorer.baseline = name
    assert explorer.error == ""
    assert beside.layout.display is None
    assert name in beside.caption
    labels = explorer._segmenter.baseline(name, 4, 4, explorer._picture)
    if name in ("nearest", "bilinear masks"):
        # Bands end at borders of locations, where neither can do better nor worse.
        np.testing.assert_array_equal(labels, np.arange(96)[None] // 24 + np.zeros((48, 1)))
    assert set(np.unique(labels)) <= set(range(4))


def test_the_margin_is_an_overlay(explorer):
    explorer.overlay = "margin"
    segments = explorer.pictures[0]
    assert segments.opacity == explorer.alpha
    explorer.alpha = 1.0
    margin = explorer.segments()["margin"].values
    np.testing.assert_array_equal(pixels(segments), shaded(margin, 0, 1))


SQUARE = [(12, 24), (12, 48), (24, 48), (24, 24)]
"""One row of latent locations down, two to the right, two wide."""


def test_masks_are_drawn_by_hand(explorer, answers):
    segments, _, _, moved = explorer.pictures
    explorer.pictures[0].dragged = {"path": SQUARE, "shift": False, "count": 1}
    assert explorer.own == (tuple((float(y), float(x)) for y, x in SQUARE),)
    weights = np.zeros((1, 4, 8))
    weights[0, 1, 2:4] = 1
    np.testing.assert_array_equal(explorer.own_masks(), weights)
    own = np.zeros((48, 96), bool)
    own[12:24, 24:48] = True
    np.testing.assert_array_equal(explorer.segments()["own"][0], own)
    yellow = (pixels(segments) == [255, 212, 0]).all(-1)
    # Five points of the layer to a pixel.
    assert yellow[[12 * 5 - 1, 24 * 5 - 1], 150].all()
    assert not yellow[90, 150]
    expected = np.linalg.norm(ep.responses.response_of(answers, weights[0]), axis=0)
    assert "your mask 1" in moved.caption
    np.testing.assert_array_equal(pixels(moved), shaded(expected, 0, expected.max()))
    explorer.pictures[0].dragged = {"path": [[1, 1], [1, 2]], "shift": False, "count": 2}
    assert "mask 1 is empty" in explorer.error
    assert len(explorer.own) == 1
    explorer.own = ()
    with pytest.raises(InputError):
        explorer.own_masks()


def test_masks_are_written_and_read_back(explorer, tmp_path):
    explorer.own = [SQUARE]
    found = explorer.segments()
    with Image.open(explorer.export(tmp_path / "masks.png")) as image:
        np.testing.assert_array_equal(np.asarray(image), found["labels"])
    opened = xr.open_zarr(explorer.export(tmp_path / "masks.zarr"))
    np.testing.assert_array_equal(opened["labels"], found["labels"])
    np.testing.assert_array_equal(opened["own"], found["own"])
    explorer._masks_file.value = str(tmp_path / "masks.json")
    explorer._export()
    assert "written" in explorer._written.value, "beside the button"
    assert explorer._said.value == ""
    written = json.loads((tmp_path / "masks.json").read_text())
    masks = [coco.decode(each["segmentation"]) for each in written["annotations"]]
    assert [each["category_id"] for each in written["annotations"]] == [1, 1, 1, 1, 2]
    for number, mask in enumerate(masks[:4]):
        np.testing.assert_array_equal(mask, found["labels"] == number)
    np.testing.assert_array_equal(masks[4], found["own"][0])
    last = written["annotations"][4]
    assert (last["bbox"], last["area"]) == ([24, 12, 24, 12], 24 * 12)
    with pytest.raises(InputError, match=r"\.json"):
        explorer.export(tmp_path / "masks.gif")
    with pytest.raises(StoreError, match="another name"):
        explorer.export(tmp_path / "masks.zarr")


def test_figures_are_of_the_present_view(explorer, tmp_path):
    explorer.selection = 2
    figure = explorer.figure()
    assert len(figure.data) == 3, "the baseline is not shown"
    assert "segment 2" in " ".join(note.text for note in figure.layout.annotations)
    svg = explorer.save(tmp_path / "view.svg").read_text()
    assert "<svg" in svg
    explorer._file.value = "view.gif"
    explorer._save()
    assert ".svg" in explorer.error
    assert ".svg" in explorer._written.value
    assert explorer._said.value == ""
    explorer.selection = 1
    assert explorer._written.value == "", "the next question takes it away"


def test_the_code_is_shown_and_makes_the_view_again(explorer, answers):
    explorer.masks = 3
    explorer.merged = 2
    explorer.own = [SQUARE]
    explorer.sigma = 1
    explorer._show_code(True)
    assert "masks=3" in explorer._code.value
    explorer.alpha = 0.75
    assert "alpha=0.75" in explorer._code.value, "it follows"
    space = {"ep": ep, "result": explorer._segmenter._result, "responses": answers}
    again = eval(explorer.code(), space)
    assert [each.over for each in again.pictures] == [each.over for each in explorer.pictures]
    assert again.state() == explorer.state()
    # Whatever the order they are given in: other masks would forget what was chosen before.
    later = SegmentationExplorer(space["result"], answers, selection=1, merged=2, masks=3)
    assert (later.selection, later.merged) == (1, 2)
