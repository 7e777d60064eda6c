"""Trajectories: all that a denoising run needs to be run again, and that of drawing a prompt."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from emerdiff_probe.models.denoiser import Condition, Denoiser
from emerdiff_probe.runs.sampling import Step, denoise, noise_like, transitions

__all__ = ["Trajectory", "prompted", "sample"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """All that a denoising run needs to be run again, modulated or not.

    Attributes:
        timesteps: From the most noise to the least.
        start: x at the first timestep, float32, shape (1, channel, y, x).
        noises: The unit noise of each step, of that shape.
        eta: 1 for DDPM steps, 0 for DDIM steps.
        condition: The text of all its predictions.
        diagnostics: How good the inversion is; fit for JSON.
        latents: x_t at every timestep and at last the clean latents that the unmodulated run ends
            with, where they are known without running it; else empty.
    """

    timesteps: tuple[int, ...]
    start: Tensor
    noises: tuple[Tensor, ...]
    eta: float
    condition: Condition
    diagnostics: dict[str, object] = field(default_factory=dict)
    latents: tuple[Tensor, ...] = ()

    def passed(self, model: Denoiser) -> tuple[Tensor, ...]:
        """x_t at every timestep, and the clean latents; runs the model where they are not known."""
        if self.latents:
            return self.latents
        steps = list(self.run(model))
        return (*(step.latents for step in steps), steps[-1].next_latents)

    def since(self, timestep: int) -> Trajectory:
        """What is left of it from a timestep on: that run again.

        Args:
            timestep: One of its own.
        """
        if not self.latents:  # x_t is known only by running to it
            return self
        first = self.timesteps.index(timestep)
        return dataclasses.replace(
            self,
            timesteps=self.timesteps[first:],
            start=self.latents[first],
            noises=self.noises[first:],
            latents=self.latents[first:],
        )

    def advance(self, model: Denoiser, index: int, latents: Tensor, eps: Tensor) -> Tensor:
        """Takes the trajectory's step at `index` with a predicted noise.

        Args:
            model: The denoiser.
            index: Position of the timestep.
            latents: x_t of any number of runs, shape (run, channel, y, x).
            eps: Their predicted noise.

        Returns:
            Their latents at the next timestep.
        """
        timestep, previous = transitions(self.timesteps)[index]
        noise = self.noises[index]
        return model.schedule.step(latents, eps, noise, timestep, previous, self.eta)

    def run(self, model: Denoiser) -> Iterator[Step]:
        """Denoises along the trajectory, unmodulated."""
        yield from denoise(model, self.start, self.timesteps, self.condition, self.noises, self.eta)


def prompted(
    model: Denoiser,
    condition: Condition,
    timesteps: tuple[int, ...],
    seed: int,
    size: tuple[int, int],
) -> Trajectory:
    """The trajectory that draws a picture from noise with DDPM (Ho et al. 2020).

    Args:
        model: The denoiser.
        condition: Encoded prompt, with guidance or without.
        timesteps: The sampling grid, from the most noise to the least.
        seed: Of the noise; equal seeds give equal noise on every device.
        size: Height and width in pixels, multiples of the model's `size_multiple`.
    """
    generator = torch.Generator().manual_seed(seed)
    blank = torch.zeros(model.latent_shape(*size), device=model.device)
    start = noise_like(blank, generator)
    noises = tuple(noise_like(blank, generator) for _ in timesteps)
    return Trajectory(timesteps, start, noises, 1.0, condition)


def sample(
    model: Denoiser, condition: Condition, *, steps: int, seed: int, height: int, width: int
) -> Iterator[Step]:
    """Generates one picture's latents from noise with DDPM (Ho et al. 2020).

    Args:
        model: The denoiser.
        condition: Encoded prompt, with guidance or without.
        steps: Number of steps.
        seed: Of the noise; equal seeds give equal noise on every device.
        height, width: Size in pixels, multiples of the model's `size_multiple`.
    """
    timesteps = model.schedule.timesteps(steps)
    yield from prompted(model, condition, timesteps, seed, (height, width)).run(model)
