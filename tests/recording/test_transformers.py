"""Probes and interventions in transformers: both streams, as plain hooks see them."""

from typing import Any

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.errors import CaptureError, ConfigError, ModelError, SiteError
from tests.families import FAMILIES, flux, stable_diffusion_3

BLOCK = "transformer_blocks.1"


def call(family: str, pipeline: Any, **options: Any) -> Any:
    """Draws a picture that is not square, so that rows and columns cannot be mistaken."""
    further = {"use_resolution_binning": False} if family == "pixart" else {}
    named = {
        "height": 64,
        "width": 96,
        "num_inference_steps": 2,
        "max_sequence_length": 12,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "np",
        **further,
        **options,
    }
    return pipeline("a red house", **named).images


@pytest.fixture(scope="module", params=FAMILIES)
def drawn(request):
    family = request.param
    pipeline = FAMILIES[family]()
    return family, pipeline, call(family, pipeline)


def hooked(pipeline: Any, family: str, path: str) -> list[Any]:
    """What a module gives in each call, by a plain hook."""
    seen: list[Any] = []
    module = pipeline.transformer.get_submodule(path)
    handle = module.register_forward_hook(lambda _m, _i, output: seen.append(output))
    call(family, pipeline)
    handle.remove()
    return seen


IMAGE_AT = {
    ("pixart", BLOCK): None,
    ("stable-diffusion-3", BLOCK): 1,
    ("stable-diffusion-3", f"{BLOCK}.attn"): 0,
    ("flux", BLOCK): 1,
    ("flux", "single_transformer_blocks.1"): 1,
    ("flux", f"{BLOCK}.attn"): 0,
}


def test_a_picture_is_the_same_with_probes_on_everything(drawn):
    family, pipeline, picture = drawn
    with ep.probe(pipeline, "*"):
        assert np.array_equal(call(family, pipeline), picture)
    assert np.array_equal(call(family, pipeline), picture)


def test_recordings_are_what_plain_hooks_see(drawn):
    family, pipeline, _ = drawn
    places = {path: at for (of, path), at in IMAGE_AT.items() if of == family}
    texts = [f"{path}:text" for path, at in places.items() if at is not None]
    with ep.probe(pipeline, [*places, *texts], dtype="float32") as recorder:
        call(family, pipeline)
    for path, at in places.items():
        seen = hooked(pipeline, family, path)
        image = ep.site(recorder.tree, path)
        assert image.dims[-3:] == ("y", "x", "channel")
        assert image.sizes["y"] == 4
        assert image.sizes["x"] == 6
        assert image["x"].values[-1] == 88
        for step, output in enumerate(seen):
            own = output if at is None else output[at]
            found = image.isel(timestep=step).values.reshape(own.shape)
            assert np.array_equal(found, own.numpy())
        if at is not None:
            text = ep.site(recorder.tree, f"{path}:text")
            assert text.dims[-2:] == ("token", "channel")
            for step, output in enumerate(seen):
                own = output[1 - at]
                found = text.isel(timestep=step).values.reshape(own.shape)
                assert np.array_equal(found, own.numpy())


def test_streams_that_lie_in_one_tensor_are_told_apart():
    pipeline, path = flux(), "single_transformer_blocks.0.attn"
    seen = hooked(pipeline, "flux", path)
    with ep.probe(pipeline, [path, f"{path}:text"], dtype="float32") as recorder:
        call("flux", pipeline)
    image = ep.site(recorder.tree, path).isel(timestep=0).values.reshape(1, 24, -1)
    text = ep.site(recorder.tree, f"{path}:text").isel(timestep=0).values
    assert np.array_equal(np.concatenate([text, image], axis=1), seen[0].numpy())
    scaled = hooked_under(pipeline, path, ep.Scale(path, 0.5))
    assert torch.equal(scaled[:, :12], seen[0][:, :12])
    assert torch.equal(scaled[:, 12:], seen[0][:, 12:] * 0.5)
    scaled = hooked_under(pipeline, path, ep.Scale(f"{path}:text", 0.5))
    assert torch.equal(scaled[:, :12], seen[0][:, :12] * 0.5)
    assert torch.equal(scaled[:, 12:], seen[0][:, 12:])


def hooked_under(pipeline: Any, path: str, edit: Any) -> Any:
    """What a module gives in the first call under an intervention."""
    with ep.intervene(pipeline, edit):
        return hooked(pipeline, "flux", path)[0]


def test_rows_guidance_and_timesteps_are_labelled(drawn):
    family, pipeline, _ = drawn
    with ep.probe(pipeline, BLOCK) as recorder:
        call(family, pipeline)
    tree = recorder.tree
    assert tree.sizes["sample"] == 1
    guided = [] if family == "flux" else ["uncond", "cond"]
    assert tree.coords["guidance"].values.tolist() == guided if guided else True
    assert np.allclose(tree["timestep"].values, pipeline.scheduler.timesteps.numpy(), atol=1e-3)
    assert len(set(tree["timestep"].values.tolist())) == 2
    channels = 4 if family == "pixart" else 16
    assert tree["latents"]["value"].shape[-3:] == (8, 12, channels)
    assert tree.coords["prompt"].values.tolist() == ["a red house"]


def test_fractional_timesteps_stay_fractions():
    pipeline = flux()
    with ep.probe(pipeline, BLOCK) as recorder:
        call("flux", pipeline, num_inference_steps=4)
    seen = recorder.tree["timestep"].values
    assert np.allclose(seen, pipeline.scheduler.timesteps.numpy(), atol=1e-3)
    third = float(seen[2])
    assert not third.is_integer()
    with ep.intervene(pipeline, ep.Scale(BLOCK, 0.5, timesteps=[third])):
        call("flux", pipeline, num_inference_steps=4)
    with (
        pytest.raises(CaptureError, match="never took effect"),
        ep.intervene(pipeline, ep.Scale(BLOCK, 0.5, timesteps=[int(third)])),
    ):
        call("flux", pipeline, num_inference_steps=4)


def test_guidance_by_two_calls_is_labelled_as_guidance():
    pipeline = flux()
    with ep.probe(pipeline, [BLOCK, f"{BLOCK}:text"], dtype="float32") as recorder:
        call("flux", pipeline, negative_prompt="a tree", true_cfg_scale=3.0)
    tree = recorder.tree
    assert tree.coords["guidance"].values.tolist() == ["uncond", "cond"]
    assert tree.sizes["sample"] == 1
    text = ep.site(tree, f"{BLOCK}:text").isel(timestep=0, sample=0)
    with ep.probe(pipeline, f"{BLOCK}:text", dtype="float32") as recorder:
        call("flux", pipeline)
    alone = ep.site(recorder.tree, f"{BLOCK}:text").isel(timestep=0, sample=0).values
    assert np.array_equal(text.sel(guidance="cond").values, alone)
    assert not np.array_equal(text.sel(guidance="uncond").values, alone)


@pytest.mark.parametrize("stream", ["out", "text"])
@pytest.mark.parametrize("make", [flux, stable_diffusion_3])
def test_an_edit_is_of_the_stream_that_is_named(make, stream):
    pipeline = make()
    family = "flux" if make is flux else "stable-diffusion-3"
    first = "transformer_blocks.0"
    before = hooked(pipeline, family, first)[0]
    with ep.intervene(pipeline.transformer, ep.Scale(f"{first}:{stream}", 0.5)):
        text, image = hooked(pipeline, family, first)[0]
    assert torch.equal(image, before[1] * (0.5 if stream == "out" else 1))
    assert torch.equal(text, before[0] * (0.5 if stream == "text" else 1))
    # Without a port the image is meant.
    with ep.intervene(pipeline.transformer, ep.Ablate(first)):
        text, image = hooked(pipeline, family, first)[0]
    assert not image.any()
    assert torch.equal(text, before[0])


def test_own_values_put_back_change_nothing_and_others_do(drawn):
    family, pipeline, picture = drawn
    sites = [BLOCK] if family == "pixart" else [BLOCK, f"{BLOCK}:text"]
    for name in sites:
        with ep.probe(pipeline, name, dtype="float32") as recorder:
            call(family, pipeline)
        own = ep.site(recorder.tree, name)
        with ep.intervene(pipeline, ep.Replace(name, own)):
            assert np.array_equal(call(family, pipeline), picture)
        with ep.intervene(pipeline, ep.Replace(name, own + 1)):
            assert not np.array_equal(call(family, pipeline), picture)


def test_a_shift_of_a_location_moves_its_token_alone(drawn):
    family, pipeline, _ = drawn
    mask = np.zeros((4, 6), np.float32)
    mask[1, 2] = 1
    with (
        ep.intervene(pipeline, ep.Shift(BLOCK, 3.0, mask=mask)),
        ep.probe(pipeline, BLOCK, dtype="float32") as recorder,
    ):
        call(family, pipeline)
    shifted = ep.site(recorder.tree, BLOCK).isel(timestep=0).values
    with ep.probe(pipeline, BLOCK, dtype="float32") as recorder:
        call(family, pipeline)
    moved = shifted - ep.site(recorder.tree, BLOCK).isel(timestep=0).values
    assert np.allclose(moved[..., 1, 2, :], 3, atol=1e-5)
    moved[..., 1, 2, :] = 0
    assert not moved.any()


def test_what_does_not_go_together_is_refused():
    pipeline = flux()
    with pytest.raises(ConfigError, match="has tokens"):
        ep.Shift(f"{BLOCK}:text", 1.0, mask=np.ones((4, 6)))
    with (
        pytest.raises(SiteError, match="no text stream"),
        ep.intervene(pipeline, ep.Scale(f"{BLOCK}.ff:text", 0.5)),
    ):
        pass
    with (
        pytest.raises(SiteError, match=r"returns \d tensors"),
        ep.intervene(pipeline, ep.Scale(f"{BLOCK}.norm1", 0.5)),
    ):
        call("flux", pipeline)
    with pytest.raises(ModelError, match="no denoising network"), ep.probe(object()):
        pass
