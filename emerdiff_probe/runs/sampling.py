"""Steps of the reverse process: what one holds, and the noise that they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Step", "noise_like", "transitions"]


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
    """Pairs of a timestep and the one after it; the last leads to None, the clean image."""
    return list(zip(timesteps, [*timesteps[1:], None], strict=True))


def noise_like(latents: Tensor, generator: torch.Generator) -> Tensor:
    """Unit Gaussian noise of the latents' shape, drawn on the CPU: the same on every device."""
    return torch.randn(latents.shape, generator=generator).to(latents.device)
