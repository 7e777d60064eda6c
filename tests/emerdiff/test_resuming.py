"""No store is continued, or handed back, under a model that answers otherwise."""

import copy
import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.scenes import scene
from tests.adapters import Lora
from tests.checkpoints import stable_diffusion

CONFIG = ep.EmerDiffConfig.closest_to_paper().replace(
    steps=10, feature_timestep=1, modulation_timestep=101
)
PHOTO = ep.Photo(scene(1_000_002).image)
LAYER = "up_blocks.1.attentions.0.transformer_blocks.0"
QUIET = {"progress": False}

CALLS = {
    "recording": lambda model, store: ep.record(
        model, ep.Prompt("a red house", 1), "mid_block", steps=4, store=store, **QUIET
    ),
    "responses": lambda model, store: ep.respond(
        model, PHOTO, 2, engine="jump", config=CONFIG, store=store, **QUIET
    ),
    "sweep": lambda model, store: ep.invert(model, PHOTO, steps=10, **QUIET).sweep(
        2, sigma=[0.0], engine="jump", config=CONFIG, store=store, **QUIET
    ),
}


@contextmanager
def intervention(model):
    with ep.intervene(model, [ep.Ablate("mid_block", timesteps=[1])]):
        yield model


@contextmanager
def lora_loaded_later(model):
    attention = model.unet.get_submodule(f"{LAYER}.attn2")
    attention.to_q = Lora(attention.to_q)
    yield model


@contextmanager
def text_encoder(model):
    model.pipeline.text_encoder.load_state_dict(
        stable_diffusion("v1", seed=1).text_encoder.state_dict()
    )
    yield model


@contextmanager
def autoencoder(model):
    model.vae.load_state_dict(stable_diffusion("v1", seed=1).vae.state_dict())
    yield model


@contextmanager
def schedule(model):
    kind, config = type(model.pipeline.scheduler), model.pipeline.scheduler.config
    model.pipeline.scheduler = kind.from_config(config, beta_end=0.02)
    yield ep.load(model.pipeline)


@contextmanager
def prediction(model):
    kind, config = type(model.pipeline.scheduler), model.pipeline.scheduler.config
    model.pipeline.scheduler = kind.from_config(config, prediction_type="v_prediction")
    yield ep.load(model.pipeline)


@contextmanager
def freeu(model):
    model.pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    yield model


@contextmanager
def weights_in_place(model):
    with torch.no_grad():
        model.unet.conv_in.bias.mul_(1.001)
    yield model


@contextmanager
def weights_through_data(model):
    model.unet.conv_in.bias.data.mul_(1.001)
    yield model


@contextmanager
def own_hook(model):
    model.unet.mid_block.register_forward_hook(lambda *given: 2 * given[-1])
    yield model


CHANGES = {
    intervention: r"interventions: stored \[\], now \[\"Ablate\(site='mid_block'",
    lora_loaded_later: r"adapters.unet.style.scale: stored None, now \[1.0\]",
    text_encoder: r"weights.text_encoder: stored '\w+', now '\w+'",
    autoencoder: r"weights.vae: stored '\w+', now '\w+'",
    schedule: r"schedule.alpha_bar: stored \[.*\], now \[.*\]",
    prediction: "schedule.prediction: stored 'epsilon', now 'v_prediction'",
    freeu: "freeu.s1: stored None, now 0.9",
    weights_in_place: r"weights.unet: stored '\w+', now '\w+'",
    weights_through_data: r"weights.unet: stored '\w+', now '\w+'",
    own_hook: r"answers.predict: stored \[.*\], now \[.*\]: .* apart",
}


@pytest.fixture(scope="module")
def pristine():
    return stable_diffusion("v1")


@pytest.fixture
def model(pristine):
    return ep.load(copy.deepcopy(pristine))


@pytest.fixture(scope="module")
def stores(pristine, tmp_path_factory):
    """A store of each kind, with what was handed back when it was made."""
    folder, model = tmp_path_factory.mktemp("stores"), ep.load(copy.deepcopy(pristine))
    return {
        kind: (folder / kind, values(kind, call(model, folder / kind)))
        for kind, call in CALLS.items()
    }


def values(kind, found):
    names = {"recording": "mid_block", "responses": "response", "sweep": "difference"}
    array = ep.site(found, names[kind]) if kind == "recording" else found[names[kind]]
    return np.array(array.values)


@pytest.mark.parametrize("kind", CALLS)
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_between_two_calls_is_refused_by_name(model, stores, change, kind):
    path, made = stores[kind]
    with (
        change(model) as other,
        pytest.raises(ConfigError, match=f"begun with another model:(?s:.*){CHANGES[change]}") as e,
    ):
        CALLS[kind](other, path)
    assert f"choose another store, or delete '{path}' to overwrite it" in str(e.value)
    assert np.isfinite(made).all()


@pytest.mark.parametrize("kind", CALLS)
def test_the_same_model_gets_the_same_values_back(model, stores, kind, tmp_path):
    path, made = stores[kind]
    assert np.array_equal(values(kind, CALLS[kind](model, path)), made)
    # Committed chunks that are lost are computed again, to the last bit.
    name = {"recording": "mid_block/out/value", "responses": "response", "sweep": "difference"}
    chunk = sorted((path / name[kind]).glob("c.*"))[0]
    chunk.unlink()
    if kind == "recording":
        for mark in (path / "restart/value").glob("c.*"):
            mark.unlink()
    assert np.array_equal(values(kind, CALLS[kind](model, path)), made)


@pytest.mark.parametrize("kind", CALLS)
def test_a_run_under_an_intervention_resumes_under_an_equal_one(model, kind, tmp_path):
    def shifted(strength):
        return ep.intervene(model, [ep.Shift("mid_block", strength, mask=np.ones((2, 2)))])

    with shifted(3.0):
        made = values(kind, CALLS[kind](model, tmp_path / "a"))
    with shifted(3.0):
        assert np.array_equal(values(kind, CALLS[kind](model, tmp_path / "a")), made)
    with shifted(4.0), pytest.raises(ConfigError, match=r"strength=3\.0.*strength=4\.0"):
        CALLS[kind](model, tmp_path / "a")
    with pytest.raises(ConfigError, match=r"interventions: stored \[.Shift.*now \[\]"):
        CALLS[kind](model, tmp_path / "a")


def test_strength_of_a_lora_is_the_models_own(model, tmp_path):
    attention = model.unet.get_submodule(f"{LAYER}.attn2")
    lora = attention.to_q = Lora(attention.to_q, scale=1.0)
    CALLS["recording"](model, tmp_path / "a")
    lora.scaling["style"] = 0.5
    with pytest.raises(ConfigError, match=r"style.scale: stored \[1.0\], now \[0.5\]"):
        CALLS["recording"](model, tmp_path / "a")
    lora.scaling["style"] = 1.0
    CALLS["recording"](model, tmp_path / "a")


def test_provenance_names_the_weights_that_were_used(model, tmp_path):
    before = ep.segment(model, PHOTO, masks=2, engine="jump", config=CONFIG, **QUIET)
    assert before.attrs["weights"] == model.weights
    model.unet.conv_in.bias.data.add_(1.0)
    after = ep.segment(model, PHOTO, masks=2, engine="jump", config=CONFIG, **QUIET)
    assert after.attrs["weights"] == model.weights != before.attrs["weights"]
    tree = CALLS["recording"](model, tmp_path / "a")
    assert json.loads(tree.attrs["model"])["weights"]["unet"] == model.weights
    for kind in ("responses", "sweep"):
        found = CALLS[kind](model, tmp_path / kind)
        assert found.attrs["weights"] == model.weights
        assert json.loads(found.attrs["model_description"])["weights"]["unet"] == model.weights
