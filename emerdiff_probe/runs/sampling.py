"""Define the steps of the reverse process, and draw their noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Step", "noise_like", "transitions"]


@dataclass(frozen=True, eq=False)
class Step:
    """Hold one step of a run; tensors are float32 and have the latents' shape.

    Attributes:
        index: Position in the run, from 0.
        timestep: Timestep t of the scheduler.
        previous: Timestep that follows in denoising; None after the last.
        latents: Latents x_t.
        eps: Predicted noise.
        noise: Unit noise that the step adds, after scaling by sigma.
        next_latents: Latents after the step.
    """

    index: int
    timestep: int
    previous: int | None
    latents: Tensor
    eps: Tensor
    noise: Tensor
    next_latents: Tensor


def transitions(timesteps: Sequence[int]) -> list[tuple[int, int | None]]:
    """Return pairs of a timestep and its successor; the last leads to None, the clean image."""
    return list(zip(timesteps, [*timesteps[1:], None], strict=True))


def noise_like(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Return unit Gaussian noise of the latents' shape, the same on every device (CPU-drawn)."""
    return torch.randn(latents.shape, generator=generator).to(latents.device)
