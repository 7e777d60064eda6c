"""Transformers as models: flows in coordinates that preserve variance, and runs of them."""

import json

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.emerdiff import EmerDiffConfig, literal
from emerdiff_probe.emerdiff.engines import engine_of
from emerdiff_probe.errors import ConfigError, InputError, ModelError
from emerdiff_probe.models.schedule import Schedule, flow_timesteps
from emerdiff_probe.runs.sampling import transitions
from tests.families import FAMILIES, attentive, flux, pixart, stable_diffusion_3

SIZE = {"height": 64, "width": 96}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    found = ep.load(FAMILIES[request.param]())
    found.image_size = 64  # of Flux no configuration says it
    return found


def deterministic(model, start, timesteps, condition):
    """Latents that DDIM steps end with."""
    latents = start
    for timestep, previous in transitions(timesteps):
        eps = model.predict(latents, timestep, condition)
        noise = torch.zeros_like(latents)
        latents = model.schedule.step(latents, eps, noise, timestep, previous, eta=0.0)
    return latents


@pytest.mark.parametrize("make", [flux, stable_diffusion_3])
def test_steps_of_a_flow_are_those_of_its_pipeline(make):
    pipeline = make()
    # Without a shift these noise levels are timesteps.
    config = {"shift": 1.0, "use_dynamic_shifting": False}
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, **config)
    model, levels = ep.load(pipeline), (0.9, 0.6, 0.3)
    noise = torch.randn((1, 16, 8, 12), generator=torch.Generator().manual_seed(1))
    guidance = 3.0
    given = noise if make is stable_diffusion_3 else pipeline._pack_latents(noise, 1, 16, 8, 12)
    drawn = pipeline(
        "a red house",
        **SIZE,
        sigmas=list(levels),
        num_inference_steps=3,
        guidance_scale=guidance,
        latents=given,
        output_type="latent",
    ).images
    if make is flux:
        drawn = pipeline._unpack_latents(drawn, 64, 96, pipeline.vae_scale_factor)
    first = levels[0]
    start = noise / ((1 - first) ** 2 + first**2) ** 0.5
    condition = model.condition("a red house", guidance)
    ended = deterministic(model, start, (900, 600, 300), condition)
    assert condition.halves == (1 if make is flux else 2)
    assert float((ended - drawn).abs().max()) < 2e-5 * float(drawn.abs().max())
    other = deterministic(model, start, (900, 600, 300), model.condition("a red house", 5.0))
    assert float((other - drawn).abs().max()) > 1e-3 * float(drawn.abs().max())


def test_predictions_of_pixart_are_the_networks_own():
    pipeline = pixart()
    model = ep.load(pipeline)
    latents = torch.randn((1, 4, 8, 12), generator=torch.Generator().manual_seed(1))
    text, mask, *_ = pipeline.encode_prompt("a red house", do_classifier_free_guidance=False)
    output = pipeline.transformer(
        latents,
        encoder_hidden_states=text,
        encoder_attention_mask=mask,
        timestep=torch.tensor([281]),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    found = model.predict(latents, 281, model.condition("a red house"))
    torch.testing.assert_close(found, output[:, :4])
    # Without its mask a text of padding would count.
    unmasked = pipeline.transformer(
        latents,
        encoder_hidden_states=text,
        timestep=torch.tensor([281]),
        added_cond_kwargs={"resolution": None, "aspect_ratio": None},
    ).sample
    assert not torch.allclose(found, unmasked[:, :4], atol=1e-4)


def test_a_flow_is_variance_preserving_in_its_coordinates():
    schedule = Schedule.from_scheduler(flux().scheduler)
    x0, eps = torch.randn(2, 1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    for timestep in (1, 250, 500, 999):
        sigma = timestep / 1000
        flow = (1 - sigma) * x0 + sigma * eps
        x = schedule.add_noise(x0, eps, timestep)
        torch.testing.assert_close(schedule.as_read(x, timestep), flow)
        torch.testing.assert_close(schedule.to_noise(eps - x0, x, timestep), eps)


def test_timesteps_of_a_flow_follow_the_scheduler_and_the_size():
    pipeline = flux()
    before = dict(vars(pipeline.scheduler))
    small = flow_timesteps(pipeline.scheduler, 4, 24, even=True)
    large = flow_timesteps(pipeline.scheduler, 4, 4096, even=True)
    assert vars(pipeline.scheduler).keys() == before.keys()
    for tokens, found in ((24, small), (4096, large)):
        mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
        levels = np.array([1, 0.75, 0.5, 0.25])
        shifted = np.exp(mu) / (np.exp(mu) + 1 / levels - 1)
        assert np.allclose(found, np.minimum(shifted * 1000, 999), atol=0.51)
    assert large[1] > small[1]
    with pytest.raises(ConfigError, match="fewer"):
        flow_timesteps(pipeline.scheduler, 450, 4096, even=True)


def middle(model):
    return EmerDiffConfig.for_model(model).feature_site.removesuffix(":out")


def test_a_run_is_drawn_recorded_and_replayed(model):
    block = middle(model)
    run = ep.generate(model, "a red house", steps=3, progress=False, **SIZE)
    again = ep.generate(model, "a red house", steps=3, progress=False, **SIZE)
    assert np.array_equal(run.picture, again.picture)
    assert run.picture.std() > 0
    tree = run.record(block, dtype="float32", progress=False)
    values = ep.site(tree, block)
    assert values.dims[-3:] == ("y", "x", "channel")
    assert (values.sizes["y"], values.sizes["x"]) == (4, 6)
    assert np.array_equal(tree["image"]["value"].values[0], run.picture)
    back = run.replay(ep.Replace(block, values), progress=False)
    assert np.array_equal(back.picture, run.picture)
    other = run.replay(ep.Ablate(block), progress=False)
    assert not np.array_equal(other.picture, run.picture)
    assert json.loads(tree.attrs["model"])["weights"]["transformer"] == model.weights


def noise_image():
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def test_edit_friendly_noises_lead_through_the_drawn_latents(model):
    run = ep.invert(model, noise_image(), steps=6, progress=False)
    generator = torch.Generator().manual_seed(0)
    x0 = run.prepared.x0
    for timestep, latents in zip(run.trajectory.timesteps, run.trajectory.latents, strict=False):
        drawn = torch.randn(x0.shape, generator=generator)
        torch.testing.assert_close(latents, model.schedule.add_noise(x0, drawn, timestep))
    for step, latents in zip(run.trajectory.run(model), run.trajectory.latents, strict=False):
        torch.testing.assert_close(step.latents, latents, rtol=1e-3, atol=1e-4)


def test_ddim_inversion_comes_nearer_with_shorter_steps(model):
    errors = [
        ep.invert(
            model, noise_image(), steps=steps, inversion="ddim", start=600, progress=False
        ).diagnostics["latent_rms_error"]
        for steps in (6, 48)
    ]
    assert errors[1] < 0.7 * errors[0]


def test_the_method_runs_by_rule_and_says_so(model):
    run = ep.generate(model, "a red house", steps=6, progress=False, height=64, width=64)
    with pytest.warns(UserWarning, match="untested on published weights"):
        segments = run.segment(masks=3, strength=3.0, progress=False)
    config = json.loads(segments.attrs["config"])
    assert segments.attrs["engine"] == "shared"
    middle = model.sites("blocks").index
    block = middle[len(middle) // 2]
    assert config["feature_site"] == block
    assert config["modulation_site"].startswith(f"{block.removesuffix(':out')}.attn")
    assert config["modulation_timestep"] in run.trajectory.timesteps
    assert segments["low_res"].shape == (4, 4)
    with pytest.warns(UserWarning, match="untested"):
        responses = run.respond(masks=2, strength=3.0, progress=False)
    assert float(np.abs(responses["response"]).max()) > 0
    with (
        pytest.warns(UserWarning, match="untested"),
        pytest.raises(ConfigError, match="engine='literal'"),
    ):
        run.segment(masks=3, engine="shared", injection=False, progress=False)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_is_injected_by_the_literal_engine(family):
    """Of branches without a shift it changes nothing; of shifted ones it does."""
    model = ep.load(attentive(FAMILIES[family]()))
    model.image_size = 64
    run = ep.generate(model, "a red house", steps=4, progress=False, height=64, width=64)
    config = EmerDiffConfig.for_model(model).replace(steps=4).on_grid(run.trajectory.timesteps)
    injected = config.replace(strength=30.0)
    assert engine_of(run, None, injected) == "shared"
    assert engine_of(run, None, config.replace(injection=False)) == "literal"
    nothing = literal.modulate(model, run.trajectory, torch.zeros(1, 4, 4), injected)
    torch.testing.assert_close(nothing.plus, nothing.unmodulated, rtol=1e-4, atol=1e-4)
    masks = torch.zeros(1, 4, 4)
    masks[0, 1, 2] = 1
    with_own, with_known = (
        literal.modulate(model, run.trajectory, masks, each).plus
        for each in (injected.replace(injection=False), injected)
    )
    assert (with_own - with_known).abs().max() > 1e-4


@pytest.mark.parametrize("guidance", [1, 3])
def test_a_recording_of_keys_has_the_mask_that_the_model_reads(guidance):
    """So that its attention is what a probe of the same predictions gives."""
    found = ep.load(pixart())
    layer = "transformer_blocks.1.attn2"
    sites = [f"{layer}:query", f"{layer}:key"]
    run = ep.generate(found, "a red house", steps=2, guidance=guidance, progress=False, **SIZE)
    recording = run.record(sites, dtype="float32", progress=False)
    with ep.probe(found, sites, dtype="float32") as recorder:
        assert len(list(run.trajectory.run(found))) == 2
    paid, probed = (ep.attention(each, layer) for each in (recording, recorder.tree))
    np.testing.assert_allclose(paid, probed, atol=1e-5)
    mask = recording.coords["encoder_attention_mask"]
    assert 0 < mask.sum() < mask.size
    assert (paid.where(mask == 0, 0) == 0).all()
    np.testing.assert_allclose(paid.sum("token"), 1, rtol=1e-5)


def test_tokens_of_several_encoders_are_told_apart():
    texts = ep.load(stable_diffusion_3()).condition("a red house").tokens
    clip = [each for each in texts if each.startswith("tokenizer:")]
    assert clip[1:4] == ["tokenizer:a", "tokenizer:red", "tokenizer:house"]
    assert texts[len(clip) :][1] == "tokenizer_3:a"


def test_folders_are_loaded_and_others_refused_before_their_weights(tmp_path):
    pipeline = stable_diffusion_3()
    pipeline.save_pretrained(tmp_path / "sd3")
    loaded, built = ep.load(tmp_path / "sd3", dtype="float32", device="cpu"), ep.load(pipeline)
    assert loaded.weights == built.weights
    assert loaded.family == "stable-diffusion-3"
    index = {
        "wan": (
            {"_class_name": "WanPipeline", "transformer": ["diffusers", "WanTransformer3DModel"]},
            "films",
        ),
        "cascade": (
            {
                "_class_name": "StableCascadeDecoderPipeline",
                "decoder": ["diffusers", "StableCascadeUNet"],
            },
            "Cascade",
        ),
        "ddpm": (
            {"_class_name": "DDPMPipeline", "unet": ["diffusers", "UNet2DModel"]},
            "without a text",
        ),
        "empty": ({"_class_name": "SomethingPipeline"}, "SomethingPipeline has no unet"),
        "dit": (
            {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]},
            "FluxPipeline has no vae, text_encoder",
        ),
    }
    for name, (content, reason) in index.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "model_index.json").write_text(json.dumps(content))
        with pytest.raises(ModelError, match=reason) as caught:
            ep.load(tmp_path / name)
        assert "Traceback" not in str(caught.value)


def test_what_cannot_be_asked_is_refused():
    model = ep.load(flux())
    with pytest.raises(InputError, match="one text"):
        model.condition(ep.Prompt("a red house", negative_prompt="a tree"), 3.0)
    with pytest.raises(InputError, match="multiple of 16"):
        ep.generate(model, "a red house", height=40, progress=False)
    pipeline = flux()
    pipeline.scheduler = pixart().scheduler.from_config(
        pipeline.scheduler.config, prediction_type="flow_prediction"
    )
    with pytest.raises(ModelError, match="FlowMatchEulerDiscreteScheduler"):
        ep.load(pipeline)
