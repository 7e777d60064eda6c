"""Random inputs at every door: an answer or a `ProbeError`, soon, and nothing else.

``make fuzz`` tries many more than the suite does.
"""

import io
import json
import os
import random
import resource
import signal
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import emerdiff_probe as ep
from emerdiff_probe.errors import ProbeError
from emerdiff_probe.evaluation.datasets import plain_folder
from emerdiff_probe.evaluation.journal import Journal
from emerdiff_probe.inputs import Photo, as_input
from emerdiff_probe.sites import Site
from emerdiff_probe.store import Streamed, info, sealing
from tests.fuzz.mutations import VALUES, changed, mutated
from tests.store.recordings import filled, small_plan

COUNT = int(os.environ.get("FUZZ_INPUTS", "30"))
SEED = int(os.environ.get("FUZZ_SEED", "0"))
SECONDS = 20
MEMORY = 4 * 2**30


@contextmanager
def soon():
    """An answer within some seconds and some memory more, or none."""

    def late(*_):
        pytest.fail(f"no answer in {SECONDS} seconds")

    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, limits[1]))
    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def tried(door, inputs):
    """See what comes out of a door for each input; returns how many were refused."""
    refused = 0
    for number, each in enumerate(inputs):
        try:
            with soon(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                door(each)
        except ProbeError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"input {number} of seed {SEED}: {each!r:.500}") from error
    return refused


@pytest.fixture
def chance():
    return random.Random(SEED)


@pytest.mark.parametrize("form", ["png", "jpeg", "gif", "webp", "tiff", "bmp"])
def test_image_files(tmp_path, chance, form):
    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, form)
    path = tmp_path / f"image.{form}"

    def door(content):
        path.write_bytes(content)
        Photo(path).rgb()

    assert tried(door, [buffer.getvalue()]) == 0
    assert tried(door, (mutated(buffer.getvalue(), chance) for _ in range(COUNT))) > 0


def test_metadata_of_stores(tmp_path, chance):
    """As one changes them who wants the store to be taken for whole."""
    path = filled(Streamed(tmp_path / "run.zarr", small_plan(2, 1))).path
    whole = json.loads((path / "zarr.json").read_text())

    def door(root):
        with suppress(AttributeError, KeyError, TypeError, UnicodeError):
            root["attributes"][sealing.WHOLE] = sealing._whole(root)
        (path / "zarr.json").write_text(json.dumps(root))
        info(path)
        for leaf in ep.open(path).leaves:
            if leaf["value"].nbytes < 2**24:
                leaf["value"].load()

    assert tried(door, [whole]) == 0
    assert tried(door, (changed(whole, chance) for _ in range(COUNT))) > 0


def test_files_of_stores(tmp_path, chance):
    path = filled(Streamed(tmp_path / "run.zarr", small_plan(2, 1))).path
    files = sorted(each for each in path.rglob("*") if each.is_file())

    def door(file):
        whole = file.read_bytes()
        file.write_bytes(mutated(whole, chance))
        try:
            info(path)
            ep.open(path).load()
        finally:
            file.write_bytes(whole)

    assert tried(door, (chance.choice(files) for _ in range(COUNT // 3))) > 0
    ep.open(path).load()


def test_packed_stores(tmp_path, chance):
    packed = ep.pack(
        filled(Streamed(tmp_path / "run.zarr", small_plan(2, 1))).path, tmp_path / "run.zip"
    )
    whole = packed.read_bytes()

    def door(content):
        packed.write_bytes(content)
        ep.open(packed).load()

    assert tried(door, [whole]) == 0
    assert tried(door, (mutated(whole, chance) for _ in range(COUNT // 3))) > 0


def test_journals(tmp_path, chance):
    whole = b'{"model": "a"}\n["a", [{"x": 1}]]\n["b", [{"x": 2}]]\n'
    path = tmp_path / "scores.jsonl"

    def door(content):
        path.write_bytes(content)
        Journal(path, {"model": "a"})

    assert tried(door, [whole]) == 0
    assert tried(door, (mutated(whole, chance) for _ in range(COUNT))) > 0


def test_folders_of_labels(tmp_path, chance):
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
        Image.new("L", (16, 16), 3).save(tmp_path / part / "a.png")
    whole = {
        name: (tmp_path / name).read_bytes() if name != "classes.csv" else b"name,index\nsky,3\n"
        for name in ("classes.csv", "images/a.png", "labels/a.png")
    }

    def door(damaged):
        for name, content in whole.items():
            broken = mutated(content, chance) if name == damaged else content
            (tmp_path / name).write_bytes(broken)
        dataset = plain_folder(tmp_path)
        if not dataset.problems():
            dataset.load("a")

    assert tried(door, [""]) == 0
    assert tried(door, (chance.choice(list(whole)) for _ in range(COUNT))) > 0


def test_settings(chance):
    names = ep.EmerDiffConfig.names()

    def door(setting):
        ep.EmerDiffConfig(**dict([setting]))

    assert tried(door, [("steps", 3)]) == 0
    settings = ((chance.choice(names), chance.choice(VALUES)) for _ in range(10 * COUNT))
    assert tried(door, settings) > 0


def test_inputs(tmp_path, monkeypatch, chance):
    monkeypatch.chdir(tmp_path)
    letters = ["a", "/", "..", "~", "\0", "\n", "\ud800", "é", "\x1b", ".png", "%", " " * 300]

    def door(given):
        found = as_input(given)
        if isinstance(found, Photo):
            found.rgb()

    texts = ("".join(chance.choices(letters, k=chance.randint(0, 9))) for _ in range(COUNT))
    tried(door, [*texts, *VALUES, *map(np.asarray, [1, [], [[1.0]]])])


def test_addresses(tmp_path, monkeypatch, chance):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("text")
    letters = ["a", "/", "..", "~", "\0", "\ud800", "pipe", "file", ".zip", "memory://", "é" * 200]
    texts = ["".join(chance.choices(letters, k=chance.randint(1, 4))) for _ in range(COUNT)]
    for look in (ep.open, info, ep.open_responses):
        assert tried(look, texts) == len(texts)


def test_names_of_sites(chance):
    letters = ["up_blocks", ".", "0", ":", "*", ",", "!", "query", "[", "\0", " ", "out"]
    texts = ("".join(chance.choices(letters, k=chance.randint(0, 6))) for _ in range(10 * COUNT))
    assert tried(Site.parse, texts) > 0
