"""Find the attention modules of a network and replace the processors that compute them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0
from torch import nn

from emerdiff_probe.errors import ModelError
from emerdiff_probe.models.layouts import Part, attention_kind, layout_of, unwrapped
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


def attentions(network: nn.Module) -> dict[str, Any]:
    """Return all attention modules of a network that multiply queries with keys, by path.

    Raises:
        ModelError: An attention of a UNet is not plain attention over to_q, to_k and to_v, so that
            recording and injecting queries and keys would not be exact.
    """
    modules, layout = unwrapped(network).named_modules(), layout_of(network)
    if not layout.is_unet:
        parts = ((path, module, layout.part(path)) for path, module in modules)
        return {path: module for path, module, part in parts if part and _multiplies(part)}
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
        reasons = [reason for reason, found in unusual.items() if found]
        if reasons:
            raise ModelError(
                f"attention {path!r} has {' and '.join(reasons)}, which is not supported; "
                "Stable Diffusion v1, v2 and XL layouts are"
            )
    return found


def _multiplies(part: Part) -> bool:
    return part.kind == "attention" and bool(part.multiplied)


def product_sites(network: nn.Module) -> list[Site]:
    """Return the query and key sites of every attention, which determine its product QK^T.

    Raises:
        ModelError: An attention of a UNet is not plain attention; see `attentions`.
    """
    found = []
    for path in attentions(network):
        streams = ("", "text_") if attention_kind(network, path) == "joint" else ("",)
        found += [Site(path, f"{own}{port}") for own in streams for port in ("query", "key")]
    return found


def processors(unet: nn.Module) -> dict[Any, Any]:
    """Return the processors of all modules that have one."""
    modules = unwrapped(unet).modules()
    return {each: each.processor for each in modules if hasattr(each, "set_processor")}


def refuse_fused(path: str, module: nn.Module) -> None:
    """Refuse an attention that computes queries, keys and values in one projection.

    Raises:
        ModelError: The projections are fused.
    """
    # Check the processor: unfusing restores it but leaves `fused_projections` set.
    if "Fused" in type(getattr(module, "processor", None)).__name__:
        raise ModelError(
            f"the projections of {path!r} are fused, so to_q, to_k and to_v are not called; "
            "call unfuse_qkv_projections() on the pipeline or the UNet first"
        )


@contextmanager
def with_processors(unet: nn.Module, processors: Mapping[str, Any]) -> Iterator[None]:
    """Replace the processors of attention modules, given by path, within the block."""
    modules = attentions(unet)

    def instead(path: str) -> Callable[..., Any]:
        return lambda _: functools.partial(processors[path], modules[path])

    with tapping(unet) as stack:
        for path in processors:
            # Unlike set_attn_processor, this is invisible to other threads and leaves its argument
            # alone.
            stack.enter_context(around(modules[path], "forward", instead(path)))
        yield


def adapted(unet: nn.Module, site: Site) -> Attention | None:
    """Return the attention at a site if an IP-Adapter adds to its output, else None.

    Raises:
        ModelError: The processor adds something that cannot be told apart from the attention's own
            output.
    """
    attention: Any = unwrapped(unet).get_submodule(site.path)
    processor = attention.processor
    if not hasattr(processor, "to_k_ip"):
        return None
    if not isinstance(processor, IPAdapterAttnProcessor2_0):
        raise ModelError(
            f"'{site}' cannot be told apart from what {type(processor).__name__} adds; leave "
            "it out (as in '*:mix' after a '!'), or call unload_ip_adapter() on the pipeline"
        )
    return attention
