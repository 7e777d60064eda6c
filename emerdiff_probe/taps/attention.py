"""Attention modules: which there are, and what computes them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0
from torch import nn

from emerdiff_probe.errors import ModelError
from emerdiff_probe.models.layouts import TEXT, layout_of, unwrapped
from emerdiff_probe.models.locks import around, tapping
from emerdiff_probe.sites import Site

__all__ = [
    "adapted",
    "attentions",
    "processors",
    "product_sites",
    "refuse_fused",
    "with_processors",
]


def attentions(unet: nn.Module) -> dict[str, Attention]:
    """All attention modules of a UNet by path.

    Raises:
        ModelError: One of them computes something else than plain attention over to_q, to_k and
            to_v, so that recording and injecting its queries and keys would not be exact. The model
            is a transformer.
    """
    if not layout_of(unet).is_unet:
        raise ModelError(
            f"the attentions of a {type(unwrapped(unet)).__name__} cannot be computed for many "
            "runs at once, as the engine 'shared' does; choose engine='literal'"
        )
    modules = unwrapped(unet).named_modules()
    found = {path: module for path, module in modules if isinstance(module, Attention)}
    for path, attention in found.items():
        refuse_fused(path, attention)
        unusual = {
            "added keys and values": attention.add_k_proj is not None,
            "normalised queries": attention.norm_q is not None or attention.norm_k is not None,
            "a norm of its own": attention.group_norm is not None
            or attention.spatial_norm is not None
            or bool(attention.norm_cross),
            "a residual connection": attention.residual_connection,
            "a rescaled output": attention.rescale_output_factor != 1,
        }
        reasons = [what for what, there in unusual.items() if there]
        if reasons:
            raise ModelError(
                f"attention {path!r} has {' and '.join(reasons)}, which is not supported; "
                "Stable Diffusion v1, v2 and XL layouts are"
            )
    return found


def product_sites(network: nn.Module) -> list[Site]:
    """Queries and keys of every attention: all that its product QK^T follows from.

    Raises:
        ModelError: A UNet's attention computes something else; see `attentions`.
    """
    layout = layout_of(network)
    if layout.is_unet:
        return [Site(path, port) for path in attentions(network) for port in ("query", "key")]
    found = []
    for path, _ in unwrapped(network).named_modules():
        part = layout.part(path)
        if part is not None and part.kind == "attention":
            streams = ("", "text_") if TEXT in part.multiplied else ("",)
            found += [Site(path, f"{own}{port}") for own in streams for port in ("query", "key")]
    return found


def processors(unet: nn.Module) -> dict[Any, Any]:
    """The processor of every module that has one."""
    modules = unwrapped(unet).modules()
    return {each: each.processor for each in modules if hasattr(each, "set_processor")}


def refuse_fused(path: str, module: nn.Module) -> None:
    """Refuses an attention that computes queries, keys and values in one.

    Raises:
        ModelError: It does.
    """
    # Unfusing puts the processors back and leaves `fused_projections` set, so these are asked.
    if "Fused" in type(getattr(module, "processor", None)).__name__:
        raise ModelError(
            f"the projections of {path!r} are fused, so to_q, to_k and to_v are not called; "
            "call unfuse_qkv_projections() on the pipeline or the UNet first"
        )


@contextmanager
def with_processors(unet: nn.Module, processors: Mapping[str, Any]) -> Iterator[None]:
    """Has attention modules, given by path, computed by other processors than their own."""
    modules = attentions(unet)

    def instead(path: str) -> Callable[..., Any]:
        return lambda _: functools.partial(processors[path], modules[path])

    with tapping(unet) as stack:
        for path in processors:
            # Not set_attn_processor, which every thread would see, and which empties its argument.
            stack.enter_context(around(modules[path], "forward", instead(path)))
        yield


def adapted(unet: nn.Module, site: Site) -> Attention | None:
    """The attention at a site if an IP-Adapter adds to what it mixes."""
    attention: Any = unwrapped(unet).get_submodule(site.path)
    processor = attention.processor
    if not hasattr(processor, "to_k_ip"):
        return None
    if not isinstance(processor, IPAdapterAttnProcessor2_0):
        raise ModelError(
            f"'{site}' cannot be told from what the {type(processor).__name__} adds to it; leave "
            "it out (as in '*:mix' after a '!'), or call unload_ip_adapter() on the pipeline"
        )
    return attention
