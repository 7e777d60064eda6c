"""Restore the attention processors that perturbed attention guidance (PAG) swaps for a call.

Its pipelines restore the original processors at the end of a call, but not if the call fails, for
example with an error that a tap raises.
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
    """Restore attention processors if a pipeline call fails.

    A pipeline's processors are restored when its call ends. A bare network cannot tell when a
    pipeline that calls it has finished: perturbed processors that were set within the block are
    removed at its end.

    Args:
        model: A diffusers pipeline, an object that has one, or a network.
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
    """Restore the processors that perturbed ones have replaced."""
    now = {each: each.processor for each in found}
    perturbed = [each for each, own in now.items() if type(own).__name__.startswith("PAG")]
    _put_back({each: found[each] for each in perturbed})
