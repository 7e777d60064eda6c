"""The bundled weights: a Stable Diffusion pipeline like any other, small, and truly trained."""

import json

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

import emerdiff_probe as ep
from emerdiff_probe import playground
from emerdiff_probe.interventions import products_captured
from emerdiff_probe.scenes import CAPTION_WORDS, VALIDATION, scene


@pytest.fixture(scope="module")
def model():
    return ep.load()


def test_diffusers_loads_it_with_no_other_argument():
    pipeline = StableDiffusionPipeline.from_pretrained(playground.folder())
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.float32}
    picture = pipeline("a red house").images[0]
    assert picture.size == (128, 128)
    assert np.asarray(picture).std() > 20


def test_it_is_small_enough_for_the_wheel():
    files = [path for path in playground.folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 32e6


def test_its_training_is_on_record():
    record = json.loads((playground.folder() / "training.json").read_text())
    assert record["settings"]["empty_captions"] >= 0.1


def test_every_word_of_the_captions_is_one_token(model):
    for word in CAPTION_WORDS:
        assert len(model.text.tokenizer(word).input_ids) == 3


def test_taps_leave_its_pictures_as_they_are(model):
    def picture():
        generator = torch.Generator().manual_seed(0)
        return model.pipeline(
            "a red house", num_inference_steps=10, generator=generator, output_type="np"
        ).images

    before = picture()
    with products_captured(model.unet):
        assert (picture() == before).all()
    assert (picture() == before).all()


def test_it_rebuilds_scenes_and_predicts_their_noise(model):
    """Controls: an average colour rebuilds far worse, and a constant prediction errs by 1."""
    pictures = np.stack([scene(seed).image for seed in VALIDATION[:16]])
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    x0 = model.encode(x)
    error = (model.decode(x0).clamp(0, 1) - x).square().mean((1, 2, 3))
    psnr = -10 * error.log10().mean()
    constant = -10 * (x - x.mean((2, 3), keepdim=True)).square().mean((1, 2, 3)).log10().mean()
    assert psnr > 26
    assert psnr > constant + 8
    assert 0.8 < x0.std() < 1.25
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    for timestep, most in ((281, 0.6), (601, 0.3), (901, 0.1)):
        noisy = model.schedule.add_noise(x0, noise, timestep)
        eps = model.predict(noisy, timestep, model.condition(""))
        assert (eps - noise).square().mean() < most


def test_captions_matter(model):
    """The noise of a scene is predicted better with its caption than with another's."""
    gains = []
    for seed in VALIDATION[100:132]:
        subject, other = scene(seed), scene(seed + 32)
        x = torch.from_numpy(subject.image).permute(2, 0, 1)[None].float() / 255
        x0 = model.encode(x)
        generator = torch.Generator().manual_seed(seed)
        for timestep in (501, 701, 901):
            noise = torch.randn(x0.shape, generator=generator)
            noisy = model.schedule.add_noise(x0, noise, timestep)
            own, wrong = (
                (model.predict(noisy, timestep, model.condition(text)) - noise).square().mean()
                for text in (subject.caption, other.caption)
            )
            gains.append(float(wrong - own))
    assert np.mean(gains) > 2 * np.std(gains) / len(gains) ** 0.5
