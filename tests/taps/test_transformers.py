"""Attention of transformers is recorded and injected where it is multiplied, stream by stream."""

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers.models.attention_processor import AttnProcessor
from torch.nn import functional

import emerdiff_probe as ep
from emerdiff_probe.errors import CaptureError, ConfigError, SiteError
from emerdiff_probe.interventions import InjectAttention, attention_kept
from tests.families import PROBED, draw, flux, pixart
from tests.recording.test_transformers import call

JOINT = {
    "stable-diffusion-3": ["transformer_blocks.0.attn", "transformer_blocks.2.attn"],
    "flux": ["transformer_blocks.1.attn", "single_transformer_blocks.1.attn"],
    "auraflow": ["joint_transformer_blocks.1.attn", "single_transformer_blocks.1.attn"],
}
PLAIN = {
    "pixart": ["transformer_blocks.1.attn1", "transformer_blocks.1.attn2"],
    "stable-diffusion-3": ["transformer_blocks.0.attn2"],
    "dit": ["transformer_blocks.1.attn1"],
    "sana": ["transformer_blocks.1.attn2"],
}
IMAGE_FIRST = {"stable-diffusion-3"}


class Products:
    """All that is multiplied, by replacing the function for everybody."""

    def __init__(self, monkeypatch):
        self.seen = []
        multiply = functional.scaled_dot_product_attention

        def noted(*arguments, **named):
            given = dict(zip(("query", "key", "value"), arguments, strict=False)) | named
            mixed = multiply(*arguments, **named)
            self.seen.append({**given, "mix": mixed})
            return mixed

        monkeypatch.setattr(functional, "scaled_dot_product_attention", noted)


@pytest.fixture(scope="module", params=PROBED)
def drawn(request):
    family = request.param
    pipeline = PROBED[family]()
    return family, pipeline, call(family, pipeline)


def attentions(pipeline):
    """Paths in the order of the calls."""
    names = [name for name, _ in pipeline.transformer.named_modules()]
    found = [name for name in names if name.rpartition(".")[2] in ("attn", "attn1", "attn2")]
    return found


def multiplied(pipeline, family, monkeypatch):
    """What each attention multiplies in the first step."""
    paths = attentions(pipeline)
    with monkeypatch.context() as patch:
        products = Products(patch)
        # Text encoders and the autoencoder multiply, too.
        seen = {}
        handles = []
        for path in paths:
            module = pipeline.transformer.get_submodule(path)

            def after(_m, _i, _o, path=path):
                if products.seen:  # linear attention has none
                    seen.setdefault(path, products.seen[-1])

            handles.append(module.register_forward_hook(after))
        call(family, pipeline)
        for handle in handles:
            handle.remove()
    return seen


def test_ports_are_what_is_multiplied(drawn, monkeypatch):
    family, pipeline, picture = drawn
    seen = multiplied(pipeline, family, monkeypatch)
    sites = [f"{path}:*" for path in (*JOINT.get(family, ()), *PLAIN.get(family, ()))]
    with ep.probe(pipeline, sites, dtype="float32") as recorder:
        assert np.array_equal(call(family, pipeline), picture)
    tree = recorder.tree
    for path in (*JOINT.get(family, ()), *PLAIN.get(family, ())):
        for port in ("query", "key", "value", "mix"):
            whole = seen[path][port].transpose(1, 2)
            image = ep.site(tree, f"{path}:{port}").isel(timestep=0)
            parts = [image.values.reshape(len(whole), -1, *whole.shape[2:])]
            if path in JOINT.get(family, ()):
                text = ep.site(tree, f"{path}:text_{port}").isel(timestep=0)
                assert text.dims[-3:] == ("token", "head", "channel")
                parts.append(text.values.reshape(len(whole), -1, *whole.shape[2:]))
            parts = parts if family in IMAGE_FIRST else parts[::-1]
            assert np.array_equal(np.concatenate(parts, 1), whole.numpy())


def probabilities(product):
    query, key, mask = product["query"], product["key"], product.get("attn_mask")
    identity = torch.eye(key.shape[2]).expand(*key.shape[:2], -1, -1)
    return functional.scaled_dot_product_attention(query, key, identity, attn_mask=mask)


def test_attention_is_what_was_paid(drawn, monkeypatch):
    family, pipeline, _ = drawn
    seen = multiplied(pipeline, family, monkeypatch)
    paths = (*JOINT.get(family, ()), *PLAIN.get(family, ()))
    sites = [f"{path}:*{port}" for path in paths for port in ("query", "key")]
    with ep.probe(pipeline, sites, dtype="float32") as recorder:
        call(family, pipeline)
    tree = recorder.tree
    for path in JOINT.get(family, ()):
        plain = probabilities(seen[path]).numpy()
        order = ("image", "text") if family in IMAGE_FIRST else ("text", "image")
        rows = []
        for of in order:
            paid = [ep.attention(tree, path, of=of, to=to).isel(timestep=0) for to in order]
            own = 24 if of == "image" else plain.shape[-2] - 24
            flat = [each.values.reshape(*plain.shape[:2], own, -1) for each in paid]
            rows.append(np.concatenate(flat, -1))
        found = np.concatenate(rows, -2)
        np.testing.assert_allclose(found, plain, atol=2e-6)
        np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    for path in PLAIN.get(family, ()):
        plain = probabilities(seen[path]).numpy()
        paid = ep.attention(tree, path).isel(timestep=0).values
        np.testing.assert_allclose(paid.reshape(plain.shape), plain, atol=2e-6)
    if family in ("pixart", "sana"):
        assert (plain == 0).any(), "the control: some of the text is masked"


def test_own_products_change_nothing_and_anothers_do(drawn):
    family, pipeline, picture = drawn
    with attention_kept(pipeline) as own:
        assert np.array_equal(call(family, pipeline), picture)
    other = {"generator": torch.Generator().manual_seed(1)}
    with attention_kept(pipeline) as foreign:
        call(family, pipeline, **other)
    with ep.intervene(pipeline, InjectAttention(own)):
        assert np.array_equal(call(family, pipeline), picture)
    with ep.intervene(pipeline, InjectAttention(foreign)):
        assert not np.array_equal(call(family, pipeline), picture)
    assert not any("forward" in vars(each) for each in pipeline.transformer.modules())
    assert np.array_equal(call(family, pipeline), picture)


def test_recorded_values_of_a_stream_go_back_as_they_came(drawn):
    family, pipeline, picture = drawn
    path = (*JOINT.get(family, ()), *PLAIN.get(family, ()))[0]
    ports = ("query", "text_key", "mix") if family in JOINT else ("query", "key", "mix")
    for port in ports:
        name = f"{path}:{port}"
        with ep.probe(pipeline, name, dtype="float32") as recorder:
            call(family, pipeline)
        own = ep.site(recorder.tree, name)
        with ep.intervene(pipeline, ep.Replace(name, own)):
            assert np.array_equal(call(family, pipeline), picture)
        with ep.intervene(pipeline, ep.Replace(name, own + 1, heads=[1])):
            assert not np.array_equal(call(family, pipeline), picture)


def test_linear_attention_is_refused_by_name_but_for_its_output():
    pipeline, layer = PROBED["sana"](), "transformer_blocks.0.attn1"
    with (
        pytest.raises(SiteError, match=rf"'{layer}' is a linear attention"),
        ep.intervene(pipeline, ep.Ablate(f"{layer}:query")),
    ):
        pass
    with pytest.raises(SiteError, match="attn1:query"), ep.probe(pipeline, f"{layer}:query"):
        pass
    picture = draw(pipeline)
    with ep.intervene(pipeline, ep.Ablate(layer)):
        assert not np.array_equal(draw(pipeline), picture)


def test_what_is_not_multiplied_there_is_refused_by_name():
    pipeline = pixart()
    layer = "transformer_blocks.0.attn1"
    pipeline.transformer.get_submodule(layer).set_processor(AttnProcessor())
    with (
        pytest.raises(CaptureError, match=rf"'{layer}' does not multiply .*\(AttnProcessor\)"),
        ep.probe(pipeline, f"{layer}:query"),
    ):
        call("pixart", pipeline)
    with ep.probe(pipeline, layer):
        call("pixart", pipeline)
    for name, reason in (
        (f"{layer}:text_query", "does not attend to text"),
        ("transformer_blocks.0:query", "is not an attention"),
    ):
        with pytest.raises(SiteError, match=reason), ep.intervene(pipeline, ep.Ablate(name)):
            pass
    with pytest.raises(ConfigError, match="has tokens"):
        ep.Ablate("transformer_blocks.0.attn:text_key", mask=np.ones((4, 6)))


def test_a_mask_that_nobody_knows_is_refused():
    pipeline, path = flux(), "single_transformer_blocks.0.attn"
    mask = torch.zeros(1, 1, 36, 36)
    masked = {"joint_attention_kwargs": {"attention_mask": mask}}
    with (
        pytest.raises(CaptureError, match="under a mask that is not known here"),
        ep.probe(pipeline, f"{path}:key"),
    ):
        call("flux", pipeline, **masked)
    with ep.probe(pipeline, path):
        call("flux", pipeline, **masked)


def test_the_keys_of_a_joint_attention_are_asked_for():
    pipeline, path = flux(), "single_transformer_blocks.0.attn"
    with ep.probe(pipeline, [f"{path}:query", f"{path}:key"]) as recorder:
        call("flux", pipeline)
    assert isinstance(recorder.tree, xr.DataTree)
    with pytest.raises(SiteError, match=f"{path}:text_key"):
        ep.attention(recorder.tree, path, to="image")
