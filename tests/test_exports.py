"""Results on disk: whole or not at all, readable by others, never over what is not theirs."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from pycocotools import mask as coco

from emerdiff_probe import exports as results
from emerdiff_probe import schema, views
from emerdiff_probe.errors import StoreError
from tests.datasets import bands


def entries(folder):
    return sorted(entry.name for entry in folder.iterdir())


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["A Red, red house!"], ["a-red-red-house"]),
        (["../../etc/passwd", "C:\\x", ".hidden"], ["etc-passwd", "c-x", "hidden"]),
        (["cat", "Cat", "cat 2", "cat"], ["cat", "cat-2", "cat-2-2", "cat-3"]),
        (["", "家", "caf\udce9"], ["picture", "picture-2", "caf"]),
        (["été"], ["ete"]),
        (["x" * 500, "y" * 59 + " z"], ["x" * 60, "y" * 59]),
    ],
)
def test_names_are_safe_and_differ(texts, expected):
    assert results.names(texts) == expected


def test_a_result_is_read_back(tmp_path):
    ds = bands()
    results.write(ds, tmp_path / "a" / "cat")
    folder = tmp_path / "a" / "cat"
    assert entries(folder) == sorted(results.FILES)
    assert entries(tmp_path / "a") == ["cat"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stored = xr.open_zarr(folder / "dataset.zarr")
        schema.check(stored)
    xr.testing.assert_equal(stored.load().drop_vars("rgb"), ds.drop_vars("rgb"))
    assert stored.attrs == ds.attrs
    assert json.loads((folder / "dataset.zarr" / "zarr.json").read_text())["zarr_format"] == 3
    labels = Image.open(folder / "labels.png")
    assert labels.mode == "P"
    np.testing.assert_array_equal(np.asarray(labels), ds["labels"])
    np.testing.assert_array_equal(
        np.asarray(labels.convert("RGB")), views.palette(4)[ds["labels"].values]
    )
    np.testing.assert_array_equal(
        np.asarray(Image.open(folder / "overlay.png")), views.overlay_image(ds)
    )


def test_more_labels_than_a_palette_has(tmp_path):
    ds = bands(height=16, width=600, masks=300)
    results.write(ds, tmp_path / "many")
    stored = np.asarray(Image.open(tmp_path / "many" / "labels.png"))
    assert stored.max() == 299
    np.testing.assert_array_equal(stored, ds["labels"])


def test_a_name_that_is_no_text_is_written_too(tmp_path):
    results.write(bands(source="photo 'caf\udce9'"), tmp_path / "caf")
    assert "photo &#x27;caf?" in (tmp_path / "caf" / "index.html").read_text("utf-8")


def stop_moving(monkeypatch, error):
    """Stops when all is made; Zarr, which moves each of its files, is let through."""
    replace = Path.replace

    def stop(path, target):
        if path.name.startswith(".making"):
            raise error
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", stop)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize("when", ["writing", "moving"])
def test_what_stops_a_writing_leaves_nothing(tmp_path, monkeypatch, error, when):
    def stop(*_):
        raise error

    if when == "writing":
        monkeypatch.setattr(views, "page", stop)
    else:
        stop_moving(monkeypatch, error)
    with pytest.raises((KeyboardInterrupt, StoreError)):
        results.write(bands(), tmp_path / "new" / "folder" / "cat")
    assert entries(tmp_path) == []


def test_what_stops_a_replacing_leaves_the_old_one(tmp_path, monkeypatch):
    results.write(bands(), tmp_path / "cat")
    before = (tmp_path / "cat" / "labels.png").read_bytes()
    stop_moving(monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        results.write(bands(masks=2), tmp_path / "cat", overwrite=True)
    assert entries(tmp_path) == ["cat"]
    assert (tmp_path / "cat" / "labels.png").read_bytes() == before


def test_an_older_result_is_replaced_only_when_asked(tmp_path):
    results.write(bands(), tmp_path / "cat")
    with pytest.raises(StoreError, match="--overwrite"):
        results.write(bands(masks=2), tmp_path / "cat")
    assert Image.open(tmp_path / "cat" / "labels.png").getextrema() == (0, 3)
    results.write(bands(masks=2), tmp_path / "cat", overwrite=True)
    assert Image.open(tmp_path / "cat" / "labels.png").getextrema() == (0, 1)
    assert entries(tmp_path) == ["cat"]


@pytest.mark.parametrize("kind", ["stranger", "file", "link"])
def test_what_is_no_result_is_never_replaced(tmp_path, kind):
    place = tmp_path / "cat"
    if kind == "stranger":
        results.write(bands(), place)
        (place / "notes.txt").write_text("mine")
    elif kind == "file":
        place.write_text("mine")
    else:
        (tmp_path / "elsewhere").mkdir()
        place.symlink_to(tmp_path / "elsewhere")
    before = entries(tmp_path)
    with pytest.raises(StoreError, match="not replaced"):
        results.write(bands(), place, overwrite=True)
    assert entries(tmp_path) == before
    assert not place.is_dir() or kind == "link" or (place / "notes.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").write_text("mine")
    for use in (
        lambda: results.check_writable(tmp_path / "file" / "out"),
        lambda: results.write(bands(), tmp_path / "file" / "out" / "cat"),
    ):
        with pytest.raises(StoreError, match="cannot write to"):
            use()
    assert (tmp_path / "file").read_text() == "mine"


def test_looking_whether_it_can_be_written_leaves_no_trace(tmp_path):
    results.check_writable(tmp_path / "a" / "b")
    assert entries(tmp_path) == []


def test_a_dataset_of_another_form_is_not_written(tmp_path):
    with pytest.raises(StoreError, match="no variable"):
        results.write(bands().drop_vars("margin"), tmp_path / "cat")
    assert entries(tmp_path) == []


def test_home_and_an_empty_folder_are_places_for_a_result(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "cat").mkdir()
    results.write(bands(), "~/cat")
    assert entries(tmp_path / "cat") == sorted(results.FILES)
    results.write_masks(bands(), "~/cat.png")
    assert entries(tmp_path) == ["cat", "cat.png"]


@pytest.mark.parametrize(
    ("attributes", "file"),
    [
        ({"source": "photo 'cat'", "file": "cat.JPG"}, "cat.JPG"),
        ({"source": "prompt 'a red house', seed 3", "file": ""}, "prompt-a-red-house-seed-3.png"),
    ],
)
def test_annotations_name_the_picture_and_count(tmp_path, attributes, file):
    ds = bands().assign_attrs(attributes)
    found = json.loads(results.write_masks(ds, tmp_path / "masks.json").read_text())
    assert [each["file_name"] for each in found["images"]] == [file]
    assert {each["iscrowd"] for each in found["annotations"]} == {0}
    assert sum(each["area"] for each in found["annotations"]) == ds["labels"].size
    for each, number in zip(found["annotations"], range(4), strict=True):
        mask = ds["labels"].values == number
        np.testing.assert_array_equal(coco.decode(each["segmentation"]), mask)
        (top, *_, bottom), (left, *_, right) = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
        assert each["bbox"] == [left, top, right - left + 1, bottom - top + 1]


def test_a_results_texts_are_read_by_others(tmp_path):
    path = results.write_masks(bands(), tmp_path / "masks.zarr")
    kinds = [json.loads(each.read_text()).get("data_type") for each in path.rglob("zarr.json")]
    assert "string" in kinds
    assert all(kind is None or isinstance(kind, str) for kind in kinds)
