"""Perturbed attention guidance (PAG), whose pipelines swap in processors of their own for a call.

They put the former ones back at its end, and not where it ends in an error, such as one that a tap
raises.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers import DiffusionPipeline
from torch import nn

from emerdiff_probe.models.layouts import network_of
from emerdiff_probe.models.locks import around
from emerdiff_probe.taps.attention import processors

__all__ = ["restored_after_errors"]


@contextmanager
def restored_after_errors(model: Any) -> Iterator[None]:
    """Puts attention processors back where a call of a pipeline ends in an error.

    A pipeline's are put back when its call ends. A bare UNet does not know when a pipeline that
    calls it is done: processors of perturbed attention that came in the block leave with it.

    Args:
        model: A diffusers pipeline, what has one, or a UNet.
    """
    pipeline = getattr(model, "pipeline", model)
    unet = network_of(pipeline)

    def restoring(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(called: Any, *arguments: Any, **named: Any) -> Any:
            if called is not pipeline:
                return original(called, *arguments, **named)
            found = processors(unet)
            try:
                return original(called, *arguments, **named)
            except BaseException:
                _put_back(found)
                raise

        return call

    with ExitStack() as stack:
        if isinstance(unet, nn.Module):
            stack.callback(_unperturb, processors(unet))
        if isinstance(pipeline, DiffusionPipeline):
            stack.enter_context(around(type(pipeline), "__call__", restoring))
        yield


def _put_back(found: dict[Any, Any]) -> None:
    for attention, processor in found.items():
        if attention.processor is not processor:
            attention.set_processor(processor)


def _unperturb(found: dict[Any, Any]) -> None:
    """Puts back those in whose place there are perturbed ones now."""
    now = {each: each.processor for each in found}
    perturbed = [each for each, own in now.items() if type(own).__name__.startswith("PAG")]
    _put_back({each: found[each] for each in perturbed})
