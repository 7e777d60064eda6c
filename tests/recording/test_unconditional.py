"""Probes of UNets that read no text: the same sites, and none of a text."""

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import emerdiff_probe as ep


@pytest.fixture
def pipe():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=16,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        )
    pipeline = DDPMPipeline(unet.eval(), DDPMScheduler())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(pipeline):
    generator = torch.Generator().manual_seed(0)
    named = {"num_inference_steps": 2, "generator": generator, "output_type": "np"}
    return pipeline(**named).images


def test_it_records_what_plain_hooks_see_and_changes_nothing(pipe):
    picture, seen = draw(pipe), []
    handle = pipe.unet.up_blocks[0].register_forward_hook(lambda _m, _i, out: seen.append(out))
    with ep.probe(pipe, "*", dtype="float32") as recorder:
        assert np.array_equal(draw(pipe), picture)
    handle.remove()
    found = ep.site(recorder.tree, "up_blocks.0")
    assert found.dims == ("sample", "timestep", "y", "x", "channel")
    for step, output in enumerate(seen):
        own = output.permute(0, 2, 3, 1).numpy()
        assert np.array_equal(found.isel(timestep=step).values, own)


def test_an_intervention_edits_it(pipe):
    picture = draw(pipe)
    with ep.intervene(pipe, ep.Scale("mid_block", 1.0)):
        assert np.array_equal(draw(pipe), picture)
    for site in ("mid_block", "up_blocks.1.resnets.0:skip"):
        with ep.intervene(pipe, ep.Ablate(site)):
            assert not np.array_equal(draw(pipe), picture)
