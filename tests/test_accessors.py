"""``.ep`` gives what the functions give, and of another kind of dataset it says what would do."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from IPython.core.completer import IPCompleter, provisionalcompleter

import emerdiff_probe as ep
from emerdiff_probe.accessors import Accessor, Sites
from emerdiff_probe.errors import InputError, SiteError
from emerdiff_probe.schema import SWEEP
from tests.datasets import bands, recording, responses

ATTENTION = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"


def test_a_recording_gives_its_sites():
    run = recording()
    xr.testing.assert_identical(run.ep.site("mid_block"), ep.site(run, "mid_block"))
    assert set(run.ep.sites) == {"mid_block:out", f"{ATTENTION}:query", f"{ATTENTION}:key"}
    xr.testing.assert_identical(run.ep.sites["mid_block"], ep.site(run, "mid_block"))
    assert "mid_block" in run.ep.sites
    assert "up_blocks.9" not in run.ep.sites
    with pytest.raises(SiteError, match=r"closest: 'mid_block:out'"):
        run.ep.sites["mid_blok"]
    paid = run.ep.attention(ATTENTION, token=1)
    xr.testing.assert_identical(paid, ep.attention(run, ATTENTION, token=1))
    places = run.ep.gather(y=3, x=5)
    assert places.keys() == ep.gather(run, y=3, x=5).keys()
    xr.testing.assert_identical(run.ep.features("mid_block", 281), ep.layers.features(
        run, "mid_block", 281))  # fmt: skip


def test_sites_complete_by_tab():
    completer = IPCompleter(namespace={"sites": Sites(recording())}, use_jedi=False)
    with provisionalcompleter():
        found = {each.text for each in completer.completions('sites["up_bl', 12)}
    assert found == {f"{ATTENTION}:query", f"{ATTENTION}:key"}


def test_segmentations_and_responses_have_their_own(tmp_path):
    segments, moved = bands(), responses()
    assert segments.ep.plot() == ep.views.overview(segments)
    assert np.array_equal(segments.ep.overlay(), ep.views.overlay_image(segments))
    assert segments.ep.save(tmp_path / "masks.png").is_file()
    for answers in (moved, moved.ep.compress(bits=8)):
        xr.testing.assert_identical(answers.ep.movers(y=4, x=3), ep.responses.movers(answers, 4, 3))
        assert answers.ep.info()["kind"] == "responses"
    assert moved.ep.plot() == ep.views.correspondence(moved)


def test_what_is_there_is_told():
    about = recording().ep.info()
    assert about["kind"] == "a recording"
    assert (about["samples"], about["timesteps"], about["sites"]) == (2, 3, 3)
    assert bands(masks=4).ep.info()["masks"] == 4
    assert "site" in dir(recording().ep)
    assert "movers" not in dir(recording().ep)
    assert repr(bands().ep).startswith(".ep of a segmentation: ")


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (
            bands(),
            "site",
            r"site belongs to a recording, and this is a segmentation; ep\.record",
        ),
        (recording(), "movers", r"belongs to responses, and this is a recording; ep\.respond\(\)"),
        (
            responses(),
            "overlay",
            r"belongs to a segmentation, and this is responses; ep\.segment\(\)",
        ),
        (xr.Dataset({"a": 1}), "sites", r"belongs to a recording, and this is a Dataset of a"),
        (xr.DataTree(), "site", r"belongs to a recording, and this is a DataTree"),
    ],
)
def test_another_kind_says_which_it_is_and_what_would_do(data, name, message):
    assert not hasattr(data.ep, name)
    with pytest.raises(InputError, match=message):
        getattr(data.ep, name)


def test_a_name_that_no_kind_has_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"a segmentation has no \.ep\.plots; closest: 'plot'"):
        _ = bands().ep.plots
    assert type(xr.Dataset(attrs={"schema": SWEEP}).ep).__name__ == "SweepAccessor"
    assert type(xr.Dataset().ep) is Accessor


@pytest.mark.parametrize(
    "code",
    [
        "import emerdiff_probe, xarray",
        "import xarray, emerdiff_probe",
        "import emerdiff_probe.schema, xarray",
        "import emerdiff_probe, importlib.util as u; u.find_spec('xarray'); import xarray",
        "import emerdiff_probe as ep; ep.layers; import xarray",
    ],
)
def test_they_are_there_in_whatever_order_things_are_imported(code):
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{code}\nprint(xarray.DataTree().ep)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.startswith(".ep of a DataTree")


def test_nothing_heavy_is_imported_for_them():
    code = "import emerdiff_probe, sys; print({'xarray', 'pandas', 'torch'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"


def test_recorded_arrays_plot_themselves(monkeypatch):
    """With what the notebooks need installed xarray's own plots work, too."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    values = recording().ep.site("mid_block").isel(sample=0, timestep=0, channel=0)
    drawn = values.plot()
    np.testing.assert_array_equal(drawn.get_array().reshape(values.shape), values)
