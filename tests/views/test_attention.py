"""Attention to words: which maps are shown, of which head and timestep, on one scale."""

import numpy as np
import pytest
import xarray as xr

import emerdiff_probe as ep
from emerdiff_probe import views
from emerdiff_probe.errors import InputError
from tests.datasets import recording
from tests.views.drawn import images, maps, texts

QUERY = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"


@pytest.fixture(scope="module")
def run():
    return recording(guided=True)


@pytest.fixture(scope="module")
def paid(run):
    """Probabilities from the recorded queries and keys."""
    query, key = (ep.site(run, f"{QUERY}:{port}").astype(float) for port in ("query", "key"))
    scores = np.exp(xr.dot(query, key, dim="channel"))
    return (scores / scores.sum("token")).rename(QUERY)


def test_words_have_maps_of_the_mean_over_heads(run, paid):
    figure = views.attention(paid, ep.site(run, "image"), sample=1)
    expected = paid[1].sel(guidance="cond", timestep=1).mean("head").transpose("token", "y", "x")
    assert len(maps(figure)) == 3, "special tokens are left out"
    np.testing.assert_allclose(np.stack(maps(figure)), expected[1:4])
    assert figure.layout.coloraxis.cmin == 0
    assert figure.layout.coloraxis.cmax == pytest.approx(float(expected[1:4].max()))
    np.testing.assert_array_equal(images(figure)[0], ep.site(run, "image")[1])
    assert {"red", "&lt;b&gt;", "house"} <= set(texts(figure)), "words of prompts are no markup"


def test_head_timestep_half_and_special_tokens_can_be_chosen(run, paid):
    chosen = {"head": 1, "timestep": 981, "guidance": "uncond", "special": True}
    figure = views.attention(paid, ep.site(run, "image"), **chosen)
    expected = paid[0].sel(guidance="uncond", timestep=981).isel(head=1)
    np.testing.assert_allclose(np.stack(maps(figure)), expected.transpose("token", "y", "x"))
    assert "t = 981, head 1" in figure.layout.title.text


def test_attention_to_one_word_has_one_map(run, paid):
    one = paid.isel(token=3, drop=True).rename("to 'house'")
    figure = views.attention(one, ep.site(run, "image"))
    assert len(maps(figure)) == 1
    assert "to 'house'" in texts(figure)


def test_tokens_without_a_text_are_named_by_their_number(run, paid):
    picture = ep.site(run, "image")
    bare = paid.drop_vars("token_text")
    assert {"token 0", "token 4"} <= set(texts(views.attention(bare, picture)))
    some = bare.isel(token=[1, 3]).assign_coords(token=[1, 3])
    assert {"token 1", "token 3"} <= set(texts(views.attention(some, picture)))
    named = some.assign_coords(token_text=("token", np.array(["red", None], object)))
    assert {"red", "token 3"} <= set(texts(views.attention(named, picture)))
    subset = paid.isel(token=[1, 3])
    assert {"red", "house"} <= set(texts(views.attention(subset, picture)))


def test_what_is_not_there_is_refused(run, paid):
    picture = ep.site(run, "image")
    with pytest.raises(InputError, match="choices: 981, 281, 1"):
        views.attention(paid, picture, timestep=2)
    with pytest.raises(InputError, match="0 to 1"):
        views.attention(paid, picture, head=2)
    with pytest.raises(InputError, match="special=True"):
        views.attention(paid.isel(token=[0, 4]), picture)
