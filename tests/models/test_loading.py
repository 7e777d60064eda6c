"""Loading by name, folder and object, and the agreement with diffusers' own pipeline."""

import copy
import warnings

import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError, ModelError
from emerdiff_probe.probing import sample
from tests.checkpoints import stable_diffusion, tiny_playground


@pytest.fixture(scope="module", params=["v1", "v2"])
def pipeline(request):
    return stable_diffusion(request.param)


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    pipeline.save_pretrained(path, safe_serialization=True)
    return path


def latents(model, seed=0):
    shape = model.latent_shape(model.image_size, model.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_folder_gives_the_model_that_was_saved(pipeline, folder):
    model, original = ep.load(folder), ep.load(pipeline)
    assert model.image_size == 128
    assert model.size_multiple == 64
    assert model.latent_shape(128, 192) == (1, 4, 16, 24)
    assert model.weights == original.weights
    x = latents(model)
    condition = model.condition("a red house", guidance=3)
    torch.testing.assert_close(
        model.predict(x, 281, condition),
        original.predict(x, 281, original.condition("a red house", guidance=3)),
        rtol=0,
        atol=0,
    )


def test_predictions_are_those_of_the_bare_unet(pipeline):
    model = ep.load(pipeline)
    x = latents(model)
    condition = model.condition("a red house")
    with torch.no_grad():
        output = pipeline.unet(x, 281, encoder_hidden_states=condition.embeddings).sample
    eps = model.predict(x, 281, condition)
    assert torch.equal(eps, model.schedule.to_noise(output, x, 281))
    guided = model.predict(x, 281, model.condition("a red house", guidance=4))
    empty = model.predict(x, 281, model.condition(""))
    torch.testing.assert_close(guided, empty + 4 * (eps - empty), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(guided, eps, atol=1e-3)


def test_text_is_encoded_as_the_pipeline_does(pipeline):
    model = ep.load(pipeline)
    theirs, theirs_empty = pipeline.encode_prompt("a red house", "cpu", 1, True)
    condition = model.condition("a red house", guidance=2)
    assert torch.equal(condition.embeddings, theirs)
    assert torch.equal(condition.unconditional, theirs_empty)


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


def test_a_folder_of_mixed_dtypes_loads_in_one(tmp_path):
    pipeline = tiny_playground()
    pipeline.unet.half()
    pipeline.text_encoder.half()
    pipeline.save_pretrained(tmp_path)
    model = ep.load(tmp_path)
    for part in (model.unet, model.vae, model.text_encoder):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    half = ep.load(tmp_path, dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    eps = half.predict(latents(half), 281, half.condition("a house"))
    assert eps.dtype == torch.float32
    assert torch.isfinite(eps).all()


def test_a_long_prompt_says_what_was_cut():
    model = ep.load(tiny_playground())
    words = " ".join(["house"] * 30 + ["car", "tree"])
    with pytest.warns(UserWarning, match="cut: 'car tree'"):
        long = model.condition(words)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        whole = model.condition(" ".join(["house"] * 30))
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
    with pytest.raises(ModelError, match="cannot load"):
        ep.load(tmp_path)


def test_a_dtype_that_is_none_is_refused(folder):
    with pytest.raises(ModelError, match="float16"):
        ep.load(folder, dtype="int8")


def test_layouts_that_are_not_known_are_refused():
    whole = tiny_playground()
    other = copy.copy(whole)
    other.text_encoder_2 = whole.text_encoder
    with pytest.raises(ModelError, match="XL"):
        ep.load(other)
    with pytest.raises(ModelError, match="has no unet"):
        ep.load(object())
