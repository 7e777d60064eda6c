"""Attention of many branches that share queries and keys with one run.

Under injection (section 3.2 of the paper) branches use the products QK^T of the unmodulated run, so
everything that depends on these alone is computed once. A cross-attention, whose keys and values
come from the text, returns the output of the unmodulated run to every branch. In self-attention and
in joint attention of image and text, one softmax(QK^T) serves all branches: only values differ, and
they become channels of a single attention. Queries and keys of branches are never computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from einops import rearrange
from torch import Tensor, nn

from emerdiff_probe.models.layouts import IMAGE, TEXT, attention_kind, layout_of
from emerdiff_probe.models.locks import around, tapping
from emerdiff_probe.sites import Site
from emerdiff_probe.taps import attentions, given, multiplied, with_processors

__all__ = ["attended", "shared_attention", "shared_sites"]

_PROJECTIONS: Final = {
    "query": ("to_q", "add_q_proj"),
    "key": ("to_k", "add_k_proj"),
}
"""Modules that compute queries and keys of the image and of the text."""

_QUERIES: Final = 256
"""The number of queries per batch: some 30 MiB of probabilities at Stable Diffusion v1's finest
level.
"""


def shared_sites(network: nn.Module) -> list[Site]:
    """Return what branches share: outputs of cross-attention, queries and keys of the rest."""
    return [
        site
        for path in attentions(network)
        for site in (
            [Site(path, "out")]
            if attention_kind(network, path) == "cross"
            else [each for port in _PROJECTIONS for each in _streams(network, path, port)]
        )
    ]


def _streams(network: nn.Module, path: str, port: str) -> list[Site]:
    """Return the sites whose tensors, joined along the tokens, are a factor of an attention."""
    part = layout_of(network).part(path)
    if part is None or len(part.multiplied) == 1:
        return [Site(path, port)]
    return [Site(path, port if stream == IMAGE else f"{TEXT}_{port}") for stream in part.multiplied]


@contextmanager
def shared_attention(
    network: nn.Module, known: Mapping[Site, Tensor], branches: int, own: str | None = None
) -> Iterator[None]:
    """Compute the attentions of branches from the tensors of one call while the block is open.

    Args:
        network: The UNet or transformer.
        known: The tensors of that call at `shared_sites`.
        branches: The number of rows for each row of that call.
        own: The path of an attention that is left as it is.

    Raises:
        CaptureError: Within a call: an attention multiplies in another way, or under a mask.
    """
    outputs, factors = dict[str, Tensor](), dict[str, tuple[Tensor, Tensor]]()
    for path in attentions(network):
        if path == own:
            continue
        if attention_kind(network, path) == "cross":
            outputs[path] = known[Site(path, "out")]
        else:
            query, key = (
                torch.cat([known[site] for site in _streams(network, path, port)], dim=1)
                for port in _PROJECTIONS
            )
            factors[path] = (query, key)
    with tapping(network) as stack:
        stack.enter_context(given(network, outputs, branches))
        if layout_of(network).is_unet:
            # Processors may not multiply by PyTorch's function, and attentions of UNets are plain.
            plain = AttnProcessor2_0()
            stack.enter_context(with_processors(network, dict.fromkeys(factors, plain)))
        for path, (query, key) in factors.items():
            attention, mix = network.get_submodule(path), _side_by_side(query, key)
            stack.enter_context(multiplied(attention, path, {}, masked=False, mix=mix))
            for name in (name for names in _PROJECTIONS.values() for name in names):
                if isinstance(projection := getattr(attention, name, None), nn.Module):
                    stack.enter_context(around(projection, "forward", _skipped(query.shape[-1])))
        yield


def _skipped(channels: int) -> Callable[..., Any]:
    """Return zeros that take no memory in place of a projection that nobody reads."""

    def wrap(_original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x, *_: x.new_zeros(()).expand(*x.shape[:-1], channels)

    return wrap


def _side_by_side(query: Tensor, key: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that mixes values by known queries and keys, shape (row, place, channel).

    Each row of these serves several consecutive rows of values.
    """

    def mix(values: Tensor) -> Tensor:
        queries, keys = (
            rearrange(
                each, "row place (head channel) -> row head place channel", head=values.shape[1]
            )
            for each in (query, key)
        )
        beside = rearrange(
            values,
            "(row branch) head place channel -> row head place (branch channel)",
            row=len(query),
        )
        return rearrange(
            attended(queries, keys, beside),
            "row head place (branch channel) -> (row branch) head place channel",
            branch=len(values) // len(query),
        )

    return mix


def attended(query: Tensor, key: Tensor, values: Tensor) -> Tensor:
    """Return ``softmax(Q K^T / sqrt(d)) V``, where values may be wider than queries.

    Args:
        query, key, values: The factors, shape (row, head, place, channel).
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, values)
    # PyTorch's fast kernel for CPUs needs values as wide as queries; otherwise the whole matrix is
    # held.
    keys = (key * query.shape[-1] ** -0.5).transpose(-1, -2)
    # A softmax in half precision sums in single precision internally.
    return torch.cat(
        [(some @ keys).softmax(-1) @ values for some in query.split(_QUERIES, dim=2)], dim=2
    )
