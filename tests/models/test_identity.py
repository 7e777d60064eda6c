"""A model's identity names what decides its answers, and looks without leaving a trace."""

import copy
import json

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.errors import CaptureError, ModelError
from emerdiff_probe.interventions import attention_kept
from emerdiff_probe.models.active import active
from emerdiff_probe.models.identity import identity
from emerdiff_probe.store import model_differences
from tests.adapters import Lora
from tests.checkpoints import stable_diffusion, stable_diffusion_xl

LAYER = "up_blocks.1.attentions.0.transformer_blocks.0"
QUERY = f"{LAYER}.attn2.to_q"


@pytest.fixture(scope="module")
def pristine():
    return stable_diffusion("v1")


@pytest.fixture
def model(pristine):
    return ep.load(copy.deepcopy(pristine))


def changed(model, before):
    """Names of what differs since `before`."""
    return [line.partition(":")[0] for line in model_differences(before, identity(model))]


def test_it_is_plain_data_and_the_same_for_equal_models(model, pristine):
    found = identity(model)
    assert json.loads(json.dumps(found)) == found
    assert found == identity(model)
    again = identity(ep.load(copy.deepcopy(pristine)))
    assert model_differences(found, again) == []
    assert set(found["weights"]) == {"unet", "text_encoder", "vae"}
    assert found["weights"]["unet"] == model.weights
    assert found["schedule"]["prediction"] == "epsilon"
    assert set(found["answers"]) == {"condition", "predict", "encode", "decode"}
    other = identity(ep.load(stable_diffusion("v1", seed=1)))
    assert {line.partition(":")[0] for line in model_differences(found, other)} == {
        *(f"weights.{part}" for part in found["weights"]),
        *(f"answers.{part}" for part in found["answers"]),
    }


def test_xl_has_both_text_encoders():
    model = ep.load(stable_diffusion_xl())
    before = identity(model)
    assert set(before["weights"]) == {"unet", "text_encoder", "text_encoder_2", "vae"}
    model.pipeline.text_encoder_2.text_projection.weight.data.mul_(2)
    assert changed(model, before) == [
        "answers.condition",
        "answers.predict",
        "weights.text_encoder_2",
    ]


@pytest.mark.parametrize("part", ["unet", "text_encoder", "vae"])
def test_weights_changed_in_place_are_seen_at_once(model, part):
    before = identity(model)
    last = list(model.parts[part].parameters())[-1]
    kept, version = last.detach().clone(), last._version
    # Too little to show in an answer, and past PyTorch's count of versions.
    last.data.add_(torch.finfo(torch.float32).eps)
    assert last._version == version
    assert changed(model, before) == [f"weights.{part}"]
    with torch.no_grad():
        last.copy_(kept)
    assert identity(model) == before


def test_adapters_are_named_with_their_strength(model):
    attention = model.unet.get_submodule(f"{LAYER}.attn2")
    before = identity(model)
    lora = attention.to_q = Lora(attention.to_q, scale=0.5)
    loaded = identity(model)
    assert loaded["weights"] == before["weights"]
    assert loaded["adapters"]["unet"]["style"]["scale"] == [0.5]
    assert changed(model, before) == [
        "adapters.unet.style.scale",
        "adapters.unet.style.weights",
        "answers.predict",
    ]
    lora.scaling["style"] = 0.501
    assert changed(model, loaded) == ["adapters.unet.style.scale"]
    lora.scaling["style"] = 0.5
    lora.lora_B["style"].weight.data.add_(1e-7)
    assert changed(model, loaded) == ["adapters.unet.style.weights"]
    # One that is switched off changes nothing.
    lora.disable_adapters = True
    assert changed(model, before) == []
    # One that is fused is in the weights.
    lora.disable_adapters, lora.merged_adapters = False, ["style"]
    lora.base_layer.weight.data += lora.lora_B["style"].weight @ lora.lora_A["style"].weight
    assert changed(model, before) == ["answers.predict", "weights.unet"]


def test_freeu_tiling_and_processors_are_named(model):
    before = identity(model)
    model.pipeline.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert changed(model, before) == [
        "answers.predict",
        "freeu.b1",
        "freeu.b2",
        "freeu.s1",
        "freeu.s2",
    ]
    model.pipeline.disable_freeu()
    model.vae.enable_tiling()
    assert changed(model, before) == ["tiling"]
    model.vae.disable_tiling()
    model.pipeline.enable_attention_slicing()
    assert changed(model, before) == []

    class Halved:
        def __init__(self, inner):
            self.factor, self._inner = 0.5, inner

        def __call__(self, *arguments, **named):
            return self.factor * self._inner(*arguments, **named)

    attention = model.unet.get_submodule(f"{LAYER}.attn2")
    attention.processor = Halved(attention.processor)
    assert changed(model, before) == ["answers.predict", "attention.Halved(factor=0.5)"]


def test_what_no_list_names_shows_in_the_answers(model):
    before = identity(model)
    hook = model.unet.mid_block.register_forward_hook(lambda *given: given[-1] * 2)
    assert changed(model, before) == ["answers.predict"]
    hook.remove()
    model.vae.register_to_config(scaling_factor=0.2)
    assert changed(model, before) == ["answers.decode", "answers.encode"]


def test_interventions_are_named_with_all_that_decides_them(model):
    before = identity(model)
    mask = np.eye(4)
    with ep.intervene(model, [ep.Shift(f"{LAYER}.attn2:out", 3.0, mask=mask, timesteps=[281])]):
        shifted = identity(model)
        (text,) = shifted["interventions"]
        assert text.startswith(
            f"Shift(site='{LAYER}.attn2:out', timesteps=[281], mask=<array 4 x 4"
        )
        assert text.endswith("strength=3.0)")
        assert model_differences(before, shifted) == [f"interventions: stored [], now [{text!r}]"]
    assert identity(model) == before
    # Equal ones are equal, whatever holds their numbers.
    equal = ep.Shift(
        f"{LAYER}.attn2:out", np.float64(3), mask=torch.eye(4).double(), timesteps=(np.int64(281),)
    )
    with ep.intervene(model, [equal]):
        assert identity(model) == shifted
    for other in (
        ep.Shift(f"{LAYER}.attn2:out", 3.0, mask=mask[::-1].copy(), timesteps=[281]),
        ep.Shift(f"{LAYER}.attn2:out", 3.0, mask=mask, timesteps=[281, 261]),
        ep.Shift(f"{LAYER}.attn2:out", 3.0, mask=mask, timesteps=[281], samples={0}),
    ):
        with ep.intervene(model, [other]):
            assert changed(model, shifted) == ["interventions"]


def test_injected_attention_is_named_by_what_is_injected(model):
    texts = []
    for seed in (0, 0, 1):
        generator = torch.Generator().manual_seed(seed)
        latents = torch.randn(model.latent_shape(64, 64), generator=generator)
        with attention_kept(model) as products:
            model.predict(latents, 281, model.condition(""))
        with ep.intervene(model, [ep.InjectAttention(products)]):
            assert identity(model)["answers"] == identity(model)["answers"]
            texts += active(model.unet)
    assert texts[0] == texts[1] != texts[2]
    assert len(texts[0]) < 200


def test_looking_counts_as_no_call(model):
    before = identity(model)
    site = f"{LAYER}.attn2:out"
    latents, empty = torch.zeros(model.latent_shape(128, 128)), model.condition("")
    # Its mask fits no small picture, and it would take effect at every timestep but that of a call.
    others = sorted(set(range(1000)) - {1})
    idle = ep.intervene(model, [ep.Ablate(site, mask=np.ones((4, 4)), timesteps=others)])
    idle.__enter__()
    assert identity(model)["answers"] == before["answers"]
    model.predict(latents, 1, empty)
    with pytest.raises(CaptureError, match="never took effect"):
        idle.__exit__(None, None, None)
    with ep.probe(model, site) as recorder:
        identity(model)
        assert recorder.runs == []
        model.predict(latents, 1, empty)
        identity(model)
    assert recorder.tree.sizes["timestep"] == 1
    with ep.probe(model.pipeline, site) as recorder:
        with ep.intervene(model, [ep.Ablate(site)]):
            model.pipeline("a red house", num_inference_steps=2, output_type="latent")
        about = json.loads(recorder.tree.attrs["model"])
    assert about["interventions"] == [f"Ablate(site='{site}', how='zero')"]
    assert about["weights"]["unet"] == model.weights


def test_looking_draws_no_global_random_numbers(model):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    identity(model)
    assert torch.equal(torch.rand(2), expected)


def test_a_scheduler_that_is_set_after_loading_counts(model):
    """The model answers as its pipeline does, and is another one then."""
    before, eps = identity(model), model.schedule.to_noise
    pipeline, x = model.pipeline, torch.ones(1, 4, 8, 8)
    kind = type(pipeline.scheduler)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, beta_end=0.02)
    assert model.schedule.alpha_bar.equal(
        pipeline.scheduler.alphas_cumprod.double().clamp(min=2.0**-24)
    )
    assert "schedule.alpha_bar" in changed(model, before)
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, prediction_type="v_prediction")
    assert "schedule.prediction" in changed(model, before)
    assert not torch.equal(model.schedule.to_noise(x, x, 500), eps(x, x, 500))


@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder"])
def test_a_part_that_is_replaced_after_loading_is_noticed(pristine, name):
    model = ep.load(copy.deepcopy(pristine))
    part = getattr(model.pipeline, name)
    setattr(model.pipeline, name, torch.compile(part))
    assert identity(model)["weights"]["unet"] == model.weights, "it is the same part"
    setattr(model.pipeline, name, copy.deepcopy(part))
    with pytest.raises(ModelError, match=rf"another {name} after it was loaded.*ep\.load\(pipe"):
        ep.generate(model, "a tree", steps=2, progress=False)
    assert identity(ep.load(model.pipeline))["weights"]["unet"] == model.weights
