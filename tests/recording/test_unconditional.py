"""Probes of UNets that read no text: the same sites, and none of a text."""

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from tests.families import unconditional


@pytest.fixture
def pipe():
    return unconditional()


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
