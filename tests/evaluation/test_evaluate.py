"""Methods over data sets: right numbers, resumed, and honest about what was left out."""

import os
from functools import partial

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from PIL import Image

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError, StoreError
from emerdiff_probe.evaluation import (
    PROTOCOLS,
    Segments,
    drawing,
    evaluate,
    plain_folder,
    scene_dataset,
    worst_and_best,
)
from emerdiff_probe.evaluation.methods import emerdiff_and_baselines
from emerdiff_probe.evaluation.protocols import OVER_DATASET, PER_PICTURE
from emerdiff_probe.metrics import (
    Confusion,
    boundary_iou,
    class_mean_miou,
    dataset_hungarian_miou,
    image_hungarian_miou,
    majority_class_miou,
    majority_classes,
)
from tests.checkpoints import tiny_playground

COUNT = 5


@pytest.fixture
def root(tmp_path):
    """Five pictures whose red tells the class: 0 to 3, and 255 where nothing counts."""
    folder = tmp_path / "mine"
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in range(COUNT):
        truth = np.kron(rng.integers(0, 4, (4, 5)), np.ones((5, 5), int)).astype(np.uint8)
        truth[0, :3] = 255
        picture = np.stack([truth * 20, truth * 0, rng.integers(0, 9, truth.shape)], -1)
        Image.fromarray(picture.astype(np.uint8)).save(folder / f"images/{number}.png")
        Image.fromarray(truth).save(folder / f"labels/{number}.png")
    (folder / "classes.csv").write_text("name,index\n" + "".join(f"c{i},{i}\n" for i in range(4)))
    return folder


def by_red(picture):
    """Segments by colour, numbered anew in each picture, with the colour as embedding."""
    reds, labels = np.unique(picture[..., 0].astype(int), return_inverse=True)
    labels = labels.reshape(picture.shape[:2])
    points = xr.DataArray(reds[:, None] * [1.0, 0], dims=("mask", "channel"))
    chance = np.random.RandomState(int(picture.sum()) % 1000).randint(0, 4, labels.shape)
    halves = (np.indices(labels.shape)[1] >= 12).astype(int)
    return {
        "red": Segments(labels, points),
        "chance": Segments(chance, xr.zeros_like(points)[:4] + 1),
        "halves": Segments(halves),
    }


def test_the_truth_is_right_in_every_protocol_and_chance_in_none(root):
    found = evaluate(by_red, plain_folder(root), PROTOCOLS)
    table = found.pictures.set_index(["method", "picture"])
    assert len(table) == 3 * COUNT
    assert found.protocols == list(PER_PICTURE)
    red, chance = table.loc["red"], table.loc["chance"]
    # Pixels that do not count have the red of none of the classes: their own segment.
    assert red[found.protocols].to_numpy() == pytest.approx(1)
    assert (chance[["majority-class", "image-hungarian", "boundary-iou"]].to_numpy() < 0.5).all()
    assert np.abs(chance[["ari", "ami"]].to_numpy()).max() < 0.1
    over = found.over_dataset
    assert list(over.columns) == list(OVER_DATASET)
    assert over.loc["red"].tolist() == [1, 1]
    assert (over.loc["chance"] < 0.3).all()
    assert over.loc["halves"].isna().all()  # it has no embeddings
    assert table.loc["halves"]["class-mean-image"].isna().all()
    assert not found.skipped


def test_numbers_are_those_of_the_metrics(root):
    dataset = plain_folder(root)
    found = evaluate(by_red, dataset, PROTOCOLS).pictures.set_index(["method", "picture"])
    picture, truth = dataset.load("2")
    segments = by_red(picture)
    for name in ("chance", "halves"):
        labels, row = segments[name].labels, found.loc[name, "2"]
        assert row["majority-class"] == majority_class_miou(labels, truth, 4, -1)
        assert row["image-hungarian"] == image_hungarian_miou(labels, truth, 4, -1)
        painted = majority_classes(labels, truth, 4, -1)[labels]
        assert row["boundary-iou"] == boundary_iou(painted, truth, -1)
        assert row["majority-class-accuracy"] == (painted == truth)[truth >= 0].mean()
        assert row["segments"] == len(np.unique(labels))
    chance = segments["chance"]
    expected = class_mean_miou(chance.labels, chance.embeddings, truth, 4, -1)
    assert found.loc["chance", "2"]["class-mean-image"] == expected


def test_over_the_data_set_clusters_are_matched_once(root):
    """Segments whose embedding tells two of the classes apart from the others, and no more."""

    def coarse(picture):
        own = by_red(picture)["red"]
        known = own.embeddings.copy(data=np.minimum(own.embeddings.values, 20.0))
        return {"coarse": Segments(own.labels, known)}

    dataset = plain_folder(root)
    found = evaluate(coarse, dataset, ["dataset-hungarian", "class-mean", "image-hungarian"])
    total = Confusion.empty(4, -1)
    for key in dataset.keys:
        picture, truth = dataset.load(key)
        total = total.update(np.minimum(picture[..., 0] // 20, 1).astype(int), truth)
    expected = dataset_hungarian_miou(total)
    assert found.over_dataset.loc["coarse", "dataset-hungarian"] == pytest.approx(expected)
    assert found.pictures["image-hungarian"].mean() == 1 > expected


def test_it_goes_on_where_it_was(root, tmp_path):
    dataset, kept = plain_folder(root), tmp_path / "kept"
    whole = evaluate(by_red, dataset, PROTOCOLS, kept=kept, identity={"seed": 0})
    lines = (kept / "scores.jsonl").read_text().splitlines()
    (kept / "scores.jsonl").write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    seen = []

    def watched(picture):
        seen.append(picture)
        return by_red(picture)

    again = evaluate(watched, dataset, PROTOCOLS, kept=kept, identity={"seed": 0})
    assert len(seen) == COUNT - 2
    pd.testing.assert_frame_equal(again.pictures, whole.pictures)
    pd.testing.assert_frame_equal(again.over_dataset, whole.over_dataset)
    with pytest.raises(StoreError, match="delete it to start again"):
        evaluate(by_red, dataset, PROTOCOLS, kept=kept, identity={"seed": 1})


def test_what_cannot_be_used_is_reported_and_left_out_only_when_asked(root):
    (root / "labels/1.png").unlink()
    Image.fromarray(np.zeros((20, 24), np.uint8)).save(root / "labels/2.png")
    Image.fromarray(np.full((20, 25), 255, np.uint8)).save(root / "labels/3.png")
    dataset = plain_folder(root)
    with pytest.raises(InputError, match=r"2 pictures cannot be used: '1': no labels .*skip=True"):
        evaluate(by_red, dataset)
    found = evaluate(by_red, dataset, skip=True)
    assert set(found.pictures["picture"]) == {"0", "4"}
    assert set(found.skipped) == {"1", "2", "3"}
    assert found.skipped["3"] == "no pixel of its labels counts"
    for name in ("1.png", "2.png"):
        (root / "images" / name).unlink()
    with pytest.raises(InputError, match="'3': no pixel of its labels counts"):
        evaluate(by_red, plain_folder(root))


def test_each_image_is_drawn_with_its_truth_and_the_worst_and_best_on_one_sheet(root, tmp_path):
    def drawn_panels(key):
        sheet = np.asarray(Image.open(drawing(tmp_path / "kept", key)))
        return [sheet[12:32, 12 + number * 172 :][:, :25] for number in range(5)]

    dataset = plain_folder(root)
    options = {"kept": tmp_path / "kept", "drawn": True}
    found = evaluate(by_red, dataset, ["majority-class"], **options)
    image, truth, red, chance, _ = drawn_panels("0")
    np.testing.assert_array_equal(image, dataset.load("0").picture)
    np.testing.assert_array_equal(red, truth)  # right segments have the colours of their classes
    assert (chance != truth).any()
    for panel in (truth, red, chance):
        assert (panel[0, :3] == 128).all()  # does not count
        assert (panel[1:] != 128).any(-1).all()

    def halves_first(picture):
        return {name: by_red(picture)[name] for name in ("halves", "red")}

    folder = tmp_path / "halves"
    found = evaluate(halves_first, dataset, ["majority-class"], kept=folder, drawn=True)
    scores = found.pictures.query("method == 'halves'").set_index("picture")["majority-class"]
    sheet = np.asarray(worst_and_best(found, partial(drawing, folder), count=1))
    for key, top in ((scores.idxmin(), 12), (scores.idxmax(), 108)):
        strip = np.asarray(Image.open(drawing(folder, key)))
        assert strip.shape[0] == 64
        np.testing.assert_array_equal(sheet[top : top + 64, 12 : 12 + strip.shape[1]], strip)

    os.remove(drawing(tmp_path / "kept", "0"))
    evaluate(by_red, dataset, ["majority-class"], **options)
    assert not drawing(tmp_path / "kept", "0").exists()  # what is scored is not computed again
    with pytest.raises(StoreError, match="drawn"):
        evaluate(by_red, dataset, ["majority-class"], kept=tmp_path / "kept")
    with pytest.raises(InputError, match="say where, with kept="):
        evaluate(by_red, dataset, drawn=True)
    over = evaluate(by_red, dataset, ["class-mean"], kept=tmp_path / "over", drawn=True)
    with pytest.raises(InputError, match="do not order its images"):
        worst_and_best(over, partial(drawing, tmp_path / "over"))


def test_refusals(root):
    dataset = plain_folder(root)
    with pytest.raises(InputError, match="no protocol 'hungarian'; closest: "):
        evaluate(by_red, dataset, ["hungarian"])
    small = {"small": Segments(np.zeros((5, 5), int))}
    with pytest.raises(InputError, match=r"small returns labels of shape \(5, 5\) for '0'"):
        evaluate(lambda picture: small, dataset)
    short = xr.DataArray(np.zeros((1, 2)), dims=("mask", "channel"))
    bare = {"bare": Segments(np.indices((20, 25))[1] // 5, short)}
    with pytest.raises(InputError, match="bare gives label 4 of '0' no embedding; there are 1"):
        evaluate(lambda picture: bare, dataset, ["ari"])
    with pytest.raises(InputError, match="no picture that can be used"):
        evaluate(by_red, dataset.first(0))


def test_tables_have_intervals_and_pairs(root):
    found = evaluate(by_red, plain_folder(root), ["majority-class", "ari", "class-mean"])
    table = found.summary()
    assert table.loc["red", "majority-class"] == "1.000 [1.000, 1.000]"
    assert list(table.columns) == ["majority-class", "ari", "class-mean"]
    assert (table.loc["red", "class-mean"], table.loc["halves", "class-mean"]) == ("1.000", "nan")
    pairs = found.paired("red")
    assert set(pairs.index) == {"chance", "halves"}
    assert pairs.loc["chance", "ari"].startswith("+")
    with pytest.raises(InputError, match="no method 'rde'; closest: 'red'"):
        found.paired("rde")


def test_emerdiff_and_its_baselines_on_scenes():
    model = ep.load(tiny_playground())
    config = ep.EmerDiffConfig.playground().replace(
        steps=10, modulation_timestep=101, feature_timestep=1
    )
    method = emerdiff_and_baselines(model, 3, config)
    found = evaluate(method, scene_dataset([1_000_000], "objects"))
    assert list(found.pictures["method"]) == [
        "EmerDiff", "nearest", "bilinear masks", "bilinear features", "guided filter"
    ]  # fmt: skip
    assert found.over_dataset["class-mean"].between(0, 1).all()
    result = ep.segment(
        model, ep.Photo(ep.scenes.scene(1_000_000).image), masks=3, config=config, progress=False
    )
    truth = ep.scenes.scene(1_000_000).objects
    expected = majority_class_miou(result["labels"], truth, len(ep.scenes.OBJECTS))
    assert found.pictures["majority-class"][0] == pytest.approx(expected, abs=0.01)
