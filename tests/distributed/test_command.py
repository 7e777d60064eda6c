"""The command as it is typed: what is done, what failed, what is missing, and its exit status."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from typer.testing import CliRunner

import emerdiff_probe as ep
from emerdiff_probe.cli import app
from tests.distributed.pictures import check_equal, folder

FEW = ["--steps", "10", "--feature-timestep", "1", "--modulation-timestep", "101"]


def called(*words):
    found = CliRunner().invoke(app, [str(word) for word in words])
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    return found


def test_workers_record_a_folder(tiny_folder, tmp_path):
    pictures, store = folder(tmp_path / "pictures", bad=["bad.png"]), tmp_path / "many.zarr"
    words = ["map", "record", "--inputs", pictures, "--store", store, "--sites", "mid_block"]
    words += ["--steps", "2", "--model", tiny_folder, "--workers", "2"]
    made = subprocess.run(
        [sys.executable, "-m", "emerdiff_probe", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert made.returncode == 1, made.stderr
    assert "4 of 5 inputs" in made.stdout
    assert "failed: 'bad.png': " in made.stderr
    assert "Traceback" not in made.stderr
    check_equal(store, pictures, ep.load(tiny_folder))
    (pictures / "bad.png").unlink()
    again = called(*words)
    assert again.exit_code == 0
    assert "4 of 4 inputs" in again.output


@pytest.fixture
def small(tiny_folder, monkeypatch):
    """A model that is loaded already, whatever the name."""
    loaded = ep.load(tiny_folder)
    monkeypatch.setattr(ep, "load", lambda *_, **__: loaded)


def test_all_tasks_are_there(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    pictures = folder(tmp_path / "pictures", 2)
    made = called("map", "record", "--inputs", pictures, "--sites", "mid_block", "--steps", 2)
    assert "1 of 1 inputs" in made.output
    assert "missing  1 of 2 samples: 1.png" in called("info", "many.zarr").output
    monkeypatch.delenv("RANK")
    assert called("map", "segment", "--inputs", pictures, "--masks", 3, *FEW).exit_code == 0
    assert (tmp_path / "segments/contact-sheet.html").exists()
    more = ["--masks", 3, "--engine", "jump", *FEW]
    assert called("map", "respond", "--inputs", pictures, *more).exit_code == 0
    assert ep.open_responses("responses/1.png.zarr").sizes["mask"] == 3
    more = ["--count", 1, "--masks", 3, *FEW]
    assert called("map", "evaluate", "--inputs", "scenes-parts", *more).exit_code == 0
    assert len(pd.read_csv("evaluation/pictures.csv")) == 5
    wrong = called("map", "record", "--inputs", "nowhere")
    assert wrong.exit_code == 1
    assert "no inputs" in wrong.output
