"""Recordings of schedulers that visit a timestep twice, or fractions of those of training."""

import numpy as np
import pytest
import torch
from diffusers import (
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)

import emerdiff_probe as ep
from emerdiff_probe import views
from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import atlas, effective_rank, features
from emerdiff_probe.segments import diffseg_recorded
from tests.checkpoints import tiny_playground
from tests.views.drawn import texts

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
SITES = ["mid_block:out", f"{ATTENTION}:query", f"{ATTENTION}:key"]
SCHEDULERS = [
    PNDMScheduler,
    EulerDiscreteScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
]


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_playground()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=SCHEDULERS, ids=lambda kind: kind.__name__)
def run(pipe, request):
    pndm = request.param is PNDMScheduler
    own = {"skip_prk_steps": True} if pndm else {"timestep_spacing": "linspace"}
    pipe.scheduler = request.param.from_config(pipe.scheduler.config, **own)
    with ep.probe(pipe, SITES) as recorder:
        pipe("a red house", num_inference_steps=5, generator=torch.manual_seed(0))
    recorded = recorder.tree["timestep"].values
    repeats = pndm or request.param is HeunDiscreteScheduler
    assert (len(set(recorded)) < len(recorded)) == repeats
    assert pndm or any(each % 1 for each in recorded)
    return recorder.tree


def repeated(run):
    """Positions of two calls at one timestep; without any, of one call twice."""
    recorded = run["timestep"].values.tolist()
    first = next((n for n, each in enumerate(recorded) if recorded.count(each) > 1), 1)
    return first, len(recorded) - 1 - recorded[::-1].index(recorded[first])


def test_every_call_has_its_map(run):
    recorded = run["timestep"].values
    values = ep.site(run, "mid_block").sel(guidance="cond")[0].astype(np.float32)
    shown = views.layers(run, "mid_block", recorded.astype(np.float32), show="magnitude")
    maps = [np.asarray(trace.z) for trace in shown.data if trace.type == "heatmap"]
    expected = ((values**2).mean("channel") ** 0.5).transpose("timestep", "y", "x").values
    np.testing.assert_allclose(maps, expected, rtol=1e-3)
    names = [each for each in texts(shown) if each.startswith("t = ")]
    assert len(set(names)) == len(recorded)
    first, second = repeated(run)
    assert (first == second) == np.allclose(expected[first], expected[second], rtol=1e-3)
    few = views.layers(run, "mid_block", show="magnitude")
    assert sum(trace.type == "heatmap" for trace in few.data) == min(len(recorded), 5)


def test_trajectories_and_likeness_are_drawn(run):
    recorded = run["timestep"].values
    drawn = views.trajectory(run, recorded)
    assert sum(trace.type == "image" for trace in drawn.data) == len(recorded) + 1
    first, second = repeated(run)
    t = round(float(recorded[first]), 2)
    likeness = [
        views.similarity(run, "mid_block", t, step=int(run["step"][at]), y=5, x=5)
        for at in (first, second)
    ]
    maps = [next(np.asarray(each.z) for each in one.data if each.type == "heatmap")
            for one in likeness]  # fmt: skip
    assert np.array_equal(*maps) == (first == second)
    if first != second:
        with pytest.raises(InputError, match="choose one, as in step="):
            views.similarity(run, "mid_block", t, y=5, x=5)
        with pytest.raises(InputError, match="choose one, as in step="):
            features(run, "mid_block", t)


def test_an_atlas_has_a_column_for_each_call(run):
    measures = ("effective_rank", "cka")
    found = atlas(run, measures, sites="mid_block, *:query", progress=False)
    assert np.array_equal(found["timestep"], run["timestep"])
    assert np.array_equal(found["step"], run["step"])
    for at, step in enumerate(run["step"].values):
        layer = features(run, "mid_block", step=step).astype(np.float32)
        assert found["effective_rank"].sel(site="mid_block:out")[at] == pytest.approx(
            effective_rank(layer), rel=1e-5
        )
    columns = views.atlas(found["effective_rank"]).data[0].x
    assert len(set(columns)) == run.sizes["timestep"]
    one = atlas(run, measures, timesteps=run["timestep"].values[:1], progress=False)
    assert one.sizes["timestep"] == 1
    assert views.atlas(found["cka"].isel(timestep=1)).data[0].z.shape == (2, 2)


def test_attention_of_a_call_is_chosen_by_its_step(run):
    _, second = repeated(run)
    t, step = float(run["timestep"][second]), int(run["step"][second])
    labels = diffseg_recorded(run, t, step=step)
    expected = diffseg_recorded(run.isel(timestep=[second]), t)
    assert labels.identical(expected)
    paid = ep.attention(run, ATTENTION, location=(5, 5)).rename(key_y="a", key_x="b")
    one = paid.isel(a=0, b=0, drop=True) if "y" in paid.dims else paid
    assert one.sizes["timestep"] == run.sizes["timestep"]
