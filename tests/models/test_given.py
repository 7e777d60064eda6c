"""What a model is given reaches the UNet, or is refused by name; and objects are left as found."""

import copy
import inspect

import numpy as np
import pytest
import torch
from diffusers import (
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionAdapterPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionXLImg2ImgPipeline,
    T2IAdapter,
    UNetMotionModel,
)

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError, ModelError
from tests.checkpoints import (
    THREE_LEVELS,
    stable_diffusion,
    stable_diffusion_xl,
    tiny_playground,
)

HOUSE = "a red house"


def latents(model, rows=1):
    shape = model.latent_shape(model.image_size, model.image_size)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, *shape[1:], generator=generator)


@pytest.fixture(scope="module")
def v1():
    return stable_diffusion("v1")


@pytest.fixture(scope="module")
def xl():
    return stable_diffusion_xl()


def with_parts(pipeline, kind, **parts):
    """A pipeline of another kind, with some parts of its own."""
    names = inspect.signature(kind).parameters
    parts = {k: v for k, v in {**pipeline.components, **parts}.items() if k in names}
    return kind(**parts, requires_safety_checker=False)


def test_guidance_that_is_an_input_is_given():
    """As the pipeline of latent consistency models gives it."""
    pipeline = stable_diffusion("v1", time_cond_proj_dim=16)
    pipeline = with_parts(
        pipeline,
        LatentConsistencyModelPipeline,
        scheduler=LCMScheduler.from_config(pipeline.scheduler.config),
    )
    pipeline.set_progress_bar_config(disable=True)
    model, seen, predicted = ep.load(pipeline), [], []
    handle = pipeline.unet.register_forward_hook(
        lambda _m, _i, named, _output: seen.append(named["timestep_cond"]),
        with_kwargs=True,
    )
    for guidance in (1.0, 8.5):
        condition = model.condition(HOUSE, guidance)
        assert condition.halves == 1
        with ep.probe(model, "conv_in") as recorder:
            predicted.append(model.predict(latents(model), 281, condition))
        assert recorder.tree["prompt"].values.tolist() == [HOUSE]
        pipeline(HOUSE, num_inference_steps=1, guidance_scale=guidance, output_type="latent")
        ours, theirs = seen[-2:]
        assert torch.equal(ours, theirs)
    handle.remove()
    assert not torch.allclose(*predicted, atol=1e-5)
    with pytest.raises(InputError, match="reads guidance as a number"):
        model.condition(ep.Prompt(HOUSE, negative_prompt="a car"), 8.5)


def test_parts_that_add_to_the_unet_are_spoken_of(v1, tmp_path):
    adapter = T2IAdapter(channels=[32, 64, 64, 64], num_res_blocks=1, downscale_factor=8)
    adapted = with_parts(v1, StableDiffusionAdapterPipeline, adapter=adapter)
    with pytest.warns(UserWarning, match=r"without its T2I-Adapter.*ep\.probe"):
        ep.load(adapted)
    adapted.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="without its T2I-Adapter"):
        ep.load(tmp_path)


def test_perturbed_attention_is_spoken_of(v1):
    with pytest.warns(UserWarning, match="without its perturbed attention guidance"):
        ep.load(with_parts(v1, StableDiffusionPAGPipeline))


def test_a_textual_inversion_of_several_vectors_is_several_tokens():
    pipeline = tiny_playground()
    width = pipeline.text_encoder.config.hidden_size
    vectors = torch.randn(3, width, generator=torch.Generator().manual_seed(0))
    pipeline.load_textual_inversion({"<cat>": vectors}, token="<cat>")
    model = ep.load(pipeline)
    theirs, _ = pipeline.encode_prompt("a <cat>", "cpu", 1, False)
    condition = model.condition("a <cat>", guidance=2)
    assert torch.equal(condition.embeddings, theirs)
    assert condition.tokens[1:5] == ("a", "<cat>", "<cat>_1", "<cat>_2")
    as_negative = model.condition(ep.Prompt("", negative_prompt="a <cat>"), guidance=2)
    assert torch.equal(as_negative.unconditional, theirs)
    assert as_negative.unconditional_tokens == condition.tokens
    # The control: the first vector alone is another text.
    first = pipeline.tokenizer("a <cat>", return_tensors="pt").input_ids
    assert first.shape[1] < 6


def test_latents_are_standardised_where_the_autoencoder_says_so(v1):
    plain, other = ep.load(v1), copy.copy(v1)
    other.vae = copy.deepcopy(v1.vae)
    mean, deviation = [0.5, -1.0, 0.0, 2.0], [2.0, 0.5, 1.0, 3.0]
    other.vae.register_to_config(latents_mean=mean, latents_std=deviation)
    model = ep.load(other)
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    centre, width = torch.tensor([mean, deviation])[..., None, None]
    factor = v1.vae.config.scaling_factor
    own = v1.vae.encode(picture * 2 - 1).latent_dist.mode()
    encoded = model.encode(picture)
    torch.testing.assert_close(encoded, (own - centre) * factor / width)
    assert not torch.allclose(encoded, plain.encode(picture), atol=0.01)
    decoded = model.decode(encoded)
    torch.testing.assert_close(decoded, plain.decode(own * factor), rtol=1e-3, atol=1e-4)


def motion(pipeline):
    small = {"block_out_channels": (32, 32), "norm_num_groups": 8, "layers_per_block": 1}
    kinds = {
        "down_block_types": ("CrossAttnDownBlockMotion", "DownBlockMotion"),
        "up_block_types": ("UpBlockMotion", "CrossAttnUpBlockMotion"),
    }
    return UNetMotionModel(sample_size=8, cross_attention_dim=32, **small, **kinds)


PROJECTED = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (motion, "UNetMotionModel.*only a UNet2DConditionModel"),
        (lambda _: stable_diffusion("v1", **PROJECTED).unet, "'projection' reads .* as unCLIP"),
        (lambda _: stable_diffusion("v1", num_class_embeds=10).unet, "number of a class.*probe"),
        (lambda p: copy.deepcopy(p.unet).to(torch.float8_e4m3fn), "float8_e4m3fn.*layerwise"),
        (lambda p: copy.deepcopy(p.unet).to(torch.int8), "int8, in which nothing"),
    ],
)
def test_unets_that_would_be_unusable_are_refused_by_name(v1, changed, message):
    other = copy.copy(v1)
    try:
        other.unet = changed(v1)
    except (RuntimeError, TypeError):  # modules refuse to be moved to integers
        other.unet = copy.deepcopy(v1.unet)
        for parameter in other.unet.parameters():
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(torch.int8)
    with pytest.raises(ModelError, match=message):
        ep.load(other)


def test_a_refiner_is_refused_and_its_own_call_recorded(xl):
    parts = {**xl.components, "text_encoder": None, "tokenizer": None}
    refiner = StableDiffusionXLImg2ImgPipeline(**parts, requires_aesthetics_score=True)
    with pytest.raises(ModelError, match=r"refiner .* aesthetic score.*ep\.probe"):
        ep.load(refiner)


def test_a_tokenizer_without_words_is_refused(v1, tmp_path):
    v1.save_pretrained(tmp_path)
    for file in (tmp_path / "tokenizer").iterdir():
        file.unlink()
    (tmp_path / "tokenizer").rmdir()
    with pytest.raises(ModelError, match="tokenizer knows no words"):
        ep.load(tmp_path)


def test_weights_kept_in_float8_are_computed_in_another_dtype(v1):
    other = copy.copy(v1)
    other.unet = copy.deepcopy(v1.unet)
    other.unet.enable_layerwise_casting(
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )
    model, plain = ep.load(other), ep.load(v1)
    assert model.dtype == torch.float32
    site = "up_blocks.1.attentions.0.transformer_blocks.0.attn2:query"
    assert model.sites(site)["bytes"].item() == plain.sites(site)["bytes"].item()
    x = latents(model)
    ours, theirs = (each.predict(x, 281, each.condition(HOUSE)) for each in (model, plain))
    error = (ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt()
    assert 0 < error < 0.3
    with ep.probe(other, site, dtype="float32") as recorder:
        model.predict(x, 281, model.condition(HOUSE))
    assert np.isfinite(ep.site(recorder.tree, site)).all()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning:torch")
def test_weights_kept_in_int8_are_recorded_and_identified(v1):
    def quantised(pipeline):
        other = copy.copy(pipeline)
        linear = {torch.nn.Linear}
        other.unet = torch.ao.quantization.quantize_dynamic(pipeline.unet, linear, torch.qint8)
        return other

    model, plain = ep.load(quantised(v1)), ep.load(v1)
    site = "up_blocks.1.attentions.0.transformer_blocks.0.attn2:query"
    ours, theirs = (
        ep.record(each, ep.Prompt(HOUSE, height=64, width=64), site, steps=1, progress=False)
        for each in (model, plain)
    )
    ours, theirs = (ep.site(each, site).values for each in (ours, theirs))
    assert 0 < np.square(ours - theirs).mean() ** 0.5 < 0.1 * theirs.std()
    changed = stable_diffusion("v1")
    changed.unet.load_state_dict(v1.unet.state_dict())
    assert ep.load(quantised(changed)).weights == model.weights != plain.weights
    # Of a weight that is quantised.
    changed.unet.get_submodule(site.replace(":query", ".to_q")).weight.data.neg_()
    assert ep.load(quantised(changed)).weights != model.weights


def test_a_pipeline_stays_in_its_mode_dtype_and_place():
    pipeline = tiny_playground()
    parts = {name: getattr(pipeline, name) for name in ("unet", "vae", "text_encoder")}
    for part in parts.values():
        part.train()
    before = {
        (name, path): module.training
        for name, part in parts.items()
        for path, module in part.named_modules()
    }
    model, seen = ep.load(pipeline), []
    pipeline.unet.mid_block.register_forward_hook(lambda module, *_: seen.append(module.training))
    model.predict(latents(model), 281, model.condition(HOUSE, 2))
    model.decode(model.encode(torch.zeros(1, 3, 128, 128)))
    assert seen == [False]
    assert all(parts[name].get_submodule(path).training for name, path in before)
    assert ep.load(pipeline, dtype="float32", device="cpu").dtype == torch.float32
    with pytest.raises(ModelError, match=r"dtype is 'float16' .*pipeline\.to\(torch\.float16\)"):
        ep.load(pipeline, dtype="float16")
    with pytest.raises(ModelError, match="device is 'meta'"):
        ep.load(pipeline, device="meta")
    with pytest.raises(ModelError, match="revision: only for models that are read from files"):
        ep.load(pipeline, revision="main")


@pytest.mark.parametrize("kind", ["v1", "xl"])
def test_negative_prompts_and_skipped_layers_are_the_pipelines(kind, request):
    pipeline = request.getfixturevalue(kind)
    model = ep.load(pipeline)
    prompt = ep.Prompt(HOUSE, negative_prompt="a blue car")
    condition = model.condition(prompt, guidance=3)
    theirs = pipeline.encode_prompt(
        HOUSE,
        device="cpu",
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
        negative_prompt="a blue car",
    )
    ours = (condition.embeddings, condition.unconditional)
    ours += (condition.pooled, condition.unconditional_pooled) if kind == "xl" else ()
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert condition.unconditional_tokens[1:4] == ("a", "blue", "car")
    assert not torch.equal(condition.unconditional, model.condition(HOUSE, 3).unconditional)
    skipped = model.condition(ep.Prompt(HOUSE, clip_skip=1)).embeddings
    if kind == "xl":
        theirs = pipeline.encode_prompt(
            HOUSE,
            device="cpu",
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
            clip_skip=1,
        )[0]
        assert torch.equal(skipped, theirs)
    else:
        # One layer there: nothing is left of it but the embeddings and the last norm.
        encoder, ids = pipeline.text_encoder, pipeline.tokenizer(HOUSE, return_tensors="pt")
        layers = encoder(ids.input_ids, output_hidden_states=True).hidden_states
        norm = next(m for n, m in encoder.named_modules() if n.endswith("final_layer_norm"))
        torch.testing.assert_close(skipped[:, : layers[0].shape[1]], norm(layers[-2]))
        zero = model.condition(ep.Prompt(HOUSE, clip_skip=0)).embeddings
        torch.testing.assert_close(zero, condition.embeddings)
    assert not torch.allclose(skipped, condition.embeddings, atol=1e-3)
    with pytest.raises(InputError, match="clip_skip is 9; choose 0 to"):
        model.condition(ep.Prompt(HOUSE, clip_skip=9))
    with pytest.raises(InputError, match=r"negative_prompt is 'a blue car'.*choose a larger"):
        model.condition(prompt)


@pytest.mark.parametrize("kind", ["v1", "xl"])
def test_encoded_prompts_are_taken_as_they_are(kind, request):
    model = ep.load(request.getfixturevalue(kind))
    text = model.condition(HOUSE, 2)
    pooled = text.pooled
    embedded = ep.Prompt("", prompt_embeds=text.embeddings, pooled_prompt_embeds=pooled)
    condition = model.condition(embedded, 2)
    assert torch.equal(condition.embeddings, text.embeddings)
    assert torch.equal(condition.unconditional, text.unconditional)
    assert set(condition.tokens) == {""}
    x = latents(model)
    assert torch.equal(model.predict(x, 281, condition), model.predict(x, 281, text))
    wrong = ep.Prompt("", prompt_embeds=text.embeddings[:, :3], pooled_prompt_embeds=pooled)
    with pytest.raises(InputError, match=r"shape \(3, .*token, channel"):
        model.condition(wrong)


def test_a_prompt_has_a_size_of_its_own(v1):
    model = ep.load(v1)
    assert model.drawn_size(ep.Prompt(HOUSE)) == (128, 128)
    assert model.drawn_size(ep.Prompt(HOUSE, width=192)) == (128, 192)
    with pytest.raises(
        InputError, match="height is 100; choose a multiple of 64, such as 64 or 128"
    ):
        model.drawn_size(ep.Prompt(HOUSE, height=100))
    prompt = ep.Prompt(HOUSE, negative_prompt="a car", height=64, width=192)
    run = ep.record(model, prompt, "blocks", steps=2, guidance=3, progress=False)
    assert run["image"]["value"].shape == (1, 64, 192, 3)
    assert ep.site(run, "mid_block").sizes["x"] == 3
    source = "prompt, negative 'a car', 64 x 192 (height x width)"
    assert run["source"].values.tolist() == [source]
    plain = ep.Prompt(HOUSE, height=64, width=192)
    other = ep.record(model, plain, "blocks", steps=2, guidance=3, progress=False)
    assert not np.array_equal(run["image"]["value"], other["image"]["value"])


@pytest.mark.parametrize(
    "layout",
    [
        {"mid_block_type": None},
        {"layers_per_block": 1},
        THREE_LEVELS,
        {"sample_size": None},
    ],
)
def test_other_layouts_are_recorded_and_segmented(layout):
    """The default sites and settings are those that there are."""
    model = ep.load(stable_diffusion("v1", **layout))
    assert model.family == "stable-diffusion"
    assert model.image_size == (512 if layout == {"sample_size": None} else 128)
    prompt = ep.Prompt(HOUSE, height=64, width=64)
    run = ep.record(model, prompt, steps=1, progress=False)
    middle = "mid_block_type" not in layout
    assert ("mid_block" in run) == middle
    config = ep.EmerDiffConfig.for_model(model).replace(steps=4, modulation_timestep=251)
    segments = ep.segment(model, prompt, masks=2, engine="jump", config=config, progress=False)
    assert segments["labels"].shape == (64, 64)


def test_a_pipeline_is_taken_where_a_model_is():
    pipeline, prompt = tiny_playground(), ep.Prompt(HOUSE)
    model = ep.load(pipeline)
    config = ep.EmerDiffConfig.for_model(pipeline).replace(steps=4, modulation_timestep=251)
    config = config.replace(feature_timestep=1)
    options = {"masks": 2, "engine": "jump", "config": config, "progress": False}
    ours = ep.record(pipeline, prompt, steps=2, progress=False)
    theirs = ep.record(model, prompt, steps=2, progress=False)
    assert np.array_equal(ep.site(ours, "mid_block"), ep.site(theirs, "mid_block"))
    ours, theirs = (ep.segment(each, prompt, **options) for each in (pipeline, model))
    assert np.array_equal(ours["labels"], theirs["labels"])
    assert ours.attrs["model"] == theirs.attrs["model"] == "StableDiffusionPipeline"
    ours, theirs = (
        ep.generate(each, prompt, steps=4, progress=False).responder(engine="jump", config=config)
        for each in (pipeline, model)
    )
    assert np.array_equal(ours.location(0, 0), theirs.location(0, 0))
