"""Step caches: parts of a UNet that give what an earlier step or another half computed.

What a tap sees there looks as if it had been computed, so caches are refused by name.
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
"""Hooks of diffusers that move and cast weights, and leave all modules to be called."""


def refuse_caching(unet: nn.Module) -> None:
    """Refuses a UNet that is not computed in full, once, in every call; warns where nobody knows.

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
        # Hooks that are one in several places have its number after their name.
        if not name.startswith(tuple(_COMPUTING)):
            raise ModelError(
                f"{path} has the hook {name!r} of diffusers, so that what it gives may come from "
                "another step (a step cache?) and not be computed; call disable_cache(), or take "
                f"it off with module._diffusers_hook.remove_hook({name!r}), first"
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
            f"the forward of {path} is replaced by {name}, a step cache, so that what it gives may "
            "come from another step and not be computed; disable it first"
        )
    warnings.warn(
        f"the forward of {path} is replaced by {name}; what is seen there is what that gives, "
        "whether it computes it or not",
        stacklevel=6,
    )
