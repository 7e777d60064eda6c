"""Taps see what a plain hook sees, change nothing, and are gone afterwards."""

from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet

import pytest
import torch
from diffusers.models.attention_processor import IPAdapterAttnProcessor
from torch._dynamo import eval_frame

import emerdiff_probe as ep
from emerdiff_probe.errors import CaptureError, ModelError, SiteError
from emerdiff_probe.interventions import InjectAttention, Shift, intervene, products_captured
from emerdiff_probe.sites import Site
from emerdiff_probe.taps import attentions, capture, current_call, hooked, with_processors
from tests.checkpoints import image_adapted, tiny_playground

QUERY = Site.parse("up_blocks.1.attentions.0.transformer_blocks.0.attn2:query")
OUT = Site.parse("up_blocks.1.attentions.0.transformer_blocks.0.attn2")


@pytest.fixture
def model():
    return ep.load(tiny_playground())


@pytest.fixture
def call(model):
    x = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    condition = model.condition("")
    return lambda: model.predict(x, 281, condition)


def installed(unet):
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in unet.modules()
    )


def test_captured_values_are_a_plain_hooks(model, call):
    seen = {}
    for site in (QUERY, OUT, Site("mid_block"), Site("down_blocks.1")):
        module = model.unet.get_submodule(site.module)
        handle = module.register_forward_hook(
            lambda _, __, output, site=site: seen.setdefault(site, output)
        )
        with capture(model.unet, [site]) as taps:
            call()
            kept = taps.take()[site]
        handle.remove()
        theirs = seen[site][0] if isinstance(seen[site], tuple) else seen[site]
        assert torch.equal(kept, theirs)


def test_taps_change_nothing_and_leave_nothing(model, call):
    before = call()
    processors = {path: module.processor for path, module in attentions(model.unet).items()}
    with capture(model.unet, [QUERY, OUT]), capture(model.unet, [QUERY]) as inner:
        assert torch.equal(call(), before)
        inner.take()
    with products_captured(model.unet):
        assert torch.equal(call(), before)
    assert installed(model.unet) == 0
    assert torch.equal(call(), before)
    for path, module in attentions(model.unet).items():
        assert module.processor is processors[path]


def test_an_exception_inside_leaves_nothing(model, call):
    before = call()
    processors = [module.processor for module in attentions(model.unet).values()]
    with products_captured(model.unet) as taps:
        call()
        products = taps.take()
    both = [InjectAttention({281: [products]}), Shift(str(OUT), 1.0)]
    with pytest.raises(ZeroDivisionError), intervene(model, both):
        _ = len(call()) / 0
    # One that comes from within the model's own call.
    wrong = Shift(str(OUT), 1.0, mask=torch.ones(3, 3))
    with pytest.raises(SiteError), intervene(model, [wrong]):
        call()
    assert installed(model.unet) == 0
    now = [module.processor for module in attentions(model.unet).values()]
    assert all(a is b for a, b in zip(now, processors, strict=True))
    assert torch.equal(call(), before)


def test_other_threads_wait_and_never_see_a_tap(model, call):
    before = call()
    with ThreadPoolExecutor(1) as other:
        with intervene(model, [Shift(str(OUT), 100.0)]), capture(model.unet, [QUERY]) as taps:
            theirs = other.submit(call)
            ours = call()
            with pytest.raises(NotYet):
                theirs.result(0.2)
            taps.take()
        assert torch.equal(theirs.result(), before)
    assert not torch.allclose(ours, before, atol=1e-3)
    assert torch.equal(call(), before)


def test_a_site_that_is_not_there_names_the_closest_and_installs_nothing(model):
    wrong = Site.parse("up_blocks.1.attentions.9.transformer_blocks.0.attn2:query")
    with pytest.raises(SiteError, match=r"attentions\.0"), capture(model.unet, [QUERY, wrong]):
        pass
    assert installed(model.unet) == 0


def test_a_site_that_does_not_fire_once_is_an_error(model, call):
    with capture(model.unet, [QUERY]) as taps:
        with pytest.raises(CaptureError, match=r"query.*0"):
            taps.take()
        call()
        call()
        with pytest.raises(CaptureError, match=r"query.*2"):
            taps.take()


def test_a_compiled_model_is_tapped(model, call):
    """Hooks added after the first call of a compiled model would silently not fire."""
    before = call()
    model.unet.compile(backend="eager")
    call()
    with capture(model.unet, [QUERY]) as taps:
        during = call()
        assert taps.take()[QUERY].shape == (2, 256, 24)
    torch.testing.assert_close(during, before)


def test_fused_projections_are_refused_by_name(model):
    model.unet.fuse_qkv_projections()
    for enter in (lambda: capture(model.unet, [QUERY]), lambda: products_captured(model.unet)):
        with pytest.raises(ModelError, match="unfuse_qkv_projections"), enter():
            pass
    model.unet.unfuse_qkv_projections()
    with capture(model.unet, [QUERY]):
        pass


def test_gradient_checkpointing_in_training_is_refused(model):
    model.unet.eval()
    model.unet.enable_gradient_checkpointing()
    with capture(model.unet, [QUERY]):
        pass
    model.unet.train()
    with pytest.raises(ModelError, match="disable_gradient_checkpointing"):
        hooked(model.unet, {}).__enter__()


def test_unknown_attention_layouts_are_refused(model):
    next(iter(attentions(model.unet).values())).residual_connection = True
    with pytest.raises(ModelError, match="residual"):
        attentions(model.unet)


def test_processors_are_swapped_one_by_one_and_nest(model, call):
    path = OUT.path
    original, before = attentions(model.unet)[path].processor, call()

    def scaling(factor):
        def processor(attn, hidden_states, encoder_hidden_states=None, attention_mask=None):
            return original(attn, hidden_states, encoder_hidden_states, attention_mask) * factor

        return {path: processor}

    with with_processors(model.unet, scaling(3.0)), capture(model.unet, [OUT]) as taps:
        call()
        once = taps.take()[OUT]
        with with_processors(model.unet, scaling(0.0)):
            call()
            assert not taps.take()[OUT].any()
        call()
        assert torch.equal(taps.take()[OUT], once)
    with capture(model.unet, [OUT]) as taps:
        assert torch.equal(call(), before)
        torch.testing.assert_close(once, 3 * taps.take()[OUT])
    assert attentions(model.unet)[path].processor is original
    assert "forward" not in vars(attentions(model.unet)[path])


def test_taps_may_end_in_another_order_than_they_began(model, call):
    before, stance = call(), eval_frame._stance
    doubled = {OUT.path: lambda *_arguments, **_named: torch.zeros(2, 256, 24)}
    first, second = with_processors(model.unet, doubled), with_processors(model.unet, doubled)
    first.__enter__()
    second.__enter__()
    during = call()
    first.__exit__(None, None, None)
    assert torch.equal(call(), during)
    assert eval_frame._stance.stance == "force_eager"
    second.__exit__(None, None, None)
    assert not torch.allclose(during, before, atol=1e-3)
    assert torch.equal(call(), before)
    assert "forward" not in vars(attentions(model.unet)[OUT.path])
    assert eval_frame._stance == stance


def test_code_of_other_threads_is_neither_seen_nor_changed(model):
    """A pipeline that shares the UNet does not ask for its turn, and must not have to."""
    inputs = torch.randn(2, 4, 32, 32), 281, torch.randn(2, 7, 24)

    def bare():
        with torch.no_grad():
            return model.unet(*inputs).sample

    before, nothing = bare(), {OUT.path: lambda *_arguments, **_named: torch.zeros(2, 256, 24)}
    with (
        ThreadPoolExecutor(1) as other,
        intervene(model, [Shift(str(OUT), 100.0)]),
        with_processors(model.unet, nothing),
        capture(model.unet, [Site("mid_block")]) as taps,
        current_call(model.unet) as calls,
    ):
        assert torch.equal(other.submit(bare).result(), before)
        assert not calls.seen
        with pytest.raises(CaptureError, match="mid_block"):
            taps.take()
        assert not torch.allclose(bare(), before, atol=1e-3)
        assert calls.seen == {281}
        taps.take()


def adapted(model):
    """Two calls of a UNet with an IP-Adapter, with one image and with another."""
    embeddings = image_adapted(model.unet)
    x, text = torch.randn(2, 4, 32, 32), torch.randn(2, 7, 24)

    def call(scale=1.0):
        with torch.no_grad():
            images = {"image_embeds": [scale * embeddings]}
            return model.unet(x, 281, text, added_cond_kwargs=images).sample

    return call


def test_a_mix_is_without_what_an_image_adapter_adds(model):
    call, mix = adapted(model), Site(OUT.path, "mix")
    attention = model.unet.get_submodule(OUT.path)
    query, key, value = (Site(OUT.path, port) for port in ("query", "key", "value"))
    before = call()
    given = []
    handle = attention.to_out[0].register_forward_pre_hook(
        lambda _, inputs: given.append(inputs[0])
    )
    with capture(model.unet, [mix, query, key, value]) as taps:
        assert torch.equal(call(), before)
        tensors = taps.take()
    handle.remove()
    heads = [tensors[site].unflatten(2, (2, -1)).transpose(1, 2) for site in (query, key, value)]
    own = torch.nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    assert torch.equal(tensors[mix], own)
    assert not torch.allclose(given[0], own, atol=1e-3)  # the control: the adapter adds something
    with hooked(model.unet, {mix: torch.zeros_like}):
        without = call()
    assert not torch.allclose(without, before, atol=1e-4)
    with hooked(model.unet, {mix: torch.clone}):
        assert torch.equal(call(), before)
    attention.set_processor(IPAdapterAttnProcessor(24, 24, num_tokens=(4,)))
    with pytest.raises(ModelError, match="IPAdapterAttnProcessor"), capture(model.unet, [mix]):
        pass


def test_injection_keeps_masks_adapters_and_processors_as_they_are(model):
    """Own products given back change nothing, to the last bit, whoever multiplies them."""
    x, text = torch.randn(2, 4, 32, 32), torch.randn(2, 7, 24)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0]])

    def masked(x=x, mask=mask):
        with torch.no_grad():
            return model.unet(x, 281, text, encoder_attention_mask=mask).sample

    def check(call, control):
        before = call()
        with products_captured(model.unet) as taps:
            assert torch.equal(call(), before)
            products = taps.take()
        with intervene(model, [InjectAttention({281: [products]})]):
            assert torch.equal(call(), before)
            assert not torch.equal(control(), before)
        assert not torch.equal(control(), before)

    check(masked, lambda: masked(mask=None))
    model.unet.set_attention_slice(1)
    check(masked, lambda: masked(x=-x))
    model.unet.set_default_attn_processor()
    call = adapted(model)
    check(call, lambda: call(scale=0.0))


def test_sites_have_one_name():
    assert Site.parse("a.attn2.to_q:out") == Site.parse("a.attn2.to_q") == Site("a.attn2", "query")
    assert Site("a.attn2", "query").module == "a.attn2.to_q"
    assert str(Site.parse("mid_block")) == "mid_block:out"
    for wrong in ("", ":query", "a:quary"):
        with pytest.raises(SiteError, match="query, key, value, mix, out"):
            Site.parse(wrong)
