"""The catalogue says of every site what recording it gives, without running the model."""

import math

import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.errors import ModelError, SiteError
from emerdiff_probe.models.catalogue import KINDS
from emerdiff_probe.sites import ATTENTION_PORTS, Site
from emerdiff_probe.taps import attentions, capture, hooked
from tests.checkpoints import stable_diffusion, stable_diffusion_xl, tiny_playground


@pytest.fixture(scope="module", params=["playground", "v1", "v2", "xl"])
def model(request):
    maker = {"playground": tiny_playground, "xl": stable_diffusion_xl}.get(request.param)
    return ep.load(maker() if maker else stable_diffusion(request.param))


def test_every_site_has_the_shape_that_a_tap_sees(model):
    # Not square, so that rows and columns cannot be mistaken for each other.
    height, width = 128, 192
    table = model.sites(height=height, width=width)
    sites = list(map(Site.parse, table.index))
    x = torch.randn(model.latent_shape(height, width), generator=torch.Generator().manual_seed(0))
    with capture(model.unet, sites) as taps:
        model.predict(x, 281, model.condition(""))
        tensors = taps.take()
    heads = {path: attention.heads for path, attention in attentions(model.unet).items()}
    for site, row in zip(sites, table.itertuples(), strict=True):
        tensor = tensors[site][0]
        seen = tuple(tensor.shape)
        if tensor.ndim == 3:
            assert row.shape == (*seen[1:], seen[0])
            assert row.level == seen[1]
        else:
            assert math.prod(row.shape) == math.prod(seen)
            places = row.shape[: row.dims.index("head" if "head" in row.dims else "channel")]
            assert math.prod(places) == seen[0]
            assert ("head" in row.dims) == (site.port in ("query", "key", "value", "mix"))
            if "head" in row.dims:
                assert row.shape[row.dims.index("head")] == heads[site.path]
        assert len(row.dims) == len(row.shape)
        assert row.bytes == tensor.numel() * 4


def test_the_catalogue_is_complete_and_in_order(model):
    table = model.sites()
    assert table.index.is_unique
    assert set(table["kind"]) == set(KINDS) - {"joint"}  # of transformers
    for path in attentions(model.unet):
        assert {f"{path}:{port}" for port in ATTENTION_PORTS} <= set(table.index)
    for block in ("down_blocks", "up_blocks"):
        for number in range(len(getattr(model.unet, block))):
            assert f"{block}.{number}:out" in table.index
    order = [
        table.index.get_loc(name)
        for name in ("conv_in:out", "down_blocks.0:out", "mid_block:out", "up_blocks.0:out")
    ]
    assert order == sorted(order)
    assert table.index[-1] == "conv_out:out"


def test_xl_has_several_layers_in_a_transformer():
    table = ep.load(stable_diffusion_xl()).sites(kind="layer")
    block = "up_blocks.0.attentions.0.transformer_blocks"
    assert {f"{block}.0:out", f"{block}.1:out"} <= set(table.index)
    assert not any(name.startswith("up_blocks.2") for name in table.index)


def test_the_model_is_not_run(model, monkeypatch):
    monkeypatch.setattr(model.unet, "forward", lambda *_, **__: pytest.fail("it was run"))
    assert len(model.sites("mid_block")) == 1


def test_sites_by_property(model):
    cross = model.sites("*:query", kind="cross")
    assert len(cross) > 1
    assert all("attn2:query" in name for name in cross.index)
    level = cross["level"].max()
    high = model.sites(kind=["self", "cross"], level=level)
    assert set(high["level"]) == {level}
    assert set(high["kind"]) == {"self", "cross"}
    with pytest.raises(SiteError, match=r"kind 'crosss'; choose from .*'cross'"):
        model.sites(kind="crosss")
    with pytest.raises(SiteError, match="no site has level 3"):
        model.sites(level=3)
    with pytest.raises(SiteError, match=r"See model\.sites"):
        model.sites("mid_block", kind="cross")


def test_the_semantic_sites_are_in_the_block_that_stands_for_the_papers(model):
    block = "up_blocks.0" if model.family == "stable-diffusion-xl" else "up_blocks.1"
    table = model.sites("semantic")
    assert {name.rpartition(".attentions.")[0] for name in table.index} == {block}
    assert set(table["kind"]) == {"self", "cross"}
    with ep.probe(model.pipeline, "semantic") as recorder:
        model.predict(torch.zeros(model.latent_shape(128, 128)), 1, model.condition(""))
    assert all(ep.site(recorder.tree, name).size for name in table.index)


def test_a_skip_is_what_the_downward_half_gave(model):
    table = model.sites(kind="skip")
    skips = list(map(Site.parse, table.index))
    # The last that the downward half gives is the first that the upward half takes.
    block = f"down_blocks.{len(model.unet.down_blocks) - 1}"
    given = [Site("conv_in"), Site(block)]
    taken = [skips[-1], skips[0]]
    x = torch.randn(model.latent_shape(128, 128), generator=torch.Generator().manual_seed(0))
    condition = model.condition("")
    with capture(model.unet, [*given, *skips]) as taps:
        before = model.predict(x, 281, condition)
        tensors = taps.take()
    for one, other in zip(given, taken, strict=True):
        assert torch.equal(tensors[one], tensors[other])
    assert not torch.equal(tensors[skips[0]].flatten()[:9], tensors[skips[1]].flatten()[:9])
    assert torch.equal(model.predict(x, 281, condition), before)


def test_a_skip_can_be_replaced(model):
    site = Site.parse("up_blocks.0.resnets.1:skip")
    x = torch.randn(model.latent_shape(128, 128), generator=torch.Generator().manual_seed(0))
    condition = model.condition("")
    before = model.predict(x, 281, condition)
    with hooked(model.unet, {site: torch.clone}):
        assert torch.equal(model.predict(x, 281, condition), before)
    with hooked(model.unet, {site: torch.zeros_like}):
        assert not torch.allclose(model.predict(x, 281, condition), before, atol=1e-3)


def test_the_width_of_texts_may_be_named_block_by_block():
    plain, each = (
        ep.load(stable_diffusion("v1", cross_attention_dim=width)) for width in (32, [32] * 4)
    )
    assert each.sites().equals(plain.sites())
    assert each.condition("a tree").tokens == plain.condition("a tree").tokens
    several = stable_diffusion("v1", cross_attention_dim=[32, 32, 32, 64])
    with pytest.raises(ModelError, match="texts of several widths"):
        ep.load(several)
