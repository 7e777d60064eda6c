"""Estimates count what calls really take, and the measurement on a GPU runs on a CPU, too."""

import functools

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import estimates, gpu
from benchmarks.counting import counted
from benchmarks.full_size import SIZES

SMALL = {
    **gpu.NARROW,
    "Stable Diffusion 3 medium": SIZES["Stable Diffusion 3 medium"].changed(
        128, num_layers=14, num_attention_heads=1, caption_projection_dim=64, joint_attention_dim=16
    ),
    "Flux.1-dev": SIZES["Flux.1-dev"].changed(
        128, num_layers=2, num_single_layers=10, num_attention_heads=1, joint_attention_dim=16
    ),
}


@functools.cache
def costs_of(name):
    return estimates.costs_of(SMALL[name], batch=4)


def test_operations_and_memory_are_those_of_the_calls():
    x = torch.empty(4, 8, device="meta")
    with counted() as found:
        y = x @ torch.empty(8, 16, device="meta")
        del y
        z = torch.empty(4, 100, device="meta")
        z.add_(1)
    assert found.operations == 2 * 4 * 8 * 16
    assert found.peak == 4 * max(8 * 16 + 4 * 16, 4 * 100)
    query, value = (
        torch.empty(1, 2, 64, 16, device="meta"),
        torch.empty(1, 2, 64, 48, device="meta"),
    )
    with counted() as found:
        assert functional.scaled_dot_product_attention(query, query, value).shape == value.shape
    assert found.operations == 2 * 2 * 64 * 64 * (16 + 48)


@pytest.mark.parametrize("name", SMALL)
def test_engines_take_what_their_calls_take(name):
    costs = costs_of(name)
    row = costs.call.operations
    assert costs.plain.operations == pytest.approx(4 * row, rel=0.05)
    # Sharing leaves something out, and beginning at the shifted site more.
    assert costs.first.operations < costs.shared.operations < costs.plain.operations
    literal, shared, short, jump = (costs.segmentation(each, 2, 10) for each in estimates.ENGINES)
    assert jump < short < shared < literal
    assert literal == 10 * 5 * row + 4 * costs.decoding.operations
    assert costs.memory("literal") > 2 * costs.parameters
    assert costs.kept > 0


def test_a_counted_call_is_a_real_one():
    """The control: a UNet of values, counted by PyTorch with its plain attention."""
    size = gpu.NARROW["Stable Diffusion v1"]
    costs = costs_of("Stable Diffusion v1")
    network = size.network(**size.config).eval()
    with (
        torch.no_grad(),
        torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        network(torch.zeros(1, 4, 16, 16), 1, torch.zeros(1, 77, 32))
    assert costs.call.operations == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_published_sizes_have_their_parameters():
    for name, millions in (("Stable Diffusion v1", 859.5), ("Stable Diffusion XL", 2567.5)):
        network, vae = SIZES[name].weightless()
        assert sum(each.numel() for each in network.parameters()) / 1e6 == pytest.approx(
            millions, abs=0.1
        )
        assert sum(each.numel() for each in vae.parameters()) / 1e6 == pytest.approx(83.65, abs=0.1)


def test_estimates_are_tabulated_and_drawn():
    costs = {name: costs_of(name) for name in list(SMALL)[:2]}
    found = estimates.table(costs)
    assert len(found) == 2 * 5
    rate = found["teraflops"] * 1e12 / found["seconds"]
    assert np.allclose(rate, estimates.RATE * estimates.SHARE)
    assert len(estimates.chart(found).data) == 4


@pytest.mark.parametrize("name", gpu.NARROW)
def test_the_measurement_runs_on_a_cpu(name):
    found = gpu.measured(
        name, gpu.NARROW[name], device="cpu", dtype=torch.float32, masks=2, steps=4
    )
    assert list(found.index)[1:] == [f"segmentation, {each}" for each in estimates.ENGINES]
    assert (found["seconds"] > 0).all()
    assert found["share"].between(0, 1, inclusive="neither").all()
    assert found["gigabytes"].isna().all()
