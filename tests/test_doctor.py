"""What a model is said to be able to: against what recording does, and with models that cannot."""

import copy

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import emerdiff_probe as ep
from emerdiff_probe import doctor
from emerdiff_probe.cli import app
from emerdiff_probe.doctor import examine
from emerdiff_probe.errors import ModelError
from tests.checkpoints import stable_diffusion
from tests.families import FAMILIES


@pytest.fixture(scope="module")
def pipe():
    return stable_diffusion("v1")


@pytest.fixture
def model(pipe):
    """A model whose UNet may be spoilt."""
    other = copy.copy(pipe)
    other.unet = copy.deepcopy(pipe.unet)
    return ep.load(other)


def asked(monkeypatch, model, *options):
    monkeypatch.setattr(ep, "load", lambda *_, **__: model)
    result = CliRunner().invoke(app, ["doctor", "it", "--steps", "2", *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_a_sound_model_is_well_and_left_as_it_was(model, monkeypatch):
    scheduler = model.pipeline.scheduler
    found = examine(model, steps=2)
    assert found.well
    assert found.repeats
    assert found.unchanged == {"all": True, "blocks": True}
    assert found.sites.index.equals(model.sites().index)
    assert min(found.seconds.values()) > 0
    # What a recording of one guided step holds.
    recording = ep.record(
        model, "a red house", "mid_block, *attn2:key", steps=1, guidance=7.5, progress=False
    )
    for site in ("mid_block:out", "mid_block.attentions.0.transformer_blocks.0.attn2:key"):
        values = ep.site(recording, site)
        assert found.sites.loc[site, "recorded"] == values.size * 2
    assert found.method.config == ep.EmerDiffConfig.for_model(model)
    assert found.method.troubles == ()
    assert model.pipeline.scheduler is scheduler
    assert scheduler.num_inference_steps is None
    assert not any(each._forward_hooks for each in model.unet.modules())
    code, text = asked(monkeypatch, model)
    assert code == 0
    assert text.splitlines()[-1] == (
        "All is well: every site can be recorded, recording changes nothing, segmentation has "
        "settings to start from."
    )
    assert f"{len(found.sites)} of {len(found.sites)} can be recorded" in text
    assert "float32 on cpu" in text
    assert found.method.config.feature_site in text


def test_the_bundled_layout_is_examined_by_its_folder(tiny_folder):
    result = CliRunner().invoke(app, ["doctor", str(tiny_folder), "--steps", "2"])
    assert result.exit_code == 0, result.output
    assert "All is well" in result.output


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_transformers_are_examined_too(family, monkeypatch):
    transformer = ep.load(FAMILIES[family]())
    found = examine(transformer, steps=2)
    assert found.sites.index.equals(transformer.sites().index)
    assert found.harmless
    assert found.sites["why_not"].eq("").all(), found.sites["why_not"][lambda each: each != ""]
    assert found.method.config is not None


def test_a_site_that_fires_twice_or_overflows_is_named(model, monkeypatch):
    unet = model.unet
    latents = torch.zeros(1, 4, 16, 16)

    def again(*_):
        unet.conv_in(latents)

    unet.mid_block.register_forward_pre_hook(again)
    with torch.no_grad():
        unet.down_blocks[0].resnets[0].conv2.weight *= 1e7
    found = examine(model, steps=2)
    reasons = found.sites["why_not"]
    assert reasons["conv_in:out"] == "fires 4 times in 2 calls of the UNet"
    assert "record with dtype='float32'" in reasons["down_blocks.0.resnets.0:out"]
    assert reasons["conv_out:out"] == ""
    assert not found.well
    assert found.harmless
    code, text = asked(monkeypatch, model)
    assert code == 0
    failing = int((reasons != "").sum())
    assert text.splitlines()[-1].startswith(f"Well but for {failing} sites")
    assert "conv_in:out: fires 4 times" in text


def test_fused_projections_and_what_the_method_needs_of_them_are_named(model, monkeypatch):
    model.unet.fuse_qkv_projections()
    found = examine(model, steps=2)
    failing = found.sites[found.sites["why_not"] != ""]
    assert all(name.endswith((":query", ":key", ":value")) for name in failing.index)
    assert len(failing) == 3 * found.sites.index.str.endswith(":query").sum()
    assert "unfuse_qkv_projections" in found.method.troubles[0]
    code, text = asked(monkeypatch, model)
    assert code == 0
    assert "segmentation needs settings of your own" in text


def test_a_tap_that_changes_the_image_is_an_alarm(model, monkeypatch):
    edit = doctor._Watch.edit

    def spoilt(watch, site):
        see = edit(watch, site)

        def tap(tensor):
            see(tensor)
            return tensor + 1e-3 if str(site) == "conv_in:out" else None

        return tap

    monkeypatch.setattr(doctor._Watch, "edit", spoilt)
    found = examine(model, steps=2)
    assert found.unchanged == {"all": False, "blocks": True}
    code, text = asked(monkeypatch, model)
    assert code == 1
    assert "changed by recording all" in text
    assert "Recording changes the images" in text


def test_a_pipeline_that_repeats_nothing_is_not_compared(model, monkeypatch):
    drawn = doctor._drawn
    noise = np.random.default_rng(0)

    def other(*arguments):
        image, seconds = drawn(*arguments)
        return image + noise.random(image.shape), seconds

    monkeypatch.setattr(doctor, "_drawn", other)
    code, text = asked(monkeypatch, model)
    assert code == 0
    assert "nothing can be compared" in text
    assert "equal calls give unequal images" in text


def test_a_step_cache_leaves_nothing_to_record(model, monkeypatch):
    monkeypatch.setattr(type(model.unet), "is_cache_enabled", True, raising=False)
    found = examine(model, steps=2)
    assert found.sites["why_not"].str.contains("a step cache is on").all()
    code, text = asked(monkeypatch, model)
    assert code == 1
    assert "Nothing can be recorded" in text


def test_a_pipeline_that_cannot_draw_is_said(model, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no memory\nat all")

    scheduler = model.pipeline.scheduler
    monkeypatch.setattr(type(model.pipeline), "__call__", broken)
    with pytest.raises(ModelError, match=r"failed on .*RuntimeError: no memory; first"):
        examine(model)
    assert model.pipeline.scheduler is scheduler


def test_timesteps_off_the_grid_are_said(model, monkeypatch):
    config = ep.EmerDiffConfig.for_model(model, steps=7)
    monkeypatch.setattr(ep.EmerDiffConfig, "for_model", classmethod(lambda *_: config))
    (trouble,) = examine(model, steps=2).method.troubles
    nearest = min(model.schedule.timesteps(7), key=lambda each: abs(each - 281))
    assert f"give modulation_timestep={nearest}" in trouble
