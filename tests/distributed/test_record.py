"""Recordings of many inputs: one store, equal to that of one process, whoever writes it."""

import pandas as pd
import pytest
from PIL import Image

import emerdiff_probe as ep
from emerdiff_probe.distributed import record
from emerdiff_probe.errors import ConfigError, InputError, StoreError
from emerdiff_probe.paths import Held
from emerdiff_probe.store import info
from tests.distributed.pictures import SETTINGS, check_equal, folder


@pytest.fixture(scope="module")
def model(tiny_folder):
    return ep.load(tiny_folder)


@pytest.fixture
def mapped(model, tmp_path):
    def call(inputs, **further):
        options = {"model": model, "progress": False, **SETTINGS, **further}
        return ep.map("record", inputs, tmp_path / "many.zarr", **options)

    return call


@pytest.fixture
def recorded(monkeypatch):
    """The keys of what is recorded from now on."""
    keys, own = [], record._record

    def noted(task, item, place, model):
        keys.append(item.key)
        own(task, item, place, model)

    monkeypatch.setattr(record, "_record", noted)
    return keys


def test_a_folder_is_recorded_as_one_call_records_it(mapped, model, tmp_path, recorded):
    pictures = folder(tmp_path / "pictures", bad=["bad.png"])
    found = mapped(pictures)
    assert list(found.table["state"]) == ["done"] * 4 + ["failed"]
    assert list(found.failed["key"]) == ["bad.png"]
    assert f"'{pictures}/bad.png' is not an image" in found.failed["reason"].item()
    failures = tmp_path / "many.zarr.failures.csv"
    assert list(pd.read_csv(failures)["key"]) == ["bad.png"]
    check_equal(found.out, pictures, model)
    assert list(ep.open(found.out)["sample"].values) == [f"{n}.png" for n in range(4)]
    assert recorded == [f"{n}.png" for n in range(4)]
    (pictures / "bad.png").unlink()
    again = mapped(pictures)
    assert again.failed.empty
    assert not failures.exists()
    assert recorded == [f"{n}.png" for n in range(4)], "nothing is done twice"


def test_what_is_lost_is_missing_and_recorded_again(mapped, model, tmp_path, recorded):
    pictures = folder(tmp_path / "pictures")
    out = mapped(pictures).out
    assert info(out).missing == ()
    next((out / "restart/value").glob("c.2.*")).unlink()
    next((out / "image/value").glob("c.3.*")).unlink()
    assert info(out).missing == ("2.png", "3.png")
    recorded.clear()
    mapped(pictures)
    assert recorded == ["2.png", "3.png"]
    check_equal(out, pictures, model)


def test_one_call_can_go_on_with_what_the_other_began(mapped, model, tmp_path, recorded):
    pictures = folder(tmp_path / "pictures")
    files = sorted(pictures.iterdir())
    ep.record(model, files, store=tmp_path / "many.zarr", progress=False, **SETTINGS)
    mapped(pictures)
    assert recorded == []


def test_other_settings_and_other_pictures_are_refused(mapped, tmp_path):
    pictures = folder(tmp_path / "pictures", 2)
    out = mapped(pictures).out
    next((out / "restart/value").glob("c.1.*")).unlink()
    with pytest.raises(ConfigError, match="steps: begun with 2, now 3"):
        mapped(pictures, steps=3)
    (pictures / "0.png").rename(pictures / "1.png")
    found = mapped(pictures)
    assert "row 1 of" in found.failed["reason"].item()
    with pytest.raises(ConfigError, match="no task 'recrod'; closest: 'record'"):
        ep.map("recrod", pictures, out)
    out.rename(tmp_path / "other.zarr")
    with pytest.raises(ConfigError, match="principal components are those of all inputs"):
        mapped(pictures, reduce=ep.reduce.project(2))
    for name in ("none", "bad"):
        (tmp_path / name).mkdir()
    (tmp_path / "bad/0.png").write_text("no image")
    with pytest.raises(InputError, match="there are no inputs in"):
        mapped(tmp_path / "none")
    with pytest.raises(InputError, match=r"none of 1 inputs can be used; '0\.png': .* Pillow"):
        mapped(tmp_path / "bad")


def test_sizes_lie_side_by_side(mapped, model, tmp_path, recorded):
    pictures = folder(tmp_path / "pictures", 3)
    Image.open(pictures / "0.png").resize((48, 32)).save(pictures / "wide.png")
    out = mapped(pictures).out
    check = ep.open(out)
    assert list(check.children) == ["32x32", "32x48"]
    assert list(check["32x48"]["sample"].values) == ["wide.png"]
    mapped(pictures)
    assert len(recorded) == 4


def test_shards_share_one_store(mapped, model, tmp_path, recorded):
    pictures = folder(tmp_path / "pictures", 5)
    first = mapped(pictures, shard="1/2")
    assert list(first.table["key"]) == ["0.png", "2.png", "4.png"]
    assert info(first.out).missing == ("1.png", "3.png")
    assert "shard 1/2" in repr(first)
    mapped(pictures, shard="2/2")
    check_equal(first.out, pictures, model)
    assert sorted(recorded) == [f"{n}.png" for n in range(5)]


def test_what_comes_late_is_told(mapped, tmp_path):
    pictures = folder(tmp_path / "pictures", 2)
    mapped(pictures)
    folder(tmp_path / "more", 3)
    (tmp_path / "more/2.png").rename(pictures / "2.png")
    found = mapped(pictures)
    assert "was made before this input" in found.failed["reason"].item()


def test_who_records_alone_is_not_joined(mapped, tmp_path):
    pictures = folder(tmp_path / "pictures", 2)
    out = mapped(pictures).out
    with Held(out, store=True), pytest.raises(StoreError, match="is being written to by process"):
        mapped(pictures)
    mapped(pictures)
