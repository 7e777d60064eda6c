"""The benchmark of recordings measures what it says."""

import pandas as pd
import pytest
import torch
from diffusers import UNet2DConditionModel

import emerdiff_probe as ep
from benchmarks import full_size, recording
from emerdiff_probe.errors import CaptureError
from tests.checkpoints import tiny_playground


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


def test_ways_keep_all_that_they_say(model):
    ways = recording.ways(model, 2)
    installed = {name: way for name, way in ways.items() if way is not None}
    timed = recording.race(installed, rounds=1)
    assert sorted(timed["way"]) == sorted(installed)
    kept = timed.set_index("way")["bytes"]
    step = model.sites(recording.EVERY)["bytes"].sum()
    assert kept[recording.BARE] == 0
    assert kept[recording.LISTED] == 2 * step
    assert 2 * step < kept[recording.MEMORY] < 2 * step + 2**21
    assert kept["hooks in a list, as float16, then torch.save"] == step
    # Metadata, latents and the picture come on top.
    assert step < kept[recording.ALL] < step + 2**21
    assert kept[recording.ALL] > kept["16 sites to Zarr"] > 0
    if recording.NNSIGHT in installed:
        assert kept[recording.NNSIGHT] == 2 * step
    assert not any(module._forward_hooks for module in model.unet.modules())


def test_a_way_that_keeps_nothing_is_no_way():
    with pytest.raises(CaptureError, match="'idle' kept nothing"):
        recording.race({recording.BARE: lambda _: 0, "idle": lambda _: 0}, rounds=1)


def test_ratios_are_to_the_bare_run_of_the_same_round():
    seconds = {recording.BARE: (1.0, 10.0, 2.0), "twice": (2.0, 30.0, 4.0)}
    timed = pd.DataFrame(
        {"round": number, "way": way, "seconds": each, "bytes": 2**20}
        for way, times in seconds.items()
        for number, each in enumerate(times)
    )
    ways = {recording.BARE: print, "twice": print, "other": None}
    rows = recording.table(timed, ways)
    assert rows.loc["twice"].tolist() == ["4.00", "2.00", "2.00 to 3.00", "1"]
    assert rows.loc["other", "seconds"] == "not installed"
    assert recording.chart(timed).data[0].x.tolist() == [1.0, 2.0]


def test_what_is_paid_once_is_told_from_what_a_step_costs():
    def timed(steps):
        return pd.DataFrame(
            {"round": number, "way": way, "seconds": steps * (1 + number) + more, "bytes": 1}
            for number in range(3)
            for way, more in ((recording.BARE, 0.0), ("kept", 0.5 + 0.25 * steps))
        )

    split = recording.costs(timed(2), timed(10), 2, 10)
    assert split.loc["kept"].tolist() == ["0.50", "250.0"]
    assert list(split.index) == ["kept"]


def test_memory_is_that_of_a_process_of_its_own(tiny_folder):
    ballast = torch.ones(2**28)  # 1 GiB here
    found = recording.peak(str(tiny_folder), "float32", 1)
    assert 2**27 < found < ballast.nbytes


def test_the_large_unet_is_as_large_as_the_published_one(monkeypatch):
    with torch.device("meta"):
        unet = UNet2DConditionModel(**full_size.UNET)
    assert sum(each.numel() for each in unet.parameters()) == 859_520_964
    # The same, narrow enough for a test.
    narrow = {"block_out_channels": (32, 32, 32, 32), "sample_size": 16}
    monkeypatch.setattr(full_size, "UNET", full_size.UNET | narrow)
    found = recording.full_size(torch.float32, steps=1)
    assert found["bytes"] > 5 * 16 * 16 * 32 * 2
    assert found["recorded"] > 0
    assert found["bare"] > 0
