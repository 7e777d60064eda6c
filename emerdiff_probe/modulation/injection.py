"""Attention injection: queries and keys of one run, kept and given to another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from emerdiff_probe.errors import CaptureError, SiteError
from emerdiff_probe.probing.taps import (
    Call,
    Capture,
    attentions,
    called,
    capture,
    hooked,
    processed,
)
from emerdiff_probe.sites import Site

__all__ = ["AttentionProducts", "InjectAttention", "attention_kept", "products_captured"]

AttentionProducts = Mapping[Site, Tensor]
"""Queries and keys of all attention modules in one UNet call.

The products QK^T follow from them and would be some 30 times larger in Stable Diffusion v1.
"""


@dataclass(frozen=True, eq=False)
class InjectAttention:
    """Computes attention with the queries and keys of another run; values stay the run's own.

    Attributes:
        products: By timestep, from `attention_kept`; at other timesteps nothing is done. Each of
            their rows serves as many rows here as the batch is larger.
        pattern: Which attentions, by path, with ``*`` for any characters, as ``"*attn1"``.
    """

    products: Mapping[int, AttentionProducts] = field(repr=False)
    pattern: str = "*"

    @contextmanager
    def installed(self, unet: nn.Module, call: Call, guided: bool) -> Iterator[Callable[[], int]]:
        """Works while open."""
        processors = {
            path: _Injection(self.products, path, call, attention.processor)
            for path, attention in attentions(unet).items()
            if fnmatchcase(path, self.pattern)
        }
        if not processors:
            raise SiteError(f"no attention matches {self.pattern!r}; see model.sites(kind='self')")
        with processed(unet, processors):
            yield lambda: sum(each.fired for each in processors.values())


class _Injection:
    """An attention processor: ``f(softmax(Q K^T / sqrt(d)) V)`` with Q and K given."""

    def __init__(
        self,
        products: Mapping[int, AttentionProducts],
        path: str,
        call: Call,
        otherwise: Callable[..., Tensor],
    ) -> None:
        self._products = products
        self._sites = Site(path, "query"), Site(path, "key")
        self._call = call
        self._otherwise = otherwise
        self.fired = 0

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        products = self._products.get(self._call.timestep or 0)
        if products is None:
            return self._otherwise(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        if attention_mask is not None:
            raise CaptureError("attention with a mask cannot be injected; run without the mask")
        self.fired += 1
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        value = attn.to_v(context)
        repeats = len(value) // len(products[self._sites[0]])
        query, key = (
            products[site].repeat_interleave(repeats, dim=0).to(value) for site in self._sites
        )

        def heads(tensor: Tensor) -> Tensor:
            return tensor.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        mixed = F.scaled_dot_product_attention(heads(query), heads(key), heads(value))
        projected: Tensor = attn.to_out[0](mixed.transpose(1, 2).flatten(2))
        return projected


@contextmanager
def products_captured(unet: nn.Module) -> Iterator[Capture]:
    """Keeps queries and keys of every attention; ``take()`` after each call gives the products."""
    with capture(unet, _product_sites(unet)) as kept:
        yield kept


@contextmanager
def attention_kept(
    model: Any, timesteps: Collection[int] | None = None
) -> Iterator[Mapping[int, AttentionProducts]]:
    """Keeps queries and keys of every attention at every timestep, for `InjectAttention`.

    Args:
        model: From `emerdiff_probe.load`, a diffusers pipeline with a UNet, or the UNet.
        timesteps: Only of these; by default of all, which is about 130 MiB a timestep for Stable
            Diffusion v1 in float32.

    Yields:
        Products by timestep, filled as the UNet is called.
    """
    unet = getattr(model, "unet", model)
    kept: dict[int, dict[Site, Tensor]] = {}
    with called(unet) as call:

        def keeper(site: Site) -> Callable[[Tensor], None]:
            def keep(tensor: Tensor) -> None:
                timestep = call.timestep
                if timestep is not None and (timesteps is None or timestep in timesteps):
                    kept.setdefault(timestep, {})[site] = tensor

            return keep

        with hooked(unet, {site: keeper(site) for site in _product_sites(unet)}):
            yield kept


def _product_sites(unet: nn.Module) -> list[Site]:
    return [Site(path, port) for path in attentions(unet) for port in ("query", "key")]
