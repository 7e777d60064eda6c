"""Denoising as a generator of steps: loops yield, callers collect."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emerdiff_probe.models.denoiser import Condition, Denoiser

__all__ = ["Step", "denoise", "noise_like", "transitions"]


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a run; tensors are float32 of the latents' shape.

    Attributes:
        index: Position in the run, from 0.
        timestep: The scheduler's t.
        previous: The timestep that follows in denoising, None after the last.
        latents: x_t.
        eps: The predicted noise.
        noise: The unit noise that the step adds, scaled by sigma.
        next_latents: What x_t becomes.
    """

    index: int
    timestep: int
    previous: int | None
    latents: Tensor
    eps: Tensor
    noise: Tensor
    next_latents: Tensor


def transitions(timesteps: Sequence[int]) -> list[tuple[int, int | None]]:
    """Pairs of a timestep and the one after it; the last leads to None, the clean picture."""
    return list(zip(timesteps, [*timesteps[1:], None], strict=True))


def noise_like(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Unit Gaussian noise of the latents' shape, drawn on the CPU: the same on every device."""
    return torch.randn(latents.shape, generator=generator).to(latents.device)


def denoise(
    model: Denoiser,
    latents: Tensor,
    timesteps: Sequence[int],
    condition: Condition,
    noises: Sequence[Tensor],
    eta: float = 1.0,
) -> Iterator[Step]:
    """Runs the reverse process over given timesteps with given noise.

    Args:
        model: The denoiser.
        latents: x at the first timestep, shape (sample, channel, y, x).
        timesteps: From the most noise to the least.
        condition: Encoded text.
        noises: The unit noise of each step.
        eta: 1 for DDPM, 0 for DDIM.

    Yields:
        A `Step` for each timestep; the last one's `next_latents` are the clean latents.
    """
    for index, (timestep, previous) in enumerate(transitions(timesteps)):
        eps = model.predict(latents, timestep, condition)
        following = model.schedule.step(latents, eps, noises[index], timestep, previous, eta)
        yield Step(index, timestep, previous, latents, eps, noises[index], following)
        latents = following
