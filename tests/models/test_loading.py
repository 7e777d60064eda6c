"""Loading by name, folder and object, and the agreement with diffusers' own pipeline."""

import copy
import json
import shutil
import warnings

import accelerate
import pytest
import torch
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
)
from safetensors.torch import load_file, save_file

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError, ModelError
from emerdiff_probe.runs import sample
from tests.checkpoints import (
    save_as_one_file,
    stable_diffusion,
    stable_diffusion_xl,
    tiny_playground,
)


@pytest.fixture(scope="module", params=["v1", "v2", "xl"])
def pipeline(request):
    return stable_diffusion_xl() if request.param == "xl" else stable_diffusion(request.param)


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    pipeline.save_pretrained(path, safe_serialization=True)
    return path


BOTH = {"num_images_per_prompt": 1, "do_classifier_free_guidance": True}
PICTURE = torch.tensor([[128, 128, 0, 0, 128, 128]])


def latents(model, seed=0):
    shape = model.latent_shape(model.image_size, model.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_same_weights(model, original):
    """Of every part, to the last bit."""
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        ours, theirs = (getattr(each.pipeline, name, None) for each in (model, original))
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)


def assert_close(ours, theirs):
    """Equal weights that lie elsewhere in memory give sums of another order on some processors."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_folder_gives_the_model_that_was_saved(pipeline, folder):
    model, original = ep.load(folder), ep.load(pipeline)
    assert model.image_size == 128
    assert model.size_multiple == (32 if model.family == "stable-diffusion-xl" else 64)
    assert model.latent_shape(128, 192) == (1, 4, 16, 24)
    assert model.weights == original.weights
    assert_same_weights(model, original)
    x = latents(model)
    condition = model.condition("a red house", guidance=3)
    assert_close(
        model.predict(x, 281, condition),
        original.predict(x, 281, original.condition("a red house", guidance=3)),
    )


def test_predictions_are_those_of_the_bare_unet(pipeline):
    model = ep.load(pipeline)
    x = latents(model)
    condition = model.condition("a red house")
    added = {"text_embeds": condition.pooled, "time_ids": PICTURE}
    with torch.no_grad():
        output = pipeline.unet(
            x, 281, encoder_hidden_states=condition.embeddings, added_cond_kwargs=added
        ).sample
    eps = model.predict(x, 281, condition)
    assert torch.equal(eps, model.schedule.to_noise(output, x, 281))
    guided = model.predict(x, 281, model.condition("a red house", guidance=4))
    empty = model.predict(x, 281, model.condition(""))
    torch.testing.assert_close(guided, empty + 4 * (eps - empty), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(guided, eps, atol=1e-3)


def test_text_is_encoded_as_the_pipeline_does(pipeline):
    model = ep.load(pipeline)
    theirs, theirs_empty, *pooled = pipeline.encode_prompt("a red house", device="cpu", **BOTH)
    condition = model.condition("a red house", guidance=2)
    assert torch.equal(condition.embeddings, theirs)
    assert torch.equal(condition.unconditional, theirs_empty)
    assert bool(pooled) == (model.family == "stable-diffusion-xl")
    for ours, other in zip(
        (condition.pooled, condition.unconditional_pooled), pooled, strict=False
    ):
        assert torch.equal(ours, other)


def test_the_model_is_used_as_it_is(pipeline):
    """What a diffusers user sees of the pipeline does not change by wrapping and sampling."""

    def picture():
        generator = torch.Generator().manual_seed(3)
        return pipeline(
            "a house", num_inference_steps=2, generator=generator, output_type="np"
        ).images

    before = picture()
    model = ep.load(pipeline)
    list(sample(model, model.condition("a car"), steps=2, seed=0, height=128, width=128))
    assert (picture() == before).all()


def test_encoding_and_decoding_scale_as_the_pipeline_does(pipeline):
    model = ep.load(pipeline)
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mean = pipeline.vae.encode(picture * 2 - 1).latent_dist.mean
        decoded = pipeline.vae.decode(mean).sample / 2 + 0.5
    encoded = model.encode(picture)
    torch.testing.assert_close(encoded, mean * pipeline.vae.config.scaling_factor)
    torch.testing.assert_close(model.decode(encoded), decoded, rtol=1e-4, atol=1e-5)


def tiny_autoencoder(levels):
    torch.manual_seed(5)
    return AutoencoderTiny(
        encoder_block_out_channels=(8,) * levels,
        decoder_block_out_channels=(8,) * levels,
        num_encoder_blocks=(1,) * levels,
        num_decoder_blocks=(1,) * levels,
    )


def test_a_tiny_autoencoder_decodes_and_the_own_one_encodes(pipeline, tmp_path):
    levels = len(pipeline.vae.config.block_out_channels)
    tiny = tiny_autoencoder(levels)
    tiny.save_pretrained(tmp_path / "tiny")
    own, model = ep.load(pipeline), ep.load(pipeline, decoder=tmp_path / "tiny")
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    encoded = model.encode(picture)
    torch.testing.assert_close(encoded, own.encode(picture), rtol=0, atol=0)
    with torch.no_grad():
        expected = tiny.decode(encoded).sample / 2 + 0.5
    torch.testing.assert_close(model.decode(encoded), expected)
    assert not torch.allclose(model.decode(encoded), own.decode(encoded), atol=0.01)
    assert model.parts["decoder"] is model.decoder
    assert "decoder" not in own.parts
    tiny_autoencoder(levels + 1).save_pretrained(tmp_path / "other")
    with pytest.raises(ModelError, match=f"{2**levels} times smaller than images; the model's"):
        ep.load(pipeline, decoder=tmp_path / "other")
    with pytest.raises(ModelError, match=r"(?s)cannot load the decoder .*taesd"):
        ep.load(pipeline, decoder=tmp_path / "none")


def test_a_pipeline_may_have_a_tiny_autoencoder_of_its_own():
    pipeline = tiny_playground()
    pipeline.vae = tiny_autoencoder(3)
    model = ep.load(pipeline)
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = pipeline.vae.encode(picture * 2 - 1).latents
    torch.testing.assert_close(model.encode(picture), expected)
    assert model.decode(model.encode(picture)).shape == picture.shape


def test_a_folder_of_mixed_dtypes_loads_in_one(tmp_path):
    pipeline = tiny_playground()
    pipeline.unet.half()
    pipeline.text_encoder.half()
    pipeline.save_pretrained(tmp_path)
    model = ep.load(tmp_path)
    for part in (model.unet, model.vae, model.text.encoder):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    half = ep.load(tmp_path, dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    eps = half.predict(latents(half), 281, half.condition("a house"))
    assert eps.dtype == torch.float32
    assert torch.isfinite(eps).all()


def test_a_long_prompt_says_what_was_cut():
    model = ep.load(tiny_playground())
    fitting = model.pipeline.tokenizer.model_max_length - 2
    words = " ".join(["house"] * fitting + ["car", "tree"])
    with pytest.warns(UserWarning, match="cut: 'car tree'"):
        long = model.condition(words)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = model.condition(" ".join(["house"] * fitting))
    assert torch.equal(long.embeddings, whole.embeddings)


def test_guidance_below_one_is_refused():
    with pytest.raises(InputError, match=r"guidance is 0\.5"):
        ep.load(tiny_playground()).condition("a house", guidance=0.5)


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere", "/nowhere/at/all", ""])
def test_an_unknown_model_is_named(name):
    with pytest.raises(ModelError, match="playground"):
        ep.load(name)


def test_a_folder_without_a_pipeline_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no model_index\.json"):
        ep.load(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ModelError, match="no unet or transformer"):
        ep.load(tmp_path)


@pytest.mark.parametrize("part", ["unet", "scheduler", "tokenizer", "payload", "_class_name"])
def test_code_that_comes_with_a_model_is_not_run(tiny_folder, tmp_path, monkeypatch, part):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    payload = "from pathlib import Path; Path('ran').touch()\nclass Payload: pass\n"
    for place in (tmp_path, folder):
        (place / "payload.py").write_text(payload)
    index = json.loads((folder / "model_index.json").read_text())
    index[part] = ["payload", "Payload"]
    (folder / "model_index.json").write_text(json.dumps(index))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=f"names code for '{part}'"):
        ep.load(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "option",
    [{"trust_remote_code": True}, {"custom_pipeline": "payload"}, {"use_safetensors": False}],
)
def test_options_that_run_what_comes_with_a_model_are_refused(tiny_folder, option):
    with pytest.raises(ModelError, match="can run code that comes with a model"):
        ep.load(tiny_folder, **option)
    ep.load(tiny_folder, trust_remote_code=False)


def test_pickled_weights_are_not_read(tiny_folder, tmp_path):
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    weights = folder / "unet/diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    assert ep.load(folder).name
    weights.unlink()
    with pytest.raises(ModelError, match="cannot load"):
        ep.load(folder)


@pytest.mark.parametrize("version", ["v1", "xl"])
def test_one_file_gives_the_model_that_was_saved(version, tmp_path):
    pipeline = stable_diffusion_xl() if version == "xl" else stable_diffusion(version)
    # What is no weight comes from a folder; other weights there must not matter.
    other = stable_diffusion_xl(1) if version == "xl" else stable_diffusion(version, 1)
    other.save_pretrained(tmp_path / "other")
    file = tmp_path / "model.safetensors"
    save_as_one_file(pipeline, file)
    model, original = ep.load(file, config=str(tmp_path / "other")), ep.load(pipeline)
    assert model.family == original.family
    assert model.weights == original.weights != ep.load(other).weights
    assert_same_weights(model, original)
    x = latents(model)
    for guidance in (1, 3):
        ours, theirs = (m.condition("a red house", guidance=guidance) for m in (model, original))
        assert_close(model.predict(x, 281, ours), original.predict(x, 281, theirs))
    assert_close(model.decode(x), original.decode(x))
    assert_close(model.encode(model.decode(x)), original.encode(original.decode(x)))


def test_files_that_are_no_model_are_refused(tmp_path):
    lora = tmp_path / "lora.safetensors"
    save_file({"unet.down_blocks.0.lora_A.weight": torch.zeros(1)}, lora)
    with pytest.raises(ModelError, match=r"not a whole model.*unet\.down_blocks.*LoRA"):
        ep.load(lora)
    lora.write_bytes(b"nothing of the kind")
    with pytest.raises(ModelError, match=r"cannot load .*lora"):
        ep.load(lora)
    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"")
    with pytest.raises(ModelError, match=r"not a \.safetensors file.*can run code"):
        ep.load(pickled)
    with pytest.raises(ModelError, match=r"no model .*missing\.safetensors"):
        ep.load(tmp_path / "missing.safetensors")


def test_a_dtype_that_is_none_is_refused(folder):
    with pytest.raises(ModelError, match="float16"):
        ep.load(folder, dtype="int8")
    with pytest.raises(ModelError, match="'float64'; choose"):
        ep.load(folder, dtype=torch.float64)


def test_a_dtype_of_torch_serves_as_its_name_does(folder):
    assert ep.load(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert ep.load(folder).dtype == torch.float32


def test_xl_reads_no_prompt_as_zeros():
    pipeline = stable_diffusion_xl()
    model = ep.load(pipeline)
    nothing, empty = model.condition("", guidance=2), model.condition("")
    assert not nothing.unconditional.any()
    assert torch.equal(empty.embeddings, nothing.unconditional)
    assert torch.equal(empty.pooled, nothing.unconditional_pooled)
    x = latents(model)
    torch.testing.assert_close(model.predict(x, 281, nothing), model.predict(x, 281, empty))
    pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    model = ep.load(pipeline)
    theirs = pipeline.encode_prompt("", device="cpu", **BOTH, negative_prompt="")
    assert torch.equal(model.condition("").embeddings, theirs[1])
    assert model.condition("").embeddings.any()


def test_xl_is_told_the_pictures_size():
    model = ep.load(stable_diffusion_xl())
    seen = []
    embed = model.unet.add_time_proj.register_forward_pre_hook(lambda _, given: seen.append(given))
    shape = model.latent_shape(64, 128)
    model.predict(torch.zeros(shape), 281, model.condition("a house", guidance=2))
    embed.remove()
    assert seen[0][0].tolist() == [64, 128, 0, 0, 64, 128] * 2


def test_xls_autoencoder_is_widened_while_it_works():
    pipeline = stable_diffusion_xl()
    pipeline.vae.half()
    model = ep.load(pipeline)
    seen = []
    hook = pipeline.vae.decoder.register_forward_pre_hook(lambda _, x: seen.append(x[0].dtype))
    decoded = model.decode(latents(model))
    assert seen == [torch.float32]
    assert next(pipeline.vae.parameters()).dtype == torch.float16
    pipeline.vae.config.force_upcast = False
    torch.testing.assert_close(decoded, model.decode(latents(model)), atol=1e-2, rtol=1e-2)
    assert seen == [torch.float32, torch.float16]
    hook.remove()


def test_what_is_loaded_but_cannot_be_used_is_said():
    whole = stable_diffusion("v1")
    control = ControlNetModel.from_unet(whole.unet)
    parts = {**whole.components, "controlnet": control, "requires_safety_checker": False}
    with pytest.warns(UserWarning, match=r"without its ControlNet.*ep\.probe"):
        model = ep.load(StableDiffusionControlNetPipeline(**parts))
    x = latents(model)
    plainly = ep.load(whole)
    theirs = plainly.predict(x, 281, plainly.condition(""))
    assert torch.equal(model.predict(x, 281, model.condition("")), theirs)
    parts.pop("controlnet")
    i2i = ep.load(StableDiffusionImg2ImgPipeline(**parts))
    assert torch.equal(i2i.predict(x, 281, i2i.condition("")), theirs)
    whole.unet.encoder_hid_proj = torch.nn.Identity()
    with pytest.raises(ModelError, match="unload_ip_adapter"):
        ep.load(whole)


def test_an_offloaded_pipeline_is_used_where_it_runs(monkeypatch):
    whole = tiny_playground()
    x, plainly = latents(ep.load(whole)), ep.load(whole)
    theirs = plainly.predict(x, 281, plainly.condition(""))
    for part in (whole.unet, whole.vae, whole.text_encoder):
        accelerate.cpu_offload(part, execution_device=torch.device("cpu"))
    assert next(whole.unet.parameters()).is_meta
    model = ep.load(whole)
    assert model.device == torch.device("cpu")
    assert torch.equal(model.predict(x, 281, model.condition("")), theirs)
    with pytest.raises(ModelError, match="enable_model_cpu_offload"):
        _ = model.weights


def test_a_compiled_unet_has_the_same_weights():
    whole = tiny_playground()
    weights = ep.load(whole).weights
    whole.unet = torch.compile(whole.unet, backend="eager")
    assert ep.load(whole).weights == weights


def test_layouts_that_are_not_known_are_refused():
    whole = tiny_playground()
    other = copy.copy(whole)
    other.text_encoder_3 = whole.text_encoder
    with pytest.raises(ModelError, match="three text encoders"):
        ep.load(other)
    with pytest.raises(ModelError, match="has no unet"):
        ep.load(object())
