"""Labelled arrays in interventions: recorded values go back as and where they came from."""

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import EulerDiscreteScheduler, HeunDiscreteScheduler, PNDMScheduler

import emerdiff_probe as ep
from emerdiff_probe.errors import CaptureError, SiteError
from emerdiff_probe.interventions import InjectAttention, attention_kept
from tests.checkpoints import tiny_playground

LAYER = "up_blocks.1.attentions.2.transformer_blocks.0"
QUERY, KEY, OUT = f"{LAYER}.attn1:query", f"{LAYER}.attn2:key", f"{LAYER}.attn2:out"
SITES = [QUERY, KEY, OUT, "mid_block:out"]
PROMPTS = ["a red house", "a blue car"]


@pytest.fixture(scope="module")
def pipe():
    """PNDM, which visits a timestep twice."""
    pipe = tiny_playground()
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    return pipe


def draw(pipe, prompts=PROMPTS, seed=0, **options):
    generators = [torch.manual_seed(seed + number) for number in range(len(prompts))]
    options = {"num_inference_steps": 3, "guidance_scale": 3.0, "output_type": "np"} | options
    return pipe(prompts, generator=generators, **options).images


def recorded(pipe, dtype="float32", **options):
    with ep.probe(pipe, SITES, dtype=dtype) as recorder:
        picture = draw(pipe, **options)
    return recorder.tree, picture


@pytest.fixture(scope="module")
def own(pipe):
    return recorded(pipe)


@pytest.fixture(scope="module")
def other(pipe):
    return recorded(pipe, prompts=["a tree", "a dog"], seed=7)


def redrawn(pipe, *interventions, **options):
    with ep.intervene(pipe, interventions):
        return draw(pipe, **options)


def test_a_runs_own_values_change_nothing_and_anothers_do(pipe, own, other):
    run, picture = own
    recorded = run["timestep"].values.tolist()
    assert len(set(recorded)) < len(recorded), "a timestep twice"
    every = [ep.Replace(site, ep.site(run, site)) for site in SITES]
    assert np.array_equal(redrawn(pipe, *every), picture)
    for site in SITES:
        foreign = redrawn(pipe, ep.Replace(site, ep.site(other[0], site)))
        assert abs(foreign - picture).max() > 1e-5, site
    # Each of these swaps what belongs to one call, half or sample for another's: all is told apart.
    values = ep.site(run, OUT)
    for dim in ("timestep", "guidance", "sample"):
        swapped = values.copy(data=values.isel({dim: slice(None, None, -1)}).values)
        assert abs(redrawn(pipe, ep.Replace(OUT, swapped)) - picture).max() > 1e-5, dim
    order = list(range(len(recorded)))
    first, second = (n for n, each in enumerate(recorded) if recorded.count(each) == 2)
    order[first], order[second] = second, first
    swapped = values.copy(data=values.isel(timestep=order).values)
    assert not np.array_equal(redrawn(pipe, ep.Replace(OUT, swapped)), picture), "visits"


def test_dims_may_come_in_any_order_with_heads_split_or_not(pipe, own):
    run, picture = own
    values = ep.site(run, QUERY)
    assert "head" in values.dims
    joined = values.stack(both=("head", "channel"), create_index=False)
    for same in (
        values.transpose("channel", "x", ..., "sample"),
        joined.rename(both="channel"),
        values.rename(y="source_y", x="source_x").isel(guidance=[1, 0]),
    ):
        assert np.array_equal(redrawn(pipe, ep.Replace(QUERY, same)), picture)


def test_what_was_chosen_from_it_is_where_it_goes(pipe, own, other):
    run, _ = other
    t = run["timestep"].values[-1]
    values = ep.site(run, OUT)
    last = redrawn(pipe, ep.Replace(OUT, values.sel(timestep=t)))
    assert np.array_equal(last, redrawn(pipe, ep.Replace(OUT, values, timesteps=[t])))
    assert not np.array_equal(last, redrawn(pipe, ep.Replace(OUT, values)))
    half = redrawn(pipe, ep.Replace(OUT, values.sel(guidance="cond")))
    assert np.array_equal(half, redrawn(pipe, ep.Replace(OUT, values, guidance="cond")))
    assert not np.array_equal(half, redrawn(pipe, ep.Replace(OUT, values)))
    first = redrawn(pipe, ep.Replace(OUT, values.isel(sample=0), samples=[1]))
    assert np.array_equal(first[0], own[1][0])
    assert not np.array_equal(first[1], own[1][1])
    # A half goes where there are no halves, too.
    plain = redrawn(pipe, ep.Replace(OUT, values.sel(guidance="cond")), guidance_scale=1.0)
    assert not np.array_equal(plain, draw(pipe, guidance_scale=1.0))


def test_values_from_a_store_go_back_up_to_their_rounding(tmp_path):
    model = ep.load(tiny_playground())
    house, car = ep.Prompt("a red house", 1), ep.Prompt("a blue car", 2)
    options = {"steps": 4, "guidance": 3, "progress": False}
    stored = ep.record(model, [house, car], SITES, store=tmp_path / "run.zarr", **options)
    every = [ep.Replace(site, ep.site(stored, site)) for site in SITES]
    with ep.intervene(model, every):
        again = ep.record(model, [house, car], SITES, batch=2, **options)
    for leaf in ("latents", "mid_block:out"):
        one, two = (ep.site(run, leaf).values.astype(np.float32) for run in (stored, again))
        np.testing.assert_allclose(one, two, atol=2e-2)
    with ep.intervene(model, ep.Replace(OUT, ep.site(stored, OUT).isel(sample=[1, 0]))):
        changed = ep.record(model, [house, car], "mid_block", batch=2, **options)
    assert abs(ep.site(changed, "latents") - ep.site(stored, "latents")).max() > 1e-4


def test_arrays_of_another_form_are_refused_by_name(pipe, own):
    values = ep.site(own[0], OUT)
    with pytest.raises(SiteError, match=r"2 of dim sample, and this call has 1"):
        redrawn(pipe, ep.Replace(OUT, values), prompts=PROMPTS[:1])
    with pytest.raises(SiteError, match=r"both guidance halves.*guidance='cond'"):
        redrawn(pipe, ep.Replace(OUT, values), guidance_scale=1.0)
    with pytest.raises(SiteError, match="and the replacement"):
        redrawn(pipe, ep.Replace(OUT, values.isel(y=slice(8))))
    with pytest.raises(SiteError, match=r"dims \('sample'"):
        redrawn(pipe, ep.Replace(OUT, values.mean("channel")))
    with pytest.raises(CaptureError, match="never took effect"):
        redrawn(pipe, ep.Replace(OUT, values.assign_coords(timestep=[3, 5, 7, 9])))


def test_rows_of_a_loop_of_ones_own_go_back_to_their_rows(pipe):
    latents = torch.randn(3, 4, 32, 32, generator=torch.manual_seed(0))
    text = torch.randn(3, 32, pipe.unet.config.cross_attention_dim)
    with ep.probe(pipe.unet, OUT, dtype="float32") as recorder:
        plain = pipe.unet(latents, 281, text).sample
    values = ep.site(recorder.tree, OUT)
    assert values.dims[0] == "batch"
    with ep.intervene(pipe.unet, ep.Replace(OUT, values)):
        assert torch.equal(pipe.unet(latents, 281, text).sample, plain)
    with ep.intervene(pipe.unet, ep.Replace(OUT, values.isel(batch=[1, 0, 2]))):
        changed = pipe.unet(latents, 281, text).sample
    assert [bool((row != 0).any()) for row in changed - plain] == [True, True, False]


@pytest.mark.parametrize("stored", [False, True])
def test_masks_and_directions_may_be_labelled(tmp_path, stored):
    model = ep.load(tiny_playground())
    prompt = ep.Prompt("a red house", 1)
    options = {"steps": 2, "guidance": 1, "progress": False}
    kept = {"store": tmp_path / "run.zarr"} if stored else {}
    run = ep.record(model, prompt, OUT, **options, **kept)
    values = ep.site(run, OUT)

    def change(intervention):
        with ep.intervene(model, intervention):
            found = ep.record(model, prompt, OUT, dtype="float32", **options)
        before = ep.record(model, prompt, OUT, dtype="float32", **options)
        return (ep.site(found, OUT) - ep.site(before, OUT)).isel(sample=0, timestep=0)

    mask = xr.zeros_like(values.isel(sample=0, timestep=0, channel=0), dtype=np.float16)
    mask = mask.where(mask["y"] + 2 * mask["x"] > 200, 1).transpose("x", "y")
    moved = change(ep.Shift(OUT, np.float32(3), mask=mask))
    np.testing.assert_allclose(moved, 3 * mask.transpose("y", "x").values[..., None] + 0 * moved,
                               atol=1e-3)  # fmt: skip
    direction = values.astype(np.float32).mean(("sample", "timestep", "y", "x"))
    moved = change(ep.Steer(OUT, direction, 2.0))
    unit = direction / float((direction**2).mean() ** 0.5)
    np.testing.assert_allclose(moved.mean(("y", "x")), 2 * unit, atol=1e-3)
    by_timestep = values.astype(np.float32).mean(("y", "x"))
    moved = change(ep.Steer(OUT, by_timestep.isel(timestep=[0]), 2.0))
    first = by_timestep[0, 0] / float((by_timestep[0, 0] ** 2).mean() ** 0.5)
    np.testing.assert_allclose(moved.mean(("y", "x")), 2 * first, atol=1e-3)


@pytest.mark.parametrize("of_pipeline", [True, False])
def test_samples_are_pictures_whose_halves_both_belong_to_them(pipe, of_pipeline):
    model = pipe if of_pipeline else ep.load(tiny_playground())

    def run(*interventions):
        with ep.intervene(model, interventions), ep.probe(model, OUT, dtype="float32") as recorder:
            if of_pipeline:
                draw(pipe)
            else:
                noise = torch.randn(2, 4, 32, 32, generator=torch.manual_seed(0))
                model.predict(noise, 281, model.condition("a tree", 3.0))
        return ep.site(recorder.tree, OUT).isel(timestep=0)

    plain = run()
    ablated = run(ep.Ablate(OUT, samples=np.array([0])))
    assert not ablated.isel(sample=0).values.any(), "both halves"
    assert np.array_equal(ablated.isel(sample=1), plain.isel(sample=1))
    half = run(ep.Ablate(OUT, samples=[1], guidance="uncond"))
    assert not half.sel(sample=1, guidance="uncond").values.any()
    assert np.array_equal(half.sel(guidance="cond"), plain.sel(guidance="cond"))
    assert np.array_equal(half.isel(sample=0), plain.isel(sample=0))


def test_fractions_are_timesteps_of_interventions(pipe):
    euler = tiny_playground()
    euler.set_progress_bar_config(disable=True)
    euler.scheduler = EulerDiscreteScheduler.from_config(
        euler.scheduler.config, timestep_spacing="linspace"
    )
    plain, before = recorded(euler, num_inference_steps=5)
    t = plain["timestep"].values[1]
    assert t % 1
    written = round(float(t), 2)
    with ep.intervene(euler, ep.Ablate(OUT, timesteps=[written])):
        run, picture = recorded(euler, num_inference_steps=5)
    assert abs(picture - before).max() > 0
    zeros = [not ep.site(run, OUT)[:, :, number].values.any() for number in range(5)]
    assert zeros == [False, True, False, False, False]
    with pytest.raises(CaptureError, match=rf"never took effect.*999, {written}"):
        redrawn(euler, ep.Ablate(OUT, timesteps=[int(t)]), num_inference_steps=5)


@pytest.mark.parametrize("kind", [PNDMScheduler, HeunDiscreteScheduler])
def test_attention_of_repeated_timesteps_is_kept_call_by_call(kind):
    pipe = tiny_playground()
    pipe.set_progress_bar_config(disable=True)
    options = {"skip_prk_steps": True} if kind is PNDMScheduler else {}
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
    with attention_kept(pipe) as kept:
        before = draw(pipe)
    assert sorted({len(calls) for calls in kept.values()}) == [1, 2]
    assert np.array_equal(redrawn(pipe, InjectAttention(kept)), before)
    last = {t: calls[-1:] for t, calls in kept.items()}
    assert not np.array_equal(redrawn(pipe, InjectAttention(last)), before)
    with attention_kept(pipe) as again:
        draw(pipe, seed=5)
        draw(pipe)
    assert {t: len(calls) for t, calls in again.items()} == {t: len(c) for t, c in kept.items()}
    assert np.array_equal(redrawn(pipe, InjectAttention(again)), before), "the last run's"


def test_places_go_back_in_the_order_of_their_coordinates(pipe, own, other):
    value = ep.site(other[0], QUERY)
    turned = value.isel(y=slice(None, None, -1))
    expected = redrawn(pipe, ep.Replace(QUERY, value))
    np.testing.assert_array_equal(redrawn(pipe, ep.Replace(QUERY, turned)), expected)
    bare = redrawn(pipe, ep.Replace(QUERY, turned.drop_vars("y")))
    assert not np.array_equal(bare, expected)
