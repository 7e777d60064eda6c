"""A probe sees what plain hooks see of any calls, labels only what it is told, and is gone."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import accelerate
import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPanoramaPipeline,
)
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

import emerdiff_probe as ep
from emerdiff_probe.errors import CaptureError, ConfigError, ModelError, SiteError
from emerdiff_probe.interventions import InjectAttention, attention_kept
from emerdiff_probe.sites import Site
from emerdiff_probe.taps import hooked
from tests.checkpoints import stable_diffusion, stable_diffusion_xl, tiny_playground

HOUSE, CAR = "a red house", "a blue car"
LAYER = "up_blocks.1.attentions.0.transformer_blocks.0"
QUERY, MID = f"{LAYER}.attn2:query", "mid_block"


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe():
    return quiet(tiny_playground())


@pytest.fixture(scope="module")
def shared():
    """For tests that leave the pipeline as it is."""
    return quiet(tiny_playground())


def draw(pipe, prompt=HOUSE, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    defaults = {"num_inference_steps": 3, "output_type": "np", "height": 64, "width": 64}
    options = defaults | options
    return pipe(prompt, generator=generator, **options).images


@contextlib.contextmanager
def plain(unet, site):
    """What a plain hook sees at a site in every call."""
    seen = []
    module = unet.get_submodule(Site.parse(site).module)
    handle = module.register_forward_hook(
        lambda _m, _i, out: seen.append(out if isinstance(out, torch.Tensor) else out[0])
    )
    yield seen
    handle.remove()


def same(values, tensor):
    """Whether recorded values, a row first, are those of a tensor."""
    tensor = tensor.movedim(1, -1) if tensor.ndim == 4 else tensor
    return np.array_equal(values.values.reshape(len(tensor), -1), tensor.flatten(1))


def as_found(unet):
    return not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


def test_a_pipelines_own_call_is_recorded_as_plain_hooks_see_it(shared):
    before = draw(shared, [HOUSE, CAR])
    call = type(shared).__call__
    with (
        plain(shared.unet, QUERY) as queries,
        plain(shared.unet, MID) as mids,
        ep.probe(shared, [QUERY, MID], dtype="float32") as recorder,
    ):
        during = draw(shared, [HOUSE, CAR])
    assert np.array_equal(before, during)
    assert as_found(shared.unet)
    assert type(shared).__call__ is call
    run = recorder.tree
    assert np.array_equal(run["timestep"], shared.scheduler.timesteps)
    assert run["step"].values.tolist() == [0, 1, 2]
    for name, seen in ((QUERY, queries), (MID, mids)):
        values = ep.site(run, name)
        assert values.dims[:3] == ("sample", "guidance", "timestep")
        for step in range(3):
            uncond, cond = seen[step].chunk(2)
            now = values.isel(timestep=step)
            assert same(now.sel(guidance="uncond"), uncond)
            assert same(now.sel(guidance="cond"), cond)
            assert not same(now.sel(guidance="cond"), uncond)
    values = ep.site(run, QUERY)
    assert values["prompt"].values.tolist() == [HOUSE, CAR]
    assert values["y"].values[:2].tolist() == [4, 12]
    assert np.array_equal(ep.site(run, "image"), np.rint(before * 255))


def test_tokens_are_those_of_both_prompts(shared):
    with ep.probe(shared, f"{LAYER}.attn2:key") as recorder:
        draw(shared, [HOUSE, CAR], negative_prompt=["a tree"] * 2, num_images_per_prompt=2)
    texts = ep.site(recorder.tree, f"{LAYER}.attn2:key")["token_text"]
    assert texts.dims == ("sample", "guidance", "token")
    assert texts.sel(guidance="cond").values[1:3, 1:4].tolist() == [HOUSE.split(), CAR.split()]
    assert texts.sel(guidance="uncond").values[3, 1:3].tolist() == ["a", "tree"]
    with ep.probe(shared, MID) as recorder:
        embeddings = shared.encode_prompt(HOUSE, "cpu", 1, False)[0]
        draw(shared, None, prompt_embeds=embeddings, guidance_scale=1)
    assert "token_text" not in recorder.tree.coords
    assert recorder.tree["prompt"].values.tolist() == [""]


def test_without_guidance_there_are_samples_alone(shared):
    with ep.probe(shared, MID) as recorder:
        draw(shared, [HOUSE, CAR], guidance_scale=1)
    values = ep.site(recorder.tree, MID)
    assert values.dims == ("sample", "timestep", "y", "x", "channel")
    assert values["prompt"].values.tolist() == [HOUSE, CAR]


def test_what_record_records_a_probe_of_the_model_sees_too(shared):
    model = ep.load(shared)
    prompt = ep.Prompt(HOUSE, seed=1)
    with ep.probe(model, "blocks") as recorder:
        recorded = ep.record(model, prompt, "blocks", guidance=3, steps=3, progress=False)
    assert "predict" not in vars(model)
    for name in ("mid_block", "up_blocks.0", "latents"):
        ours, theirs = ep.site(recorder.tree, name), ep.site(recorded, name)
        assert ours.dims == theirs.dims
        assert np.array_equal(ours, theirs)
        assert ours["prompt"].values.tolist() == [HOUSE]
        xr.testing.assert_equal(ours["y"], theirs["y"])
    assert np.array_equal(recorder.tree["token_text"], recorded["token_text"])


def test_rows_of_a_bare_unet_are_a_batch(shared):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 4, 32, 32, generator=generator)
    text = torch.randn(3, 7, 24, generator=generator)
    for target in (shared.unet, shared):
        with (
            plain(shared.unet, MID) as seen,
            ep.probe(target, MID, dtype="float32") as recorder,
            torch.enable_grad(),
        ):
            # Guidance by two calls at each timestep; the pipeline is not what calls.
            for timestep in (801, 801, 401, 401):
                shared.unet(x, torch.tensor(timestep), text)
        values = ep.site(recorder.tree, MID)
        assert values.dims == ("batch", "timestep", "y", "x", "channel")
        assert values["timestep"].values.tolist() == [801, 801, 401, 401]
        assert all(same(values.isel(timestep=step), seen[step].detach()) for step in range(4))
        assert not same(values.isel(timestep=0), seen[2].detach())
        assert "prompt" not in recorder.tree.coords
        assert np.array_equal(ep.site(recorder.tree, "latents").isel(timestep=0), x.movedim(1, -1))
    assert ep.site(recorder.tree, MID)["y"].values[0] == 8
    with ep.probe(shared.unet, MID) as recorder:
        shared.unet(sample=x, timestep=1.5, encoder_hidden_states=text)
    assert recorder.tree["timestep"].values.tolist() == [1.5]
    assert ep.site(recorder.tree, MID)["y"].values[0] == 2
    with (
        ep.probe(shared.unet, MID),
        pytest.raises(CaptureError, match=r"several timesteps \[1, 2\]"),
    ):
        shared.unet(x[:2], torch.tensor([1, 2]), text[:2])


def test_halves_are_not_guessed(shared):
    """Perturbed attention calls the UNet with three parts, or with two that are both with text."""
    pag = quiet(StableDiffusionPAGPipeline(**shared.components, pag_applied_layers=["mid"]))
    for guidance in (1, 5):
        with ep.probe(pag, "conv_in") as recorder:
            draw(pag, pag_scale=3.0, guidance_scale=guidance)
        assert ep.site(recorder.tree, "conv_in").dims[0] == "batch"
    # One that says that there is guidance, and gives other latents to one half.
    shared._guidance_scale = 5
    x = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))

    class Odd(type(shared)):
        def __call__(self, latents):
            self._guidance_scale = 5
            self.unet(latents, 1, torch.zeros(2, 7, 24))

    odd = Odd(**shared.components, requires_safety_checker=False)
    for latents, first in ((x, "batch"), (x[:1].repeat(2, 1, 1, 1), "sample")):
        with ep.probe(odd, MID) as recorder, torch.no_grad():
            odd(latents)
        assert ep.site(recorder.tree, MID).dims[0] == first


def test_a_timestep_that_is_visited_twice_is_there_twice(pipe):
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config, skip_prk_steps=True)
    with plain(pipe.unet, MID) as seen, ep.probe(pipe, MID, dtype="float32") as recorder:
        draw(pipe, num_inference_steps=4, guidance_scale=1)
    timesteps = recorder.tree["timestep"].values
    assert np.array_equal(timesteps, pipe.scheduler.timesteps)
    assert len(set(timesteps)) == len(timesteps) - 1 == 4
    values = ep.site(recorder.tree, MID)
    assert all(same(values.isel(timestep=step), seen[step]) for step in range(5))


def test_timesteps_between_those_of_training_are_kept(pipe):
    pipe.scheduler = EulerDiscreteScheduler.from_config(
        pipe.scheduler.config, use_karras_sigmas=True
    )
    with ep.probe(pipe, MID) as recorder:
        draw(pipe)
    timesteps = recorder.tree["timestep"].values
    assert np.allclose(timesteps, pipe.scheduler.timesteps)
    assert not np.array_equal(timesteps, timesteps.round())


def test_image_to_image_is_recorded_too(shared):
    picture = np.random.default_rng(0).random((64, 64, 3), np.float32)
    i2i = quiet(StableDiffusionImg2ImgPipeline(**shared.components, requires_safety_checker=False))
    with ep.probe(i2i, MID) as recorder:
        options = {"height": None, "width": None, "num_inference_steps": 4}
        draw(i2i, image=picture[None], strength=0.5, **options)
    assert recorder.tree.sizes["timestep"] == 2


def test_control_is_recorded_too():
    whole = stable_diffusion("v1")
    control = ControlNetModel.from_unet(whole.unet, conditioning_embedding_out_channels=(8,) * 4)
    for parameter in control.controlnet_mid_block.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    controlled = quiet(
        StableDiffusionControlNetPipeline(
            **whole.components, controlnet=control, requires_safety_checker=False
        )
    )
    runs = []
    for strength in (0.0, 1.0):
        with ep.probe(controlled, "mid_block, up_blocks.0", dtype="float32") as recorder:
            draw(
                controlled,
                image=torch.ones(1, 3, 64, 64),
                controlnet_conditioning_scale=strength,
            )
        runs.append(ep.site(recorder.tree, "up_blocks.0"))
    assert runs[0].dims[:2] == ("sample", "guidance")
    assert not np.allclose(runs[0], runs[1])


class Lora(torch.nn.Module):
    """A low-rank addition in place of a linear layer, as PEFT makes it."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        self.lora_A = torch.nn.Linear(base.in_features, 2, bias=False)
        self.lora_B = torch.nn.Linear(2, base.out_features, bias=False)

    def forward(self, x, *arguments, **named):
        return self.base_layer(x) + self.lora_B(self.lora_A(x))


def test_what_a_lora_adds_is_recorded(pipe):
    attention = pipe.unet.get_submodule(f"{LAYER}.attn2")
    base = attention.to_q
    attention.to_q = Lora(base)
    with (
        plain(pipe.unet, QUERY) as seen,
        plain(pipe.unet, f"{LAYER}.attn2.to_q.base_layer") as without,
        ep.probe(pipe, QUERY, dtype="float32") as recorder,
    ):
        draw(pipe, guidance_scale=1)
    values = ep.site(recorder.tree, QUERY)
    assert all(same(values.isel(timestep=step), seen[step]) for step in range(3))
    assert not same(values.isel(timestep=0), without[0])


def test_calls_of_the_pipeline_are_runs_apart(shared):
    with ep.probe(shared, MID) as recorder:
        with pytest.raises(CaptureError, match="nothing was recorded"):
            _ = recorder.tree
        draw(shared, HOUSE)
        draw(shared, CAR, num_inference_steps=2)
        draw(shared, CAR, height=32)
    first, second, third = recorder.runs
    assert recorder.runs[0] is first  # built once
    assert [run["prompt"].values.item() for run in recorder.runs] == [HOUSE, CAR, CAR]
    assert first.sizes["timestep"] == 3
    assert second.sizes["timestep"] == 2
    assert ep.site(third, MID).sizes["y"] == ep.site(first, MID).sizes["y"] / 2
    with pytest.raises(CaptureError, match=r"3 runs.*recorder\.runs"):
        _ = recorder.tree


def test_where_guidance_ends_another_run_begins(shared):
    def without_guidance(pipe, step, timestep, tensors):
        if step == 0:
            pipe._guidance_scale = 1.0
            return {"prompt_embeds": tensors["prompt_embeds"].chunk(2)[1]}
        return {}

    with ep.probe(shared, MID) as recorder:
        draw(
            shared,
            callback_on_step_end=without_guidance,
            callback_on_step_end_tensor_inputs=["prompt_embeds"],
        )
    guided, plain_run = recorder.runs
    assert "guidance" in ep.site(guided, MID).dims
    assert "guidance" not in ep.site(plain_run, MID).dims
    assert guided["step"].values.tolist() == [0]
    assert plain_run["step"].values.tolist() == [1, 2]
    assert "image" not in guided.children
    assert "image" in plain_run.children


def test_a_site_that_does_not_fire_is_named_in_the_call_itself(pipe):
    attention = pipe.unet.get_submodule(f"{LAYER}.attn2")

    def skipping(attn, hidden_states, *_arguments, **_options):
        return hidden_states

    attention.processor = skipping
    with (
        pytest.raises(CaptureError, match=rf"'{LAYER}\.attn2:query': 0"),
        ep.probe(pipe, [QUERY, MID]) as recorder,
    ):
        draw(pipe)
    assert as_found(pipe.unet)
    assert recorder.runs == []


def test_an_error_inside_leaves_the_model_and_what_was_recorded(pipe):
    def stopping(pipe, step, timestep, tensors):
        if step == 1:
            raise KeyboardInterrupt
        return tensors

    call = type(pipe).__call__
    with pytest.raises(KeyboardInterrupt), ep.probe(pipe, MID) as recorder:
        draw(pipe, callback_on_step_end=stopping)
    assert as_found(pipe.unet)
    assert type(pipe).__call__ is call
    assert recorder.tree.sizes["timestep"] == 2
    # A call that failed half way leaves nothing that the next would stumble over.
    with ep.probe(pipe, f"conv_in, {QUERY}") as recorder:
        with pytest.raises(RuntimeError):
            pipe.unet(torch.zeros(1, 4, 32, 32), 1, torch.zeros(1, 7, 5))
        draw(pipe)
    assert recorder.tree.sizes["timestep"] == 3


def test_probes_nest_with_edits_and_each_other(shared):
    double = {Site(MID): lambda tensor: tensor * 2}
    with ep.probe(shared, MID, dtype="float32") as outer:
        plainly = draw(shared, num_inference_steps=1)
        with hooked(shared.unet, double), ep.probe(shared, MID, dtype="float32") as inner:
            edited = draw(shared, num_inference_steps=1)
    before, unedited = (ep.site(run, MID) for run in outer.runs)
    assert np.array_equal(before, unedited)
    assert np.array_equal(ep.site(inner.tree, MID), before * 2)
    assert not np.array_equal(plainly, edited)


def test_probes_may_end_in_another_order_than_they_began(shared):
    call = vars(type(shared))["__call__"]
    model = ep.load(shared)
    for target, run in (
        (shared, lambda: draw(shared, num_inference_steps=1)),
        (model, lambda: model.predict(torch.zeros(1, 4, 32, 32), 1, model.condition(HOUSE))),
    ):
        first, second = ep.probe(target, MID), ep.probe(target, MID)
        recorders = [first.__enter__(), second.__enter__()]
        run()
        first.__exit__(None, None, None)
        run()
        second.__exit__(None, None, None)
        run()
        seen = [sum(tree.sizes["timestep"] for tree in each.runs) for each in recorders]
        assert seen == [1, 2]
        assert vars(type(shared))["__call__"] is call
        assert "predict" not in vars(model)
        assert as_found(shared.unet)


def test_a_pipeline_in_another_thread_is_not_recorded(shared):
    """Neither the same pipeline, nor one that shares the UNet."""
    sibling = quiet(type(shared)(**shared.components, requires_safety_checker=False))
    with ThreadPoolExecutor(1) as other, ep.probe(shared, MID) as recorder:
        theirs = other.submit(draw, sibling, CAR).result()
        other.submit(draw, shared, CAR).result()
        assert not recorder.runs
        draw(shared, HOUSE)
    assert recorder.tree["prompt"].values.tolist() == [HOUSE]
    assert np.array_equal(theirs, draw(shared, CAR))


def test_an_error_leaves_no_processors_of_perturbed_attention(shared):
    pag = quiet(StableDiffusionPAGPipeline(**shared.components, pag_applied_layers=["mid"]))
    before = shared.unet.attn_processors

    def check():
        now = shared.unet.attn_processors
        assert all(now[name] is each for name, each in before.items())

    def stopping(*_arguments):
        assert any("PAG" in type(each).__name__ for each in shared.unet.attn_processors.values())
        raise KeyboardInterrupt

    wrong = ep.Shift(f"{LAYER}.attn2", 1.0, mask=np.ones((3, 3)))
    with ep.probe(pag, MID), pytest.raises(KeyboardInterrupt):
        draw(pag, pag_scale=3.0, callback_on_step_end=stopping)
    # Whoever else is asked for the UNet: their processors are back when the block is left.
    for target in (shared.unet, shared):
        with ep.probe(target, MID), pytest.raises(KeyboardInterrupt):
            draw(pag, pag_scale=3.0, callback_on_step_end=stopping)
        check()
        with pytest.raises(SiteError), ep.intervene(target, [wrong]):
            draw(pag, pag_scale=3.0)
        check()
        with attention_kept(target), pytest.raises(KeyboardInterrupt):
            draw(pag, pag_scale=3.0, callback_on_step_end=stopping)
        check()
    with pytest.warns(UserWarning, match="perturbed attention"):
        model = ep.load(pag)
    for target in (pag, model):
        with pytest.raises(SiteError), ep.intervene(target, [wrong]):
            draw(pag, pag_scale=3.0)
    check()


def test_ports_of_perturbed_attention_are_refused_in_the_call(shared):
    """Its perturbed rows have no queries and keys, and their values come apart."""
    pag = quiet(StableDiffusionPAGPipeline(**shared.components, pag_applied_layers=["mid"]))
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1"
    before = draw(pag, pag_scale=3.0)
    for guidance in (1, 5):
        for port in ("query", "key", "value", "mix"):
            for target in (pag, pag.unet):
                with (
                    pytest.raises(CaptureError, match=r"attn1:.* rows in .*\(PAG\).*'out'"),
                    ep.probe(target, f"{layer}:{port}"),
                ):
                    draw(pag, pag_scale=3.0, guidance_scale=guidance)
            with (
                pytest.raises(CaptureError, match="PAG"),
                ep.intervene(pag, ep.Scale(f"{layer}:{port}", 0.5)),
            ):
                draw(pag, pag_scale=3.0, guidance_scale=guidance)
    # All else of it has all rows, and so has everything without it.
    with ep.probe(pag, f"{layer}, {layer}:value, !{layer}:value, {QUERY}") as recorder:
        assert np.array_equal(draw(pag, pag_scale=3.0), before)
    assert ep.site(recorder.tree, layer).sizes["batch"] == 3
    assert ep.site(recorder.tree, QUERY).sizes["batch"] == 3
    with ep.probe(pag, f"{layer}:*") as recorder:
        draw(pag, pag_scale=0.0)
    assert recorder.tree.sizes["sample"] == 1
    # Its products can be kept and given back: they are those of the rows that have some.
    with attention_kept(pag) as kept:
        draw(pag, pag_scale=3.0)
    with ep.intervene(pag, InjectAttention(kept)):
        assert np.array_equal(draw(pag, pag_scale=3.0), before)


def test_probes_of_one_model_nest(shared):
    model = ep.load(shared)
    x = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    condition = model.condition(HOUSE, 2)
    with ep.probe(model, MID) as outer, ep.probe(model, MID) as inner:
        model.predict(x, timestep=281, condition=condition)
    xr.testing.assert_identical(ep.site(outer.tree, MID), ep.site(inner.tree, MID))
    assert inner.tree["prompt"].values.tolist() == [HOUSE]
    assert "predict" not in vars(model)


def test_what_is_changed_in_place_later_is_recorded_as_it_was(pipe):
    """FreeU scales a block's output within the next block; a loop of one's own its latents."""
    site = "up_blocks.0"
    with ep.probe(pipe, site, dtype="float32") as plainly:
        draw(pipe, num_inference_steps=1)
    pipe.enable_freeu(s1=0.5, s2=0.5, b1=2.0, b2=2.0)
    seen = []
    handle = pipe.unet.up_blocks[0].register_forward_hook(lambda _m, _i, out: seen.append(out))
    with ep.probe(pipe, site, dtype="float32") as recorder:
        draw(pipe, num_inference_steps=1)
    handle.remove()
    values = ep.site(recorder.tree, site)
    changed = seen[0].movedim(1, -1).reshape(1, 2, 1, *values.shape[3:])
    assert not np.allclose(values, changed)  # the control: what a plain hook kept is another
    assert np.isclose(values, changed).mean() > 0.2  # only half of the channels are scaled
    assert not np.allclose(values, ep.site(plainly.tree, site))
    x = torch.ones(1, 4, 32, 32)
    with ep.probe(pipe.unet, MID) as recorder, torch.no_grad():
        for _ in range(2):
            pipe.unet(x, 1, torch.zeros(1, 7, 24))
            x += 1
    latents = ep.site(recorder.tree, "latents")
    assert latents.isel(timestep=0).values.max() == 1
    assert latents.isel(timestep=1).values.min() == 2


@pytest.mark.parametrize("how", ["in place", "around", "by block"])
def test_a_compiled_unet_is_recorded(pipe, how):
    with plain(pipe.unet, MID) as seen:
        before = draw(pipe)
    if how == "in place":
        pipe.unet.compile(backend="eager")
    elif how == "by block":
        pipe.unet.compile_repeated_blocks(backend="eager")
    else:
        pipe.unet = torch.compile(pipe.unet, backend="eager")
    draw(pipe)  # compiled now, so that hooks that are added later would not fire
    with ep.probe(pipe, [QUERY, MID], dtype="float32") as recorder:
        during = draw(pipe)
    np.testing.assert_allclose(during, before, atol=1e-5)
    values = ep.site(recorder.tree, MID).isel(sample=0, timestep=1)
    np.testing.assert_allclose(
        values.transpose("guidance", "channel", "y", "x"), seen[1], atol=1e-4
    )


@pytest.mark.parametrize("each_layer", [True, False])
def test_an_offloaded_unet_is_recorded(pipe, each_layer):
    before = draw(pipe)
    if each_layer:
        accelerate.cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
        assert next(pipe.unet.parameters()).is_meta
    else:
        accelerate.cpu_offload_with_hook(pipe.unet, torch.device("cpu"))
    wrapped = pipe.unet.forward
    with plain(pipe.unet, MID) as seen, ep.probe(pipe, [QUERY, MID], dtype="float32") as recorder:
        assert np.array_equal(draw(pipe), before)
    assert pipe.unet.forward is wrapped
    values = ep.site(recorder.tree, MID).isel(sample=0)
    assert same(values.isel(timestep=2), seen[2])


def test_fused_projections_are_refused_by_name(pipe):
    pipe.fuse_qkv_projections(vae=False)
    with pytest.raises(ModelError, match="unfuse_qkv_projections"), ep.probe(pipe, QUERY):
        pass
    with ep.probe(pipe, MID) as recorder:
        draw(pipe)
    assert recorder.tree.sizes["timestep"] == 3


def test_checkpointing_while_training_is_refused_by_name(pipe):
    pipe.unet.enable_gradient_checkpointing()
    pipe.unet.train()
    with pytest.raises(ModelError, match="disable_gradient_checkpointing"), ep.probe(pipe, MID):
        pass
    pipe.unet.eval()
    with ep.probe(pipe, MID):
        draw(pipe)


def test_what_float16_cannot_hold_is_an_error_of_the_call(pipe):
    pipe.unet.conv_in.bias.data += 1e5
    with pytest.raises(CaptureError, match=r"'conv_in:out' has values beyond 65504"):  # noqa: SIM117
        with ep.probe(pipe, "conv_in"):
            draw(pipe)
    with ep.probe(pipe, "conv_in", dtype="float32") as recorder:
        draw(pipe)
    assert float(ep.site(recorder.tree, "conv_in").max()) > 65504


def test_wrong_calls_are_refused(shared):
    with pytest.raises(ModelError, match="object has no denoising network"), ep.probe(object()):
        pass
    with pytest.raises(ModelError, match="a Linear is not supported"), ep.probe(nn.Linear(1, 1)):
        pass
    with pytest.raises(SiteError, match="no site matches 'mid'"), ep.probe(shared, "mid"):
        pass
    with pytest.raises(ConfigError, match="'int8'; choose one of"), ep.probe(shared, dtype="int8"):
        pass
    assert as_found(shared.unet)


@pytest.mark.parametrize("version", ["v1", "v2", "xl"])
def test_every_site_of_stable_diffusion_is_recorded(version):
    pipe = quiet(stable_diffusion_xl() if version == "xl" else stable_diffusion(version))
    with ep.probe(pipe, "*") as recorder:
        draw(pipe, num_inference_steps=1, height=128, width=128)
    sites = ep.load(pipe).sites()
    for name, row in sites.iterrows():
        values = ep.site(recorder.tree, name)
        assert values.dims[3:] == row["dims"]
        assert values.shape[3:] == row["shape"]


def test_a_panoramas_halves_are_no_samples(shared):
    panorama = quiet(
        StableDiffusionPanoramaPipeline(
            **shared.components | {"scheduler": DDIMScheduler.from_config(shared.scheduler.config)},
            requires_safety_checker=False,
        )
    )
    for guidance, first in ((5.0, "batch"), (1.0, "sample")):
        with ep.probe(panorama, MID) as recorder:
            draw(panorama, height=256, width=256, guidance_scale=guidance, num_inference_steps=1)
        assert {ep.site(run, MID).dims[0] for run in recorder.runs} == {first}


class Cached:
    """A step cache as DeepCache is one: a block's forward that gives again what it gave."""

    def __init__(self, block):
        self.forward, self.kept = block.forward, None

    def cached_forward(self, *arguments, **named):
        self.kept = self.forward(*arguments, **named) if self.kept is None else self.kept
        return self.kept


def test_replaced_forwards_are_refused_or_spoken_of(pipe):
    block = pipe.unet.mid_block
    block.forward = Cached(block).cached_forward
    with (
        pytest.raises(ModelError, match=r"forward of mid_block is replaced by .*cached_forward"),
        ep.probe(pipe, QUERY),
    ):
        pass
    del block.forward
    plain_forward = block.forward
    block.forward = lambda *arguments, **named: plain_forward(*arguments, **named)
    with (
        pytest.warns(UserWarning, match="forward of mid_block is replaced by .*lambda"),
        ep.probe(pipe, MID) as recorder,
    ):
        draw(pipe)
    assert recorder.tree.sizes["timestep"] == 3
    del block.forward


@pytest.mark.parametrize("name", ["fbc_block_hook", "taylorseer_cache", "text_kv_cache_block"])
def test_hooks_of_diffusers_that_cache_are_refused_by_name(pipe, name):
    registry = HookRegistry.check_if_exists_or_initialize(pipe.unet.up_blocks[0])
    registry.register_hook(ModelHook(), name)
    with pytest.raises(ModelError, match=rf"up_blocks\.0 has the hook '{name}'"), ep.probe(pipe):
        pass
    registry.remove_hook(name)
    pipe.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    with ep.probe(pipe, MID) as recorder:
        draw(pipe, num_inference_steps=1)
    assert recorder.tree.sizes["timestep"] == 1
