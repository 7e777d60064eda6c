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
    # Each word has its own scale, which its title says.
    drawn = [trace for trace in figure.data if trace.type == "heatmap"]
    assert [each.zmin for each in drawn] == [0, 0, 0]
    tops = expected[1:4].max(["y", "x"]).values
    np.testing.assert_allclose([each.zmax for each in drawn], tops)
    assert f"red (to {tops[0]:.2g})" in texts(figure)
    np.testing.assert_array_equal(images(figure)[0], ep.site(run, "image")[1])
    assert any(each.startswith("&lt;b&gt;") for each in texts(figure)), "words are no markup"
    alike = views.attention(paid, ep.site(run, "image"), sample=1, scale="all")
    assert alike.layout.coloraxis.cmin == 0
    assert alike.layout.coloraxis.cmax == pytest.approx(float(tops.max()))
    assert {"red", "&lt;b&gt;", "house"} <= set(texts(alike))


def test_a_word_over_time_is_a_row_on_one_scale(run, paid):
    figure = views.attention(paid, ep.site(run, "image"), word="house", timesteps=[981, 1])
    expected = paid[0].sel(guidance="cond").mean("head").isel(token=3).sel(timestep=[981, 1])
    np.testing.assert_allclose(
        np.stack(maps(figure)), expected.transpose("timestep", "y", "x"), rtol=1e-6
    )
    assert {"house", "t = 981", "t = 1", "picture"} <= set(texts(figure))
    assert figure.layout.coloraxis.cmax == pytest.approx(float(expected.max()))
    by_number = views.attention(paid, ep.site(run, "image"), word=3, timesteps=281)
    expected = paid[0].sel(guidance="cond", timestep=281).mean("head").isel(token=3)
    np.testing.assert_allclose(maps(by_number)[0], expected.transpose("y", "x"), rtol=1e-6)
    # Of several words each row has its scale.
    every = views.attention(paid, ep.site(run, "image"), timesteps=[981, 281, 1])
    assert len(maps(every)) == 9
    tops = [every.layout[f"coloraxis{number}"].cmax for number in ("", 2, 3)]
    assert len(set(tops)) == 3


def test_head_timestep_half_and_special_tokens_can_be_chosen(run, paid):
    chosen = {"head": 1, "timesteps": 981, "guidance": "uncond", "special": True}
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
    assert {"token 0", "token 4"} <= set(texts(views.attention(bare, picture, scale="all")))
    some = bare.isel(token=[1, 3]).assign_coords(token=[1, 3])
    assert {"token 1", "token 3"} <= set(texts(views.attention(some, picture, scale="all")))
    named = some.assign_coords(token_text=("token", np.array(["red", None], object)))
    assert {"red", "token 3"} <= set(texts(views.attention(named, picture, scale="all")))
    subset = paid.isel(token=[1, 3])
    assert {"red", "house"} <= set(texts(views.attention(subset, picture, scale="all")))


def test_what_is_not_there_is_refused(run, paid):
    picture = ep.site(run, "image")
    with pytest.raises(InputError, match="choices: 981, 281, 1"):
        views.attention(paid, picture, timesteps=2)
    with pytest.raises(InputError, match="0 to 1"):
        views.attention(paid, picture, head=2)
    with pytest.raises(InputError, match="special=True"):
        views.attention(paid.isel(token=[0, 4]), picture)
    with pytest.raises(InputError, match=r"'mouse'; choose from"):
        views.attention(paid, picture, word="mouse")
    with pytest.raises(InputError, match="one token only"):
        views.attention(paid.isel(token=3), picture, word="house")
    with pytest.raises(InputError, match="'word' or 'all'"):
        views.attention(paid, picture, scale="row")
