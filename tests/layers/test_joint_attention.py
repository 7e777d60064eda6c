"""Attention of image and text to each other, in all four directions, is what was multiplied."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers.models.attention_processor import Attention, JointAttnProcessor2_0
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxAttnProcessor
from torch.nn import functional

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError, SiteError
from emerdiff_probe.schema import RECORDING
from emerdiff_probe.taps.products import multiplied

PATH, GRID, TEXTS = "transformer_blocks.0.attn", (2, 3), ["a", "red", "house", "red"]
STREAMS = ("image", "text")


def stable_diffusion_3():
    """The image comes first."""
    module = Attention(
        16, added_kv_proj_dim=16, heads=2, dim_head=8, context_pre_only=False,
        qk_norm="rms_norm", processor=JointAttnProcessor2_0(),
    )  # fmt: skip
    return module, (slice(0, 6), slice(6, None)), {}


def flux():
    """The text comes first, and all are rotated."""
    module = FluxAttention(16, 2, 8, added_kv_proj_dim=16, processor=FluxAttnProcessor())
    angles = torch.randn(10, 8)
    rotary = {"image_rotary_emb": (angles.cos(), angles.sin())}
    return module, (slice(4, None), slice(0, 4)), rotary


@pytest.fixture(params=[stable_diffusion_3, flux], scope="module")
def recorded(request):
    """A recording of an attention, and the probabilities (row, head, query, key) by streams."""
    torch.manual_seed(0)
    module, places, rotary = request.param()
    image, text, seen = torch.randn(2, 6, 16), torch.randn(2, 4, 16), {}
    noting = {port: lambda each, port=port: seen.update({port: each}) for port in ("query", "key")}
    with torch.no_grad(), multiplied(module, PATH, noting):
        module(image, text, **rotary)
    query, key = (seen[port].unflatten(2, (2, 8)) for port in ("query", "key"))
    identity = torch.eye(10).expand(2, 2, -1, -1)
    # Of values that are the identity the products are the probabilities themselves.
    plain = functional.scaled_dot_product_attention(
        query.transpose(1, 2), key.transpose(1, 2), identity
    )
    by_streams = {
        (of, to): plain[:, :, own][..., other].numpy()
        for of, own in zip(STREAMS, places, strict=True)
        for to, other in zip(STREAMS, places, strict=True)
    }
    leaves = {}
    for port, tensor in (("query", query), ("key", key)):
        for stream, own in zip(STREAMS, places, strict=True):
            values = tensor[:, None, own].numpy()
            dims, name = ("token",), f"text_{port}"
            coords = {}
            if stream == "image":
                values = values.reshape(2, 1, *GRID, 2, 8)
                dims, name = ("y", "x"), port
                coords = {"y": [4.0, 12.0], "x": [4.0, 12.0, 20.0]}
            value = (("sample", "timestep", *dims, "head", "channel"), values)
            leaves[f"{PATH.replace('.', '/')}/{name}"] = xr.Dataset({"value": value}, coords)
    sites = [f"{PATH}:{port}" for port in ("query", "key", "text_query", "text_key")]
    config = {"sites": sites, "joint": [PATH]}
    root = xr.Dataset(
        coords={
            "sample": [0, 1],
            "timestep": [281],
            "token_text": (("sample", "token"), [TEXTS, TEXTS]),
        },
        attrs={"schema": RECORDING, "config": json.dumps(config)},
    )
    return xr.DataTree.from_dict({"/": root, **leaves}), by_streams


def test_all_four_directions_are_what_was_multiplied(recorded):
    run, plain = recorded
    dims = {"image": ["y", "x"], "text": ["token"]}
    for of in STREAMS:
        total = 0
        for to in STREAMS:
            paid = ep.attention(run, PATH, of=of, to=to)
            keys = (
                ["key_y", "key_x"] if to == "image" else ["key_token" if of == "text" else "token"]
            )
            assert list(paid.dims) == ["sample", "timestep", "head", *dims[of], *keys]
            expected = plain[of, to]
            flat = paid.values.reshape(expected.shape)
            np.testing.assert_allclose(flat, expected, atol=1e-6)
            # The control: in the softmax of one stream alone they would be larger.
            alone = expected / expected.sum(-1, keepdims=True)
            assert not np.allclose(flat, alone, atol=1e-2)
            total = total + paid.sum(keys)
        np.testing.assert_allclose(total, 1, rtol=1e-5)


def test_a_word_is_looked_at_and_looks(recorded):
    run, plain = recorded
    red = np.array([text == "red" for text in TEXTS])
    to_red = ep.attention(run, PATH, token="red")
    expected = plain["image", "text"][..., red].sum(-1)
    np.testing.assert_allclose(to_red.values.reshape(expected.shape), expected, atol=1e-6)
    of_red = ep.attention(run, PATH, token="red", of="text", to="image")
    assert of_red.dims == ("sample", "timestep", "head", "key_y", "key_x")
    expected = plain["text", "image"][:, :, red].mean(2)
    np.testing.assert_allclose(of_red.values.reshape(expected.shape), expected, atol=1e-6)
    one = ep.attention(run, PATH, token=2, of="text", to="text", head=1)
    expected = plain["text", "text"][:, 1, 2]
    np.testing.assert_allclose(one.values.reshape(expected.shape), expected, atol=1e-6)
    there = ep.attention(run, PATH, token="red", location=(12, 20), head=0)
    np.testing.assert_allclose(there, to_red.isel(y=1, x=2, head=0), atol=1e-6)
    mean = ep.attention(run, token="red")
    np.testing.assert_allclose(mean, to_red.mean("head"), atol=1e-6)


def test_what_is_not_said_or_recorded_is_asked_for(recorded):
    run, _ = recorded
    with pytest.raises(InputError, match=r"joint attention.*to='image' or to='text'"):
        ep.attention(run, PATH)
    with pytest.raises(InputError, match="to is 'words'; choose 'image' or 'text'"):
        ep.attention(run, PATH, to="words")
    with pytest.raises(InputError, match="location needs queries of the image"):
        ep.attention(run, PATH, of="text", to="image", location=(4, 4))
    # Without the text's keys the softmax would be another.
    less = xr.DataTree.from_dict(
        {path: each for path, each in run.to_dict().items() if not path.endswith("text_key")}
    )
    with pytest.raises(SiteError, match=rf"lacks .*{PATH}:text_key.*sites="):
        ep.attention(less, PATH, to="image")
