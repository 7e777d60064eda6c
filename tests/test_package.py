"""The package's face: light to import, and with all that the documentation calls."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

import emerdiff_probe as ep

HEAVY = {"torch", "diffusers", "transformers"}


def loaded_by(code):
    """The heavy modules that a fresh interpreter holds after running some code."""
    report = (
        f"{code}\nimport sys\nprint(*[name for name in {sorted(HEAVY)} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.parametrize(
    "code",
    [
        "import emerdiff_probe as ep; ep.Prompt('a house'); ep.Photo('cat.jpg'); dir(ep)",
        "import emerdiff_probe as ep; ep.scenes.scene(0); ep.layers.cluster; ep.views.overview",
        "import emerdiff_probe as ep; ep.widgets.Inspector",
        "import emerdiff_probe.cli, emerdiff_probe.exports, emerdiff_probe.schema",
    ],
)
def test_looking_at_saved_results_needs_no_torch(code):
    assert loaded_by(code) == set()


def test_torch_comes_when_a_model_is_asked_for():
    assert "torch" in loaded_by("import emerdiff_probe as ep; ep.load")


def test_every_promised_name_is_there():
    for name in ep.__all__:
        assert getattr(ep, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = ep.lode


def test_only_public_names_are_shown():
    assert dir(ep) == sorted(ep.__all__)
    assert len(set(ep.__all__)) == len(ep.__all__)


def test_rooms_that_are_not_shown_are_there_when_asked_for():
    """A fresh interpreter has imported none of them yet."""
    loaded_by("import emerdiff_probe as ep; ep.evaluation.evaluate, ep.emerdiff.ENGINES, ep.taps")
    assert not {"evaluation", "emerdiff", "taps"} & set(dir(ep))


def test_every_room_is_in_the_table():
    table = (Path(__file__).parent.parent / "ARCHITECTURE.md").read_text()
    rooms = {room.name for room in iter_modules(ep.__path__)} - {"__main__"}
    assert {room for room in rooms if f"\n| `{room}` | " not in table} == set()


@pytest.mark.parametrize("room", [room.name for room in iter_modules(ep.__path__) if room.ispkg])
def test_every_room_says_what_it_gives(room):
    module = import_module(f"emerdiff_probe.{room}")
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)


def test_the_public_names_are_those_on_the_list():
    """Whoever adds or drops a name edits the list, and so decides that it is public."""
    rooms = [room.name for room in iter_modules(ep.__path__) if room.ispkg]
    found = {f"emerdiff_probe.{name}" for name in ep.__all__}
    for room in rooms:
        module = f"emerdiff_probe.{room}"
        found |= {f"{module}.{name}" for name in import_module(module).__all__}
    lines = (Path(__file__).parent.parent / "docs/public-names.txt").read_text().splitlines()
    assert lines == sorted(lines)
    assert (sorted(found - set(lines)), sorted(set(lines) - found)) == ([], [])
