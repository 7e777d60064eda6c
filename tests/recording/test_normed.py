"""The port `normed` has what a transformer block reads after its adaptive normalisation."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import emerdiff_probe as ep
from emerdiff_probe.errors import SiteError
from tests.checkpoints import tiny_playground
from tests.families import PROBED, flux
from tests.recording.test_transformers import call

BLOCKS = {
    "pixart": ["transformer_blocks.1"],
    "stable-diffusion-3": ["transformer_blocks.0", "transformer_blocks.2"],
    "flux": ["transformer_blocks.1", "single_transformer_blocks.1"],
    "auraflow": ["joint_transformer_blocks.1", "single_transformer_blocks.1"],
    "sana": ["transformer_blocks.1"],
    "dit": ["transformer_blocks.1"],
}


@pytest.fixture(scope="module", params=PROBED)
def drawn(request):
    family = request.param
    pipeline = PROBED[family]()
    return family, pipeline, call(family, pipeline)


def given_to(pipeline: Any, family: str, path: str) -> list[Any]:
    """Return the input of a module in each call, read by a plain hook."""
    seen: list[Any] = []

    def note(_module: Any, inputs: Any, named: Any) -> None:
        seen.append(named["hidden_states"] if "hidden_states" in named else inputs[0])

    module = pipeline.transformer.get_submodule(path)
    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    call(family, pipeline)
    handle.remove()
    return seen


def attention(family: str, block: str) -> str:
    return f"{block}.attn1" if family in ("pixart", "sana", "dit") else f"{block}.attn"


def test_it_is_what_the_first_attention_of_the_block_is_given(drawn):
    family, pipeline, picture = drawn
    for block in BLOCKS[family]:
        name = f"{block}:normed"
        with ep.probe(pipeline, name, dtype="float32") as recorder:
            assert np.array_equal(call(family, pipeline), picture)
        found = ep.site(recorder.tree, name)
        assert found.dims[-3:] == ("y", "x", "channel")
        seen = given_to(pipeline, family, attention(family, block))
        for step, whole in enumerate(seen):
            image = whole[:, -24:]  # the text lies before the image, if it is there
            own = found.isel(timestep=step).values.reshape(image.shape)
            assert np.array_equal(own, image.numpy())


def test_it_is_the_blocks_input_normalised_scaled_and_shifted(drawn):
    family, pipeline, _ = drawn
    before, block = f"{BLOCKS[family][-1][:-1]}0", f"{BLOCKS[family][-1][:-1]}1"
    with ep.probe(pipeline, [before, f"{block}:normed"], dtype="float32") as recorder:
        call(family, pipeline)
    plain, normed = (
        torch.from_numpy(ep.site(recorder.tree, each).isel(timestep=0).values).double()
        for each in (before, f"{block}:normed")
    )
    # One row: others have a scale of their own.
    plain, normed = (each.flatten(0, -4)[-1].flatten(0, 1) for each in (plain, normed))
    unit = functional.layer_norm(plain, plain.shape[-1:], eps=1e-6)
    # One scale and one shift for each channel lead from the one to the other.
    for channel in range(unit.shape[-1]):
        basis = torch.stack([unit[:, channel], torch.ones(len(unit), dtype=torch.double)], 1)
        fit = basis @ torch.linalg.lstsq(basis, normed[:, channel, None]).solution
        assert torch.allclose(fit[:, 0], normed[:, channel], atol=1e-4)


def test_own_values_put_back_change_nothing_and_others_do(drawn):
    family, pipeline, picture = drawn
    for block in BLOCKS[family]:
        name = f"{block}:normed"
        with ep.probe(pipeline, name, dtype="float32") as recorder:
            call(family, pipeline)
        own = ep.site(recorder.tree, name)
        with ep.intervene(pipeline, ep.Replace(name, own)):
            assert np.array_equal(call(family, pipeline), picture)
        with ep.intervene(pipeline, ep.Ablate(name)):
            assert not np.array_equal(call(family, pipeline), picture)
        assert np.array_equal(call(family, pipeline), picture)


def test_an_edit_leaves_the_text_alone_where_both_lie_in_one_tensor():
    pipeline, block = flux(), "single_transformer_blocks.0"
    before = given_to(pipeline, "flux", f"{block}.attn")[0]
    with ep.intervene(pipeline, ep.Scale(f"{block}:normed", 0.5)):
        after = given_to(pipeline, "flux", f"{block}.attn")[0]
    assert torch.equal(after[:, :12], before[:, :12])
    assert torch.equal(after[:, 12:], before[:, 12:] * 0.5)
    # The block's other branch reads it, too.
    with ep.intervene(pipeline, ep.Scale(f"{block}:normed", 0.5)):
        assert torch.equal(given_to(pipeline, "flux", f"{block}.proj_mlp")[0], after)


def test_modules_without_one_are_refused():
    pipeline = flux()
    for name in ("transformer_blocks.0.attn:normed", "transformer_blocks.0.ff:normed"):
        with pytest.raises(SiteError, match=r"\*:normed"), ep.intervene(pipeline, ep.Ablate(name)):
            pass
    playground = tiny_playground()
    with (
        pytest.raises(SiteError, match="adaptive"),
        ep.intervene(playground, ep.Ablate("mid_block:normed")),
    ):
        pass
    with pytest.raises(SiteError, match="no site matches"):
        ep.load(playground).sites("mid_block:normed")
