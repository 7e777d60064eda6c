"""Results of many inputs in one folder: a part each, equal to that of one call, and a table."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import emerdiff_probe as ep
from emerdiff_probe import evaluation
from emerdiff_probe.distributed import folders, segment
from emerdiff_probe.emerdiff import EmerDiffConfig
from emerdiff_probe.errors import ConfigError, InputError, StoreError
from emerdiff_probe.evaluation.methods import emerdiff_and_baselines
from tests.distributed.pictures import folder

FEW = {"steps": 10, "feature_timestep": 1, "modulation_timestep": 101, "restarts": 1}


@pytest.fixture(scope="module")
def model(tiny_folder):
    return ep.load(tiny_folder)


def test_parts_have_names_that_no_two_share():
    keys = ["a.png", "a.jpg", "a", "A", "x/a.png", "x-a.png", "é", "e", "table.csv", "", " "]
    names = [folders.part_name(key) for key in keys]
    assert len(set(names)) == len(keys)
    assert names[0] == "a.png"
    assert all(not set("/\\ ") & set(name) for name in names)


def test_a_folder_is_segmented_as_one_call_segments_it(model, tmp_path, monkeypatch):
    pictures = folder(tmp_path / "pictures", 3, bad=["bad.png"])
    out, settings = tmp_path / "out", {"model": model, "masks": 3, "progress": False, **FEW}
    first = ep.map("segment", pictures, out, shard="1/2", **settings)
    assert list(first.table["key"]) == ["0.png", "2.png"]
    table = pd.read_csv(out / "table.csv", keep_default_na=False)
    assert list(table["state"]) == ["done", "missing", "done", "missing"]
    second = ep.map("segment", pictures, out, shard="2/2", **settings)
    assert list(second.failed["key"]) == ["bad.png"]
    table = pd.read_csv(out / "table.csv", keep_default_na=False)
    assert list(table["state"]) == ["done", "done", "done", "failed"]
    assert "is not an image" in table["reason"].iloc[3]
    for number in range(3):
        found = xr.open_zarr(out / f"{number}.png/dataset.zarr")
        expected = ep.segment(model, pictures / f"{number}.png", 3, **FEW)
        np.testing.assert_array_equal(found["labels"], expected["labels"])
    assert (out / "contact-sheet.html").read_text().count("<figure>") == 3

    def again(*_):
        raise AssertionError("done twice")

    monkeypatch.setattr(segment, "_segment", again)
    (pictures / "bad.png").unlink()
    assert ep.map("segment", pictures, out, **settings).failed.empty
    with pytest.raises(ConfigError, match="masks: begun with 3, now 4"):
        ep.map("segment", pictures, out, **{**settings, "masks": 4})
    with pytest.raises(StoreError, match=r"holds no results of ep\.map"):
        ep.map("segment", pictures, pictures, **settings)
    made = json.loads((out / "settings.json").read_text())
    made["model"]["weights"]["unet"] = "of another"
    (out / "settings.json").write_text(json.dumps(made))
    (out / "1.png/index.html").unlink()
    with pytest.raises(ConfigError, match="was begun with another model"):
        ep.map("segment", pictures, out, **settings)


def test_responses_are_resumed(model, tmp_path):
    pictures, out = folder(tmp_path / "pictures", 2), tmp_path / "out"
    settings = {"model": model, "masks": 3, "engine": "jump", "progress": False, **FEW}
    ep.map("respond", pictures, out, **settings)
    table = pd.read_csv(out / "table.csv", keep_default_na=False)
    assert list(table["state"]) == ["done", "done"]
    expected = ep.respond(model, pictures / "1.png", 3, engine="jump", progress=False, **FEW)
    store = out / "1.png.zarr"
    xr.testing.assert_equal(ep.open_responses(store).load(), expected)
    next((store / "response").glob("c.1.*")).unlink()
    assert np.isnan(ep.open_responses(store)["response"][1]).all()
    ep.map("respond", pictures, out, **settings)
    xr.testing.assert_equal(ep.open_responses(store).load(), expected)


def test_scores_are_those_of_one_evaluation(model, tmp_path):
    out, protocols = tmp_path / "out", ["majority-class", "dataset-hungarian"]
    dataset = evaluation.scene_dataset(range(1_100_000, 1_100_003))
    settings = {"model": model, "masks": 3, "protocols": protocols, "progress": False, **FEW}
    for shard in ("1/2", "2/2"):
        assert ep.map("evaluate", dataset, out, shard=shard, **settings).failed.empty
    config = EmerDiffConfig.for_model(model).replace(seed=0, **FEW)
    method = emerdiff_and_baselines(model, 3, config)
    expected = evaluation.evaluate(method, dataset, protocols)
    found = pd.read_csv(out / "pictures.csv", dtype={"picture": str})
    pd.testing.assert_frame_equal(found, expected.pictures)
    summary = pd.read_csv(out / "summary.csv", index_col=0, dtype=str)
    pd.testing.assert_frame_equal(summary, expected.summary(), check_dtype=False)
    with pytest.raises(InputError, match="known truth are needed, and list has none"):
        ep.map("evaluate", [("a", "a house")], out, **settings)
