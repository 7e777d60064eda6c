"""The package's face: light to import, and with all that the documentation calls."""

import subprocess
import sys

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
        "import emerdiff_probe as ep; ep.scenes.scene(0); ep.segments.cluster; ep.views.overview",
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
        assert name in dir(ep)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = ep.lode
