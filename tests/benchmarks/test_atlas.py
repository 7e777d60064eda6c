"""The atlas of a model: all sites in the model's order, and the numbers of the measures."""

import numpy as np
import pandas as pd
import pytest

import emerdiff_probe as ep
from benchmarks import atlas
from benchmarks.task import ATLAS_SEEDS, Task
from emerdiff_probe.layers import Explained
from emerdiff_probe.layers import atlas as measured
from emerdiff_probe.scenes import scene
from tests.checkpoints import tiny_playground


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


def test_sites_stand_from_the_first_to_the_last(model):
    found = atlas.sites(model)
    blocks = list(dict.fromkeys(each.split(":")[0].split(".attentions")[0] for each in found))
    assert blocks == [
        "down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block",
        "up_blocks.0", "up_blocks.1", "up_blocks.2",
    ]  # fmt: skip
    assert "up_blocks.1.attentions.0.transformer_blocks.0.attn2:query" in found
    assert "up_blocks.1.attentions.2:out" in found
    assert not any(":key" in each for each in found)


def test_tables_and_pictures(model, tmp_path, monkeypatch):
    monkeypatch.setattr(atlas, "TIMESTEPS", (281, 1))
    chosen = [
        each for each in atlas.sites(model) if each.startswith(("mid_block", "up_blocks.1.a"))
    ]
    monkeypatch.setattr(atlas, "sites", lambda model: chosen)
    atlas.benchmark(Task(model, tmp_path, tmp_path / "kept", 3, 1))
    text = (tmp_path / "atlas.md").read_text()
    assert f"{len(chosen)} sites" in text
    assert (tmp_path / "atlas.png").exists()
    assert (tmp_path / "atlas-cka.png").exists()
    table = pd.read_csv(tmp_path / "atlas.csv")
    assert list(table["site"].unique()) == chosen
    assert list(table["timestep"].unique()) == [281, 1]
    subjects = [scene(seed) for seed in ATLAS_SEEDS[:3]]
    run = ep.record(
        model,
        [ep.Photo(each.image) for each in subjects],
        chosen[:1],
        timesteps=[281],
        steps=50,
        batch=8,
        progress=False,
    )
    alone = measured(
        run,
        [Explained()],
        labels=np.stack([each.parts for each in subjects]),
        progress=False,
    )
    expected = alone["explained"].sel(share="position").item()
    row = table[(table["site"] == chosen[0]) & (table["timestep"] == 281)]
    assert row["position"].item() == pytest.approx(expected, abs=2e-3)
