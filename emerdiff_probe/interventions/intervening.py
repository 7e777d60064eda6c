"""Apply interventions to a model within a ``with`` block.

For example::

    with ep.intervene(pipe, [Shift(site, 10.0, mask=mask, timesteps=[281]), Ablate(other)]):
        pipe("a red house")
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from emerdiff_probe.errors import CaptureError
from emerdiff_probe.interventions.site_edits import SiteEdit
from emerdiff_probe.models.active import activated
from emerdiff_probe.models.beside import role_of
from emerdiff_probe.models.layouts import layout_of, network_of
from emerdiff_probe.recording.calling import callers
from emerdiff_probe.taps import Call, current_call, restored_after_errors
from emerdiff_probe.timesteps import text

__all__ = ["Intervention", "acting_at", "intervene", "intervened"]


class Intervention(Protocol):
    """A change that `intervene` can make to a network."""

    def installed(self, unet: nn.Module, call: Call) -> AbstractContextManager[Callable[[], int]]:
        """Apply the change within a block; yield a counter of the times it took effect."""

    def acts_at(self, timestep: float) -> bool:
        """Return whether it changes anything at a timestep."""


def acting_at(
    interventions: Iterable[Intervention], timesteps: Iterable[float]
) -> tuple[Intervention, ...]:
    """Return the interventions that act at one of the given timesteps, in order.

    `intervene` would refuse the others, because they never take effect there.
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
    """Change what happens inside a model within a ``with`` block.

    If several interventions act on one site, each sees the result of the ones before it. Blocks may
    be nested; the model is left as it was found, even after an error.

    Args:
        model: A model from `emerdiff_probe.load`, a diffusers pipeline, or its UNet or transformer.
        interventions: One intervention, or several in order. Those of text encoders and of the
            autoencoder act where these are called within the block; a run that is already made has
            its text, and needs `emerdiff_probe.runs.Run.replay`.
        guided: Whether the rows of every network call are two halves, without and with the text
            (classifier-free guidance in one call). Pipelines and models report this while they run;
            set it around a loop of your own, whose rows otherwise all count as samples.

    Raises:
        ModelError: The class of the network is unknown.
        SiteError: A site does not exist, or its tensor does not fit an intervention.
        ConfigError: An intervention is limited to a guidance half, but calls are not guided; or to
            samples, and the pipeline does not report which rows belong to them.
        CaptureError: At the end: the network was called, but an intervention never took effect.
    """
    wanted = list(interventions) if isinstance(interventions, Iterable) else [interventions]
    with intervened(model, wanted, guided=guided, whole=True):
        yield


@contextmanager
def intervened(
    model: Any, interventions: Sequence[Intervention], *, guided: bool | None = None, whole: bool
) -> Iterator[None]:
    """Change what happens inside a model within a ``with`` block; see `intervene`.

    Args:
        model: The model, pipeline or network.
        interventions: The interventions in order.
        guided: See `intervene`.
        whole: Whether the block draws a whole image from a prompt, so that interventions on text
            encoders and the autoencoder must take effect in it as well.
    """
    unet = network_of(model)
    layout_of(unet)  # refuse before anything is installed
    with ExitStack() as stack:
        stack.enter_context(restored_after_errors(model))
        call = stack.enter_context(current_call(unet, stack.enter_context(_halves(model, guided))))
        counts = {
            each: stack.enter_context(
                each.installed_beside(model)
                if isinstance(each, SiteEdit) and role_of(each.site) is not None
                else each.installed(unet, call)
            )
            for each in interventions
        }
        stack.enter_context(activated(unet, interventions))
        yield
        idle = [each for each, count in counts.items() if count() == 0]
        beside = [each for each in idle if isinstance(each, SiteEdit) and role_of(each.site)]
        if call.seen and beside and whole:
            raise CaptureError(
                f"{beside[0]} never took effect: its part was not called, as with a prompt that "
                "came encoded, or on a run that is already made; for a run use run.replay()"
            )
        idle = [each for each in idle if each not in beside]
        if call.seen and idle:
            seen = ", ".join(map(text, sorted(call.seen, reverse=True)))
            raise CaptureError(
                f"{idle[0]} never took effect: the UNet was called at timesteps [{seen}]"
            )


@contextmanager
def _halves(model: Any, guided: bool | None) -> Iterator[Callable[[Tensor], int | None]]:
    """Yield a function that counts the guidance halves among the rows of a call's latents."""
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
