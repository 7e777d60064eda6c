"""The command: right answers for odd pictures, clear errors for bad ones, nothing half-written."""

import dataclasses
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import typing
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
import xarray as xr
from PIL import Image
from typer.testing import CliRunner

import emerdiff_probe as ep
from emerdiff_probe import exports as results
from emerdiff_probe import scenes, schema
from emerdiff_probe.cli import app
from emerdiff_probe.cli.datasets import FIRST_SEED
from emerdiff_probe.cli.report import reported
from emerdiff_probe.cli.segment import segment
from emerdiff_probe.cli.settings import SETTINGS
from emerdiff_probe.emerdiff import ENGINES
from emerdiff_probe.errors import InputError
from emerdiff_probe.playground.settings import TrainingSettings

CONFIG = ep.EmerDiffConfig.playground().replace(
    steps=10, feature_timestep=1, modulation_timestep=101, restarts=1
)
WHOLE = sorted(results.FILES)
SHEETS = ["contact-sheet.html", "contact-sheet.png"]


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    return ep.load(tiny_folder)


@pytest.fixture
def run(tmp_path, monkeypatch, tiny):
    """Calls the command in an empty folder, with a small model that is already loaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ep, "load", lambda *_, **__: tiny)
    monkeypatch.setattr(ep.EmerDiffConfig, "for_model", classmethod(lambda cls, name: CONFIG))
    return call


@pytest.fixture
def refuse(tmp_path, monkeypatch):
    """Calls the command in an empty folder; it must not come as far as a model."""
    monkeypatch.chdir(tmp_path)

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(ep, "load", load)
    return call


def call(*arguments):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result


def test_sites_are_listed(run):
    result = run("sites", "playground", "*attn2:*", "--level", "16", "--level", "8")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0].split() == ["kind", "level", "dims", "shape", "bytes"]
    assert all("attn2:" in line and "cross" in line for line in lines[1:-1])
    assert lines[-1].startswith(f"{len(lines) - 2} sites, ")
    wrong = run("sites", "playground", "*attn3*")
    assert wrong.exit_code == 1
    assert "no site matches '*attn3*'; closest: 'attn2', 'attn1'" in wrong.output


def test_recordings_are_made_and_described(run, tiny):
    options = ["--prompt", "a red house", "--sites", "mid_block", "--steps", 5, "--timestep", 1]
    planned = run("record", *options, "--plan")
    assert planned.output.startswith("Plan(3 arrays, 1 samples, 1 timesteps, ")
    assert entries() == []
    made = run("record", *options)
    assert made.exit_code == 0
    assert "emerdiff_probe.open('run.zarr')" in made.output
    assert ep.site(ep.open("run.zarr"), "mid_block").sizes["timestep"] == 1
    described = run("info", "run.zarr").output
    for text in (tiny.weights, "'a red house', seed 0", "1, mid_block:out", "complete", "MiB"):
        assert text in described
    assert "reduced" not in described
    assert "begun with other settings" in run("record", *options, "--seed", 3).output
    pooled = ep.reduce.pool(2)
    ep.record(tiny, ep.Prompt("a"), "mid_block", steps=2, reduce=pooled, store="pooled.zarr")
    assert "reduced  pool(" in run("info", "pooled.zarr").output
    wrong = run("info", ".")
    assert wrong.exit_code == 1
    assert "cannot be opened as a recording" in wrong.output
    assert run("record").exit_code == 2


def entries(folder="."):
    return sorted(os.listdir(folder))


def picture(name="cat.png", seed=1_000_000):
    Image.fromarray(scenes.scene(seed).image).save(name)
    return name


def labels(folder):
    ds = xr.open_zarr(f"{folder}/dataset.zarr").load()
    schema.check(ds)
    shown = np.asarray(Image.open(f"{folder}/labels.png"))
    np.testing.assert_array_equal(shown, ds["labels"])
    return shown


# What it is for


def test_prompts_and_pictures_in_one_call(run):
    result = run("segment", picture(), "--prompt", "a red house", "-p", "a cow", "--masks", 3)
    assert result.exit_code == 0
    assert entries("segments") == ["a-cow", "a-red-house", "cat", *SHEETS]
    for name in entries("segments")[:3]:
        assert entries(f"segments/{name}") == WHOLE
        assert labels(f"segments/{name}").max() <= 2
        assert f"segments/{name}/index.html" in result.stdout
    ds = xr.open_zarr("segments/cat/dataset.zarr")
    np.testing.assert_array_equal(ds["picture"], Image.open("cat.png"))
    assert re.fullmatch(r"photo 'cat' [0-9a-f]{16}", ds.attrs["source"])


def test_how_prompts_are_drawn_can_be_told(run, tiny):
    how = ["--guidance", 2.5, "--negative-prompt", "a tree", "--height", 64, "--width", 128]
    assert run("segment", "-p", "a cow", "--masks", 2, *how, "--engine", "jump").exit_code == 0
    ds = xr.open_zarr("segments/a-cow/dataset.zarr")
    assert ds["picture"].shape == (64, 128, 3)
    assert json.loads(ds.attrs["config"])["guidance"] == 2.5
    assert ds.attrs["engine"] == "jump"
    told = "prompt 'a cow', seed 0, negative 'a tree', 64 x 128 (height x width)"
    assert ds.attrs["source"] == told
    useless = ["--guidance", 1, "--negative-prompt", "a tree"]
    assert "guidance" in run("segment", "-p", "a cow", *useless, "--out", "again").output
    assert "guidance" in run("record", "-p", "a cow", *useless, "--store", "again").output
    assert entries() == ["segments"]
    options = ["--sites", "mid_block", "--steps", 2, "--clip-skip", 1, *how]
    assert run("record", "-p", "a cow", *options).exit_code == 0
    sizes = ep.site(ep.open("run.zarr"), "mid_block").sizes
    assert sizes["x"] == 2 * sizes["y"]


def test_a_folder_is_each_of_its_images_and_a_sheet_of_all(run):
    os.mkdir("holiday")
    for number, name in enumerate(["b.JPG", "a.png", ".hidden.png"]):
        picture(f"holiday/{name}", seed=1_000_000 + number)
    Path("holiday/notes.txt").write_text("no image")
    os.mkdir("holiday/older.png")
    result = run("segment", "holiday", "--masks", 2, "--engine", "jump")
    assert result.exit_code == 0
    told = "left out of 'holiday', as no images: notes.txt, older.png"
    assert told in result.stderr.splitlines()
    assert entries("segments") == ["a", "b", *SHEETS]
    assert "All together: segments/contact-sheet.html" in result.stdout.splitlines()
    page = Path("segments/contact-sheet.html").read_text("utf-8")
    assert re.findall('href="([^"]+)"', page) == ["a/index.html", "b/index.html"]
    assert "2 results in segments" in page
    sheet = np.asarray(Image.open("segments/contact-sheet.png"))
    np.testing.assert_array_equal(
        sheet[12:140, 12:140], np.asarray(Image.open("segments/a/overlay.png"))
    )

    assert (
        run("segment", "holiday/b.JPG", "--masks", 2, "--engine", "jump", "--out", "one").exit_code
        == 0
    )
    assert entries("one") == ["b"]
    later = run("segment", picture("c.png"), "--masks", 2, "--engine", "jump")
    assert "All together" in later.stdout
    assert "3 results" in Path("segments/contact-sheet.html").read_text("utf-8")

    planned = run("record", "holiday", "--sites", "mid_block", "--steps", 2, "--plan")
    assert planned.output.splitlines()[-1].startswith("Plan(3 arrays, 2 samples")


def test_every_setting_of_the_method_is_an_option():
    # The family is the model's own, and the seed an option of every command.
    fields = {each.name: each for each in dataclasses.fields(ep.EmerDiffConfig)}
    assert set(SETTINGS) == set(fields) - {"family", "seed"}
    hints = typing.get_type_hints(ep.EmerDiffConfig)
    for name, (kind, *_) in SETTINGS.items():
        if name.endswith("_timestep"):
            continue  # whole in most models, and a fraction in flows
        assert kind == hints[name], name
    engine, _ = typing.get_args(typing.get_type_hints(segment)["engine"])  # or None
    assert set(typing.get_args(engine)) == set(ENGINES)


def test_scenes_begin_where_the_test_split_does():
    assert FIRST_SEED == ep.scenes.TEST_START


def test_settings_reach_the_method(run):
    options = ["--steps", 10, "--sigma", 0.25, "--no-injection", "--balance", "root"]
    options += ["--modulation-timestep", 101, "--inversion", "ddim", "--start", 401]
    assert run("segment", picture(), "--masks", 2, *options).exit_code == 0
    ds = xr.open_zarr("segments/cat/dataset.zarr")
    config = json.loads(ds.attrs["config"])
    asked = dict(sigma=0.25, injection=False, balance="root", inversion="ddim", start=401, steps=10)
    assert asked.items() <= config.items()
    assert config["strength"] == CONFIG.strength
    assert ds.attrs["engine"] == "literal"
    wrong = run("segment", "cat.png", "--sigma", "2000", "--out", "o")
    assert wrong.exit_code == 1
    assert "sigma is 2000" in wrong.stderr


def test_the_seed_is_that_of_picture_and_settings(run):
    for seed in (0, 5):
        assert run("segment", "-p", "a cow", "--masks", 2, "--seed", seed, "--out", seed)
    first, other = (xr.open_zarr(f"{seed}/a-cow/dataset.zarr") for seed in (0, 5))
    assert (first["picture"] != other["picture"]).any()
    assert json.loads(other.attrs["config"])["seed"] == 5
    assert other.attrs["source"].endswith("seed 5")


def test_inputs_of_one_name_get_folders_of_their_own(run):
    os.mkdir("a")
    first, second = picture("cat.png"), picture("a/cat.png", seed=1_000_001)
    assert run("segment", first, second, "--masks", 2, "--out", "o").exit_code == 0
    assert entries("o") == ["cat", "cat-2", *SHEETS]
    np.testing.assert_array_equal(
        xr.open_zarr("o/cat-2/dataset.zarr")["picture"], Image.open(second)
    )


def test_odd_pictures_get_labels_of_their_own_size(run):
    scene = Image.fromarray(scenes.scene(1_000_003).image)
    scene.resize((101, 67)).save("odd.png")
    scene.convert("L").save("grey.png")
    scene.convert("CMYK").save("cmyk.jpg")
    clear = scene.convert("RGBA")
    clear.putalpha(0)
    clear.save("clear.png")
    turned = scene.resize((96, 64))
    exif = turned.getexif()
    exif[0x0112] = 6  # to be turned by a quarter: what is stored wide is seen upright
    turned.save("turned.jpg", exif=exif)
    scene.resize((16, 300)).save("narrow.png")
    files = ["odd.png", "grey.png", "cmyk.jpg", "clear.png", "turned.jpg", "narrow.png"]
    assert run("segment", *files, "--masks", 2, "--out", "o").exit_code == 0
    assert labels("o/odd").shape == (67, 101)
    assert labels("o/turned").shape == (96, 64)
    assert labels("o/narrow").shape == (300, 16)
    for name in ("grey", "cmyk", "clear"):
        assert labels(f"o/{name}").shape == (128, 128)
    assert Image.open("o/odd/overlay.png").size == (101, 67)
    folders = [name for name in entries("o") if name not in SHEETS]
    seen = {name: xr.open_zarr(f"o/{name}/dataset.zarr")["picture"].values for name in folders}
    assert (seen["clear"] == 255).all(), "what is transparent shows white"
    assert (seen["grey"] == seen["grey"][..., :1]).all()
    upright = np.asarray(turned.rotate(-90, expand=True), float)
    assert np.abs(seen["turned"] - upright).mean() < 20, "but for what JPEG loses"


def test_one_mask_is_the_whole_picture(run):
    assert run("segment", picture(), "--masks", 1).exit_code == 0
    assert (labels("segments/cat") == 0).all()


def test_an_over_long_prompt_is_cut_with_a_word_of_warning(run):
    result = run("segment", "-p", "a red house and " * 20 + "a moon", "--masks", 2)
    assert result.exit_code == 0
    (warning,) = [line for line in result.stderr.splitlines() if "warning" in line]
    assert warning.startswith("warning: the prompt is longer")
    assert "moon" in warning
    assert not any(".py" in line for line in result.stderr.splitlines())


def test_markup_in_names_stays_text(run):
    name = picture("[b]<b>x<b>.png")
    result = run("segment", name, "--masks", 2, "--prompt", "<script>alert(1)</script> [red]")
    assert result.exit_code == 0
    assert "[b]<b>x<b>.png" in result.stderr
    assert "[red]" in result.stderr
    html = Path("segments/script-alert-1-script-red/index.html").read_text("utf-8")
    assert "&lt;script&gt;alert(1)" in html
    assert "<script>alert(1)" not in html


# What cannot be


def png_header(width, height):
    """A PNG that says how large it is and has no pixels."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.fixture
def bad(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    (tmp_path / "huge.png").write_bytes(png_header(20_000, 20_000))
    (tmp_path / "large.png").write_bytes(png_header(9_000, 9_000))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    whole = tmp_path / "cut.png"
    Image.fromarray(scenes.scene(3).image).save(whole)
    whole.write_bytes(whole.read_bytes()[:-2000])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.png", "no file 'missing.png'"),
        ("text.png", "not an image"),
        ("dot.png", "1 x 1 pixels"),
        ("huge.png", "too large"),
        ("large.png", "9000 x 9000"),
        ("empty.png", "not an image"),
        ("folder", "the folder 'folder' has no image"),
        ("cut.png", "cut.png"),
    ],
)
def test_a_bad_picture_is_refused_before_a_model_is_loaded(bad, refuse, name, message):
    before = entries(bad)
    result = refuse("segment", name, "--out", "o")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""
    assert entries(bad) == before


def test_all_bad_inputs_are_told_at_once(bad, refuse):
    result = refuse("segment", picture("good.png"), "missing.png", "dot.png", "--out", "o")
    assert result.exit_code == 1
    assert "missing.png" in result.stderr
    assert "dot.png" in result.stderr
    assert "good.png'" not in result.stderr
    assert "o" not in entries()


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--masks", 3),
        ("cat.png", "--masks", 0),
        ("cat.png", "--masks", "many"),
        ("cat.png", "--seed", -1),
        ("cat.png", "--dtype", "int8"),
        ("cat.png", "--nonsense"),
        ("cat.png", "--engine", "fast"),
        ("cat.png", "--balance", "all"),
        ("cat.png", "--steps", 0),
    ],
)
def test_wrong_usage(refuse, arguments):
    picture()
    assert refuse("segment", *arguments).exit_code == 2
    assert entries() == ["cat.png"]


def test_more_masks_than_locations(run):
    result = run("segment", picture(), "--masks", 257)
    assert result.exit_code == 1
    assert "masks=257 on 16 x 16" in result.stderr
    assert entries() == ["cat.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--model", "nonsense"), "no model 'nonsense'"),
        (("--model", "."), "no model_index.json"),
        (("--device", "nonsense"), "cannot run on device 'nonsense'"),
    ],
)
def test_no_such_model_or_device(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    result = call("segment", picture(), *options)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert entries() == ["cat.png"]


def test_an_existing_result_is_refused_or_replaced(run, monkeypatch):
    assert run("segment", picture(), "--masks", 2).exit_code == 0
    before = os.stat("segments/cat/labels.png").st_mtime_ns
    with monkeypatch.context() as patched:
        patched.setattr(ep, "segment", lambda *_, **__: pytest.fail("it was computed anew"))
        result = run("segment", "cat.png", "--masks", 3)
    assert result.exit_code == 1
    assert "--overwrite" in result.stderr
    assert os.stat("segments/cat/labels.png").st_mtime_ns == before
    assert run("segment", "cat.png", "--masks", 3, "--overwrite").exit_code == 0
    assert xr.open_zarr("segments/cat/dataset.zarr").sizes["mask"] == 3
    assert entries("segments") == ["cat"]


def test_a_place_that_cannot_be_written_to(refuse):
    result = refuse("segment", picture(), "--out", "cat.png/out")
    assert result.exit_code == 1
    assert "cannot write to 'cat.png/out'" in result.stderr
    assert entries() == ["cat.png"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("segment", "cat.png", "--out", "s3://bucket/out"),
        ("record", "-p", "a cow", "--sites", "mid_block", "--store", "s3://bucket/run.zarr"),
        ("evaluate", "--dataset", "scenes-parts", "--count", 2, "--out", "memory://out"),
        ("claims", "--out", "gs://bucket/claims"),
        ("claims", "--kept", "gs://bucket/claims"),
        ("train", "--minutes", 0.01, "--out", "s3://bucket/model"),
        ("segment", "s3://bucket/cat.png"),
    ],
)
def test_no_folder_is_made_of_an_address(run, arguments):
    picture()
    result = run(*arguments)
    assert result.exit_code == 1
    assert "this machine" in result.stderr
    assert entries() == ["cat.png"]


# What is stopped


def test_one_failure_among_several_inputs(run, monkeypatch):
    whole = ep.segment

    def fail_on_one(model, source, **options):
        if source.name == "b":
            raise InputError("no good")
        return whole(model, source, **options)

    monkeypatch.setattr(ep, "segment", fail_on_one)
    result = run("segment", *map(picture, ("a.png", "b.png", "c.png")), "--masks", 2, "--out", "o")
    assert result.exit_code == 1
    assert "error: b.png: no good" in result.stderr
    assert entries("o") == ["a", "c", *SHEETS]
    assert "o/a/index.html" in result.stdout


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt, 130, "interrupted"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
    ],
)
def test_nothing_half_written_is_left(run, monkeypatch, error, code, message):
    def stop(_):
        raise error

    monkeypatch.setattr("emerdiff_probe.views.page", stop)
    result = run("segment", picture(), "--masks", 2)
    assert result.exit_code == code
    assert message in result.stderr
    assert entries() == ["cat.png"]


# Training


def test_training_gets_what_was_asked_for(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        "emerdiff_probe.playground.train.train",
        lambda out, **options: asked.update(options, out=str(out)),
    )
    result = call(
        *("train", "--minutes", 3, "--out", "m", "--images", tmp_path, "--seed", 4),
        *("--device", "cpu", "--batch", 8, "--pictures", 500),
    )
    assert result.exit_code == 0
    assert asked.pop("images") == tmp_path
    assert asked == {
        "out": "m",
        "minutes": 3,
        "start": None,
        "seed": 4,
        "work": None,
        "processes": 2,
        "device": "cpu",
        "settings": TrainingSettings(batch=8, pictures=500),
    }


def test_an_interrupted_training_says_that_it_is_saved(monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt("the training is saved; the same command resumes it")

    monkeypatch.setattr("emerdiff_probe.playground.train.train", stop)
    result = call("train", "--out", "m")
    assert result.exit_code == 130
    assert "the training is saved" in result.stderr


def test_training_on_a_folder_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = call("train", "--out", "m", "--images", "nowhere")
    assert result.exit_code == 1
    assert "nowhere" in result.stderr
    assert entries() == []


# Evaluating


def test_evaluates_a_folder_and_says_what_it_left_out(run, tmp_path):
    root = tmp_path / "mine"
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    made = scenes.scene(1)
    for key in "ab":
        Image.fromarray(made.image).save(root / f"images/{key}.png")
    Image.fromarray(made.objects).save(root / "labels/a.png")
    rows = [f"{name},{number}" for number, name in enumerate(scenes.OBJECTS)]
    (root / "classes.csv").write_text("\n".join(["name,index", *rows]))
    command = ["evaluate", "--dataset", "folder", "--root", root, "--masks", 3]
    refused = run(*command)
    assert refused.exit_code == 1
    assert "1 pictures cannot be used: 'b': no labels" in refused.stderr
    done = run(*command, "--skip", "--protocol", "majority-class", "--protocol", "class-mean")
    assert done.exit_code == 0
    assert "left out 'b': no labels" in done.stderr
    assert "folder mine, 1 pictures, 3 masks" in done.stdout
    table = pd.read_csv(tmp_path / "evaluation/pictures.csv")
    assert table["method"].tolist()[:2] == ["EmerDiff", "nearest"]
    assert table["majority-class"].between(0.01, 1).all()
    assert "class-mean" in (tmp_path / "evaluation/summary.csv").read_text()
    (drawn,) = os.listdir("evaluation/drawings")
    assert drawn.startswith("a-")
    assert Image.open("evaluation/worst-and-best.png").height > 128
    over = run(*command, "--skip", "--protocol", "class-mean", "--out", "over")
    assert over.exit_code == 0
    assert entries("over/drawings") == [drawn]
    assert "worst-and-best.png" not in entries("over")


def test_evaluating_refuses_before_a_model_is_loaded(refuse):
    missing = refuse("evaluate", "--dataset", "ade20k")
    assert missing.exit_code == 1
    assert "give it with --root" in missing.stderr
    nothing = refuse("evaluate", "--dataset", "coco-stuff-27", "--root", "nowhere")
    assert "none of these folders exists" in nothing.stderr


# The command itself

_HELP = """
import runpy, sys
sys.argv = ["emerdiff-probe", "--help"]
try:
    runpy.run_module("emerdiff_probe", run_name="__main__", alter_sys=True)
except SystemExit as end:
    heavy = {"torch", "diffusers", "transformers", "sklearn", "xarray", "plotly"}
    print("loaded:", sorted(heavy & set(sys.modules)), "exit:", end.code)
"""


def test_help_of_the_module_is_light():
    done = subprocess.run(
        [sys.executable, "-c", _HELP], capture_output=True, text=True, timeout=120, check=True
    )
    assert "segment" in done.stdout
    assert "train" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded: [] exit: 0"


def test_version():
    assert call("--version").stdout.strip() == f"emerdiff-probe {ep.__version__}"


@pytest.mark.parametrize("command", ["segment", "train", "evaluate"])
def test_help_of_a_command_gives_examples(command):
    assert f"emerdiff-probe {command}" in call(command, "--help").stdout


def test_what_slurm_sends_ends_a_command_as_ctrl_c_does():
    tidied = []

    def command():
        with reported():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            finally:
                tidied.append(True)

    with pytest.raises(typer.Exit) as ended:
        command()
    assert (ended.value.exit_code, tidied) == (143, [True])
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_what_commands_a_terminal_is_spelt_out(tmp_path, capsys):
    with pytest.raises(typer.Exit), reported():
        raise InputError("'\x1b[2J\x07.png' \udc80 [b]caf\u00e9")
    assert capsys.readouterr().err == "error: '\\x1b[2J\\x07.png' \\udc80 [b]caf\u00e9\n"
