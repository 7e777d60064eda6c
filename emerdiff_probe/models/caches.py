"""Refuse step caches: modules that reuse what an earlier step or the other half computed.

To a tap, cached values look like computed ones, so caches are refused by name.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any, Final

from torch import nn

from emerdiff_probe.errors import ModelError
from emerdiff_probe.models.catalogue import unwrapped
from emerdiff_probe.models.locks import original

__all__ = ["refuse_caching"]

_COMPUTING: Final = frozenset(
    {
        "group_offloading",
        "layer_execution_tracker",
        "layerwise_casting",
        "lazy_prefetch_group_offloading",
        "peft_autocast_disable",
    }
)
"""Hooks of diffusers that move and cast weights, but still call all modules."""


def refuse_caching(unet: nn.Module) -> None:
    """Refuse a network that is not computed in full, once, in every call; warn if that is unknown.

    Raises:
        ModelError: It has a step cache, or gradient checkpointing in training.
    """
    if getattr(unet, "is_cache_enabled", False):
        raise ModelError(
            "a step cache is on, so some modules are not called at some steps; "
            "call disable_cache() on the UNet first"
        )
    if unet.training and getattr(unet, "is_gradient_checkpointing", False):
        raise ModelError(
            "gradient checkpointing is on, so modules are called twice; "
            "call disable_gradient_checkpointing() on the UNet, or unet.eval(), first"
        )
    for path, module in unwrapped(unet).named_modules():
        _refuse_hooks(path or "the UNet", module)
        _refuse_replaced(path or "the UNet", module)


def _refuse_hooks(path: str, module: nn.Module) -> None:
    hooks: Any = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
    for name in hooks:
        # A hook that is installed in several places has a number after its name.
        if not name.startswith(tuple(_COMPUTING)):
            raise ModelError(
                f"{path} has the hook {name!r} of diffusers, so its output may come from another "
                "step (a step cache?) instead of being computed; first call disable_cache(), or "
                f"remove the hook with module._diffusers_hook.remove_hook({name!r})"
            )


def _refuse_replaced(path: str, module: nn.Module) -> None:
    forward = original(module, "forward")
    known = ("_hf_hook", "_diffusers_hook")  # offloading, and the hooks above
    if forward is None or any(hasattr(module, each) for each in known):
        return
    if hasattr(forward, "_torchdynamo_orig_callable"):  # compiled
        return
    function = inspect.unwrap(forward.func if isinstance(forward, functools.partial) else forward)
    kind = getattr(function, "__qualname__", type(function).__qualname__)
    name = f"{getattr(function, '__module__', '')}.{kind}"
    if "cache" in name.lower():
        raise ModelError(
            f"the forward of {path} is replaced by {name}, a step cache, so its output may come "
            "from another step instead of being computed; disable it first"
        )
    warnings.warn(
        f"the forward of {path} is replaced by {name}; its output is recorded whether it was "
        "computed or reused",
        stacklevel=6,
    )
