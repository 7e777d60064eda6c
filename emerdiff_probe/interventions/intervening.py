"""`intervene()`: has interventions work in a model as long as a ``with`` lasts.

For example::

    with ep.intervene(pipe, [Shift(site, 10.0, mask=mask, timesteps=[281]), Ablate(other)]):
        pipe("a red house")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from emerdiff_probe.errors import CaptureError
from emerdiff_probe.models.active import activated
from emerdiff_probe.models.layouts import layout_of, network_of
from emerdiff_probe.recording.calling import callers
from emerdiff_probe.taps import Call, current_call, restored_after_errors
from emerdiff_probe.timesteps import text

__all__ = ["Intervention", "acting_at", "intervene"]


class Intervention(Protocol):
    """What `intervene` can do to a UNet."""

    def installed(self, unet: nn.Module, call: Call) -> AbstractContextManager[Callable[[], int]]:
        """Works while open; gives a function that says how often it has taken effect."""

    def acts_at(self, timestep: float) -> bool:
        """Whether it changes anything at a timestep."""


def acting_at(
    interventions: Iterable[Intervention], timesteps: Iterable[float]
) -> tuple[Intervention, ...]:
    """Return the interventions that act at one of some timesteps, in order.

    The others would be refused by `intervene`, since they never take effect there.
    """
    timesteps = tuple(timesteps)
    return tuple(each for each in interventions if any(map(each.acts_at, timesteps)))


@contextmanager
def intervene(
    model: Any,
    interventions: Intervention | Iterable[Intervention],
    *,
    guided: bool | None = None,
) -> Iterator[None]:
    """Changes what happens inside a model as long as the ``with`` lasts.

    Of several at one site the later ones see what the earlier ones leave. Blocks may be nested; the
    model is left as it was found, whatever happens inside.

    Args:
        model: From `emerdiff_probe.load`, a diffusers pipeline, or its UNet or transformer.
        interventions: One, or several in order.
        guided: Whether the rows of every UNet call are two halves, without and with the text
            (classifier-free guidance in one call). Pipelines and models tell it while they run;
            say it around a loop of your own, whose rows are else all samples.

    Raises:
        ModelError: Nothing is known of the network's class.
        SiteError: A site does not exist, or its tensor does not fit an intervention.
        ConfigError: One is limited to a guidance half, but calls are not guided; or to samples, and
            the pipeline does not tell which rows are theirs.
        CaptureError: At the end: the UNet was called, and one of them never took effect.
    """
    unet = network_of(model)
    layout_of(unet)  # refused before anything is installed
    wanted = list(interventions) if isinstance(interventions, Iterable) else [interventions]
    with ExitStack() as stack:
        stack.enter_context(restored_after_errors(model))
        call = stack.enter_context(current_call(unet, stack.enter_context(_halves(model, guided))))
        counts = {each: stack.enter_context(each.installed(unet, call)) for each in wanted}
        stack.enter_context(activated(unet, wanted))
        yield
        idle = [each for each, count in counts.items() if count() == 0]
        if call.seen and idle:
            seen = ", ".join(map(text, sorted(call.seen, reverse=True)))
            raise CaptureError(
                f"{idle[0]} never took effect: the UNet was called at timesteps [{seen}]"
            )


@contextmanager
def _halves(model: Any, guided: bool | None) -> Iterator[Callable[[Tensor], int | None]]:
    """Gives a function that counts the guidance halves among the rows of a call's latents."""
    if guided is not None:
        yield lambda latents: 2 if guided else 1
        return
    denoiser = model if hasattr(model, "predict") else None
    is_pipeline = denoiser is None and not isinstance(model, nn.Module)
    pipeline = model if is_pipeline else None
    with callers(pipeline or getattr(model, "pipeline", None), denoiser) as caller:

        def count(latents: Tensor) -> int | None:
            now = caller()
            if now is None:
                return 1
            labels = now.guidance(latents)
            return None if labels is None else len(labels) or 1

        yield count
