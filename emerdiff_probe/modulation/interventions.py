"""What is done to a modulated run: a shift at one site, and injected attention."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from emerdiff_probe.errors import CaptureError, SiteError
from emerdiff_probe.probing.taps import Capture, attentions, capture, hooked, processed
from emerdiff_probe.sites import Site

__all__ = ["AttentionProducts", "injected", "products_captured", "shifted"]

AttentionProducts = Mapping[Site, Tensor]
"""Queries and keys of all attention modules in one UNet call.

The products QK^T follow from them and would be some 30 times larger in Stable Diffusion v1.
"""


@contextmanager
def products_captured(unet: nn.Module) -> Iterator[Capture]:
    """Keeps queries and keys of every attention; ``take()`` after each call gives the products."""
    sites = [Site(path, port) for path in attentions(unet) for port in ("query", "key")]
    with capture(unet, sites) as kept:
        yield kept


@contextmanager
def injected(unet: nn.Module, products: AttentionProducts) -> Iterator[None]:
    """Computes every attention with given queries and keys; values stay the run's own.

    Args:
        unet: The model.
        products: From an unmodulated call. Each of its rows serves as many rows here as the
            batch is larger.
    """
    processors = {
        path: _Injection(products[Site(path, "query")], products[Site(path, "key")])
        for path in attentions(unet)
    }
    with processed(unet, processors):
        yield


class _Injection:
    """An attention processor: ``f(softmax(Q K^T / sqrt(d)) V)`` with Q and K given.

    Args:
        query: Projected queries, shape (row, location, channel).
        key: Projected keys, shape (row, location or token, channel).
    """

    def __init__(self, query: Tensor, key: Tensor) -> None:
        self._query = query
        self._key = key

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if attention_mask is not None:
            raise CaptureError("attention with a mask cannot be injected; run without the mask")
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        value = attn.to_v(context)
        repeats = len(value) // len(self._query)
        query, key = (
            tensor.repeat_interleave(repeats, dim=0) for tensor in (self._query, self._key)
        )

        def heads(tensor: Tensor) -> Tensor:
            return tensor.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(heads(query), heads(key), heads(value))
        projected: Tensor = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        return projected


@contextmanager
def shifted(unet: nn.Module, site: Site, shift: Tensor) -> Iterator[None]:
    """Adds the same number to all channels of a location: the paper's ``+ c M``.

    Args:
        unet: The model.
        site: The output of an attention, shape (row, location, channel).
        shift: c M for every modulated run, shape (run, location). With guidance a call has twice
            the rows, and both halves are shifted.

    Raises:
        SiteError: The site's tensor has another number of locations, or none.
    """

    def edit(output: Tensor) -> Tensor:
        if output.ndim != 3 or output.shape[1] != shift.shape[1]:
            raise SiteError(
                f"'{site}' gives {tuple(output.shape)}, which has not the {shift.shape[1]} "
                "locations of the masks; choose an attention of the features' level"
            )
        rows = shift.repeat(len(output) // len(shift), 1).to(output)
        return output + rows[..., None]

    with hooked(unet, {site: edit}):
        yield
