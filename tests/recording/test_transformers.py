"""Probes and interventions in transformers: both streams, as plain hooks see them."""

from typing import Any

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.errors import CaptureError, ConfigError, ModelError, SiteError
from tests.families import PROBED, draw, flux, stable_diffusion_3

BLOCK = "transformer_blocks.1"


BLOCKS = {"auraflow": "joint_transformer_blocks.1"}
"""Blocks in the place of `BLOCK`."""

GRIDS = {"dit": (4, 4)}
"""Rows and columns of tokens, elsewhere 4 x 6: not square, so that they cannot be mistaken."""

WITHOUT_TEXT = {"pixart", "dit", "sana"}
"""Families whose blocks have the image alone."""


def call(family: str, pipeline: Any, **options: Any) -> Any:
    return draw(pipeline, **options)


@pytest.fixture(scope="module", params=PROBED)
def drawn(request):
    family = request.param
    pipeline = PROBED[family]()
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
    ("auraflow", "joint_transformer_blocks.1"): 1,
    ("auraflow", "joint_transformer_blocks.1.attn"): 0,
    ("dit", BLOCK): None,
    ("dit", f"{BLOCK}.attn1"): None,
    ("sana", BLOCK): None,
    ("sana", f"{BLOCK}.attn1"): None,
}


def test_a_picture_is_the_same_with_probes_on_everything(drawn):
    family, pipeline, picture = drawn
    with ep.probe(pipeline, "*"):
        assert np.array_equal(call(family, pipeline), picture)
    assert np.array_equal(call(family, pipeline), picture)


def test_recordings_are_what_plain_hooks_see(drawn):
    family, pipeline, _ = drawn
    rows, columns = GRIDS.get(family, (4, 6))
    places = {path: at for (of, path), at in IMAGE_AT.items() if of == family}
    texts = [f"{path}:text" for path, at in places.items() if at is not None]
    with ep.probe(pipeline, [*places, *texts], dtype="float32") as recorder:
        call(family, pipeline)
    for path, at in places.items():
        seen = hooked(pipeline, family, path)
        image = ep.site(recorder.tree, path)
        assert image.dims[-3:] == ("y", "x", "channel")
        assert image.sizes["y"] == rows
        assert image.sizes["x"] == columns
        wide = 64 if family == "dit" else 96
        assert image["x"].values[-1] == wide - wide / columns / 2
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


@pytest.mark.parametrize(
    ("family", "path", "tokens"),
    [
        ("flux", "single_transformer_blocks.0.attn", 12),
        ("auraflow", "single_transformer_blocks.0", 20),
        ("auraflow", "single_transformer_blocks.0.ff", 20),
    ],
)
def test_streams_that_lie_in_one_tensor_are_told_apart(family, path, tokens):
    pipeline = PROBED[family]()
    seen = hooked(pipeline, family, path)
    rows, whole, channels = seen[0].shape
    with ep.probe(pipeline, [path, f"{path}:text"], dtype="float32") as recorder:
        call(family, pipeline)
    image = ep.site(recorder.tree, path).isel(timestep=0).values
    text = ep.site(recorder.tree, f"{path}:text").isel(timestep=0).values
    parts = [text.reshape(rows, tokens, channels), image.reshape(rows, whole - tokens, channels)]
    assert np.array_equal(np.concatenate(parts, axis=1), seen[0].numpy())
    scaled = hooked_under(pipeline, path, ep.Scale(path, 0.5))
    assert torch.equal(scaled[:, :tokens], seen[0][:, :tokens])
    assert torch.equal(scaled[:, tokens:], seen[0][:, tokens:] * 0.5)
    scaled = hooked_under(pipeline, path, ep.Scale(f"{path}:text", 0.5))
    assert torch.equal(scaled[:, :tokens], seen[0][:, :tokens] * 0.5)
    assert torch.equal(scaled[:, tokens:], seen[0][:, tokens:])


def test_an_edit_of_one_half_is_of_that_half_where_it_comes_last():
    pipeline = PROBED["dit"]()
    before = hooked(pipeline, "dit", BLOCK)[0]
    with ep.intervene(pipeline, ep.Scale(BLOCK, 0.5, guidance="uncond")):
        cond, uncond = hooked(pipeline, "dit", BLOCK)[0].chunk(2)
    assert torch.equal(cond, before[:1])
    assert torch.equal(uncond, before[1:] * 0.5)


def hooked_under(pipeline: Any, path: str, edit: Any) -> Any:
    """What a module gives in the first call under an intervention."""
    with ep.intervene(pipeline, edit):
        return hooked(pipeline, "flux", path)[0]


LATENTS = {
    "pixart": (8, 12, 4),
    "stable-diffusion-3": (8, 12, 16),
    "flux": (8, 12, 16),
    "dit": (8, 8, 4),
    "auraflow": (8, 12, 4),
    "sana": (4, 6, 4),
}


def test_rows_guidance_and_timesteps_are_labelled(drawn):
    family, pipeline, _ = drawn
    with ep.probe(pipeline, BLOCKS.get(family, BLOCK)) as recorder:
        call(family, pipeline)
    tree = recorder.tree
    assert tree.sizes["sample"] == 1
    order = ["cond", "uncond"] if family == "dit" else ["uncond", "cond"]
    guided = [] if family == "flux" else order
    assert tree.coords["guidance"].values.tolist() == guided if guided else True
    assert np.allclose(tree["timestep"].values, pipeline.scheduler.timesteps.numpy(), atol=1e-3)
    assert len(set(tree["timestep"].values.tolist())) == 2
    assert tree["latents"]["value"].shape[-3:] == LATENTS[family]
    assert tree.coords["prompt"].values.tolist() == ["" if family == "dit" else "a red house"]


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
    block = BLOCKS.get(family, BLOCK)
    sites = [block] if family in WITHOUT_TEXT else [block, f"{block}:text"]
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
    block = BLOCKS.get(family, BLOCK)
    mask = np.zeros(GRIDS.get(family, (4, 6)), np.float32)
    mask[1, 2] = 1
    with (
        ep.intervene(pipeline, ep.Shift(block, 3.0, mask=mask)),
        ep.probe(pipeline, block, dtype="float32") as recorder,
    ):
        call(family, pipeline)
    shifted = ep.site(recorder.tree, block).isel(timestep=0).values
    with ep.probe(pipeline, block, dtype="float32") as recorder:
        call(family, pipeline)
    moved = shifted - ep.site(recorder.tree, block).isel(timestep=0).values
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
