"""Track who is calling a network: a pipeline, a model, or a loop that reports nothing."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor

from emerdiff_probe.models import Condition, Denoiser
from emerdiff_probe.models.locks import around
from emerdiff_probe.recording.callers import Caller, PipelineCall, Prediction

__all__ = ["callers"]


@contextmanager
def callers(pipeline: Any, denoiser: Denoiser | None) -> Iterator[Callable[[], Caller | None]]:
    """Track the caller of a network.

    Args:
        pipeline: The pipeline that may call it, or None.
        denoiser: The model that may call it, or None.

    Yields:
        A function that returns the caller of the call in progress; None for a loop of the user's
        own.
    """
    now: list[Caller] = []

    @contextmanager
    def announced(caller: Caller) -> Iterator[None]:
        now.append(caller)
        try:
            yield
        finally:
            now.pop()

    def of_pipeline(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(own: Any, *arguments: Any, **named: Any) -> Any:
            if own is not pipeline:
                return original(own, *arguments, **named)
            given = inspect.signature(original).bind_partial(own, *arguments, **named)
            with announced(PipelineCall.of(pipeline, given.arguments)):
                return original(own, *arguments, **named)

        return call

    def of_denoiser(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @functools.wraps(original)
        def predict(latents: Tensor, timestep: int, condition: Condition) -> Tensor:
            assert denoiser is not None
            with announced(Prediction(denoiser, condition)):
                return original(latents, timestep, condition)

        return predict

    with ExitStack() as stack:
        if pipeline is not None:
            stack.enter_context(around(type(pipeline), "__call__", of_pipeline))
        if denoiser is not None:
            stack.enter_context(around(denoiser, "predict", of_denoiser))
        yield lambda: now[-1] if now else None
