"""Attention is seen where it is multiplied, in the thread that asks, and its own part alone."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, JointAttnProcessor2_0
from torch.nn import functional

from emerdiff_probe.errors import CaptureError
from emerdiff_probe.taps.products import multiplied

PORTS = ("query", "key", "value", "mix")


def attention(**options):
    torch.manual_seed(0)
    return Attention(16, heads=2, dim_head=8, **options).eval().requires_grad_(False)


def joint():
    """As Stable Diffusion 3 has it: text and image are normalised and multiplied together."""
    options = {"added_kv_proj_dim": 16, "context_pre_only": False, "qk_norm": "rms_norm"}
    return attention(**options, processor=JointAttnProcessor2_0())


def noting(seen):
    def note(port):
        return lambda tensor: seen.update({port: tensor})

    return {port: note(port) for port in PORTS}


def mixed(query, key, value):
    heads = [each.unflatten(2, (2, -1)).transpose(1, 2) for each in (query, key, value)]
    return functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


def test_of_plain_attention_it_is_what_is_projected():
    module, states = attention(), torch.randn(3, 5, 16)
    before, seen = module(states), {}
    with multiplied(module, "attn", noting(seen)):
        assert torch.equal(module(states), before)
    assert "forward" not in vars(module)
    for port, projection in (("query", "to_q"), ("key", "to_k"), ("value", "to_v")):
        assert torch.equal(seen[port], getattr(module, projection)(states))
    assert torch.equal(module.to_out[0](seen["mix"]), before)


def test_of_joint_attention_it_is_normalised_and_has_both_streams():
    module, image, text = joint(), torch.randn(3, 5, 16), torch.randn(3, 2, 16)
    before, seen = module(image, text), {}
    with multiplied(module, "attn", noting(seen)):
        during = module(image, text)
    assert all(map(torch.equal, during, before))
    assert {port: tuple(each.shape) for port, each in seen.items()} == dict.fromkeys(
        PORTS, (3, 7, 16)
    )
    assert torch.equal(seen["mix"], mixed(*(seen[port] for port in PORTS[:3])))
    plain = module.to_q(image)
    assert not torch.allclose(seen["query"][:, :5], plain)  # the control: it is normalised
    normalised = module.norm_q(plain.unflatten(2, (2, -1))).flatten(2)
    torch.testing.assert_close(seen["query"][:, :5], normalised)
    # Own factors given back change nothing, another's do.
    for port in PORTS:
        with multiplied(module, "attn", {port: lambda _, port=port: seen[port].clone()}):
            assert all(map(torch.equal, module(image, text), before))
        with multiplied(module, "attn", {port: lambda _, port=port: seen[port].flip(0)}):
            assert not torch.allclose(module(image, text)[0], before[0], atol=1e-4)


@pytest.mark.parametrize("port", PORTS)
def test_later_blocks_see_what_earlier_ones_leave(port):
    module, states, seen = attention(), torch.randn(1, 5, 16), []
    with (
        multiplied(module, "attn", {port: torch.zeros_like}),
        multiplied(module, "attn", {port: lambda tensor: tensor + 1}),
        multiplied(module, "attn", {port: lambda tensor: seen.append(tensor)}),
    ):
        module(states)
    assert torch.equal(seen[0], torch.ones(1, 5, 16))


def test_it_is_seen_in_its_own_thread_alone_and_gone_after_errors():
    module, states, seen = attention(), torch.randn(1, 5, 16), {}
    before = module(states)
    with ThreadPoolExecutor(1) as other, multiplied(module, "attn", {"mix": torch.zeros_like}):
        assert torch.equal(other.submit(module, states).result(), before)
        assert not torch.allclose(module(states), before)
    with pytest.raises(ZeroDivisionError), multiplied(module, "attn", {"mix": lambda _: 1 / 0}):
        module(states)
    with multiplied(module, "attn", noting(seen)):
        assert torch.equal(module(states), before)
    assert len(seen) == len(PORTS)


def test_what_multiplies_in_another_way_is_refused_by_name_in_the_call():
    module, states = attention(processor=AttnProcessor()), torch.randn(1, 5, 16)
    with (
        pytest.raises(CaptureError, match=r"'a\.b' does not .*\(AttnProcessor\).*query.*'out'"),
        multiplied(module, "a.b", {"query": torch.clone}),
    ):
        module(states)
    assert "forward" not in vars(module)
