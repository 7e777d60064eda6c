"""Define trajectories, which repeat a denoising run, and the one that draws from noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from emerdiff_probe.models.denoiser import Condition, Denoiser
from emerdiff_probe.runs.sampling import Step, noise_like, transitions

__all__ = ["Trajectory", "noise_trajectory", "sample"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Hold what a denoising run needs to run again, modulated or not.

    A trajectory either has its noises, or is *led* through given latents: then each step's noise
    follows from the noise that the model predicts there, and running the trajectory finds it.

    Attributes:
        timesteps: Timesteps, from the most noise to the least.
        start: Latents at the first timestep, float32 (sample, channel, y, x).
        noises: Unit noise of each step, of that shape; empty while it is led.
        eta: 1 for DDPM steps, 0 for DDIM steps.
        condition: Encoded text of all its predictions.
        latents: Latents at every timestep, and last the clean latents that the unmodulated run ends
            with, as far as they are known without running it.
    """

    timesteps: tuple[int, ...]
    start: Tensor
    noises: tuple[Tensor, ...]
    eta: float
    condition: Condition
    latents: tuple[Tensor, ...] = ()

    @classmethod
    def led(
        cls, latents: Sequence[Tensor], timesteps: tuple[int, ...], condition: Condition
    ) -> Trajectory:
        """Return the trajectory that passes through given latents.

        Args:
            latents: Wanted latents at every timestep, each (sample, channel, y, x).
            timesteps: Timesteps from the most noise to the least, on any grid.
            condition: Encoded text of its predictions.
        """
        return cls(timesteps, latents[0], (), 1.0, condition, latents=tuple(latents))

    @classmethod
    def joined(cls, trajectories: Sequence[Trajectory]) -> Trajectory:
        """Return one run of several samples, which share timesteps and guidance.

        Args:
            trajectories: Trajectory of each sample.
        """
        if len(trajectories) == 1:
            return trajectories[0]
        first = trajectories[0]

        def stacked(name: str) -> tuple[Tensor, ...]:
            columns = zip(*(getattr(each, name) for each in trajectories), strict=True)
            return tuple(map(torch.cat, columns))

        return cls(
            first.timesteps,
            torch.cat([each.start for each in trajectories]),
            stacked("noises"),
            first.eta,
            Condition.joined([each.condition for each in trajectories]),
            stacked("latents"),
        )

    def since(self, timestep: int) -> Trajectory:
        """Return the part from a timestep on, where its latents are known, else all of it.

        Args:
            timestep: Timestep, one of its own.
        """
        if not self.latents:
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
        """Take the step at a position with a predicted noise, modulated or not.

        Args:
            model: Denoiser.
            index: Position of the timestep.
            latents: Latents of any number of runs (run, channel, y, x).
            eps: Predicted noise of each run, of that shape.

        Returns:
            Latents at the next timestep (run, channel, y, x).
        """
        timestep, previous = transitions(self.timesteps)[index]
        return model.schedule.step(latents, eps, self.noises[index], timestep, previous, self.eta)

    def step(self, model: Denoiser, index: int, latents: Tensor, eps: Tensor) -> Step:
        """Take the unmodulated step at a position.

        Args:
            model: Denoiser.
            index: Position of the timestep.
            latents: Latents of the unmodulated run at that timestep.
            eps: Noise predicted there.
        """
        timestep, previous = transitions(self.timesteps)[index]
        if self.noises:
            noise = self.noises[index]
            following = self.advance(model, index, latents, eps)
        else:
            mean = model.schedule.mean(latents, eps, timestep, previous)
            # At the last step sigma is 0, so no noise added there could correct the error.
            noise, following = torch.zeros_like(latents), mean
            if previous is not None:
                following = self.latents[index + 1]
                noise = (following - mean) / model.schedule.sigma(timestep, previous)
        return Step(index, timestep, previous, latents, eps, noise, following)

    def run(self, model: Denoiser) -> Iterator[Step]:
        """Denoise along the trajectory, unmodulated; yield its steps."""
        latents = self.start
        for index, timestep in enumerate(self.timesteps):
            if not self.noises:  # it is led
                latents = self.latents[index]
            eps = model.predict(latents, timestep, self.condition)
            step = self.step(model, index, latents, eps)
            yield step
            latents = step.next_latents

    def known(self, steps: Sequence[Step]) -> Trajectory:
        """Return the trajectory with all that the steps of its run found.

        Args:
            steps: All steps that `run` yielded.
        """
        passed = (*(step.latents for step in steps), steps[-1].next_latents)
        noises = tuple(step.noise for step in steps)
        return dataclasses.replace(self, noises=noises, latents=passed)

    def completed(self, model: Denoiser) -> Trajectory:
        """Return the trajectory with all noises and latents; run the model if some are missing."""
        complete = self.noises and len(self.latents) > len(self.timesteps)
        return self if complete else self.known(list(self.run(model)))


def noise_trajectory(
    model: Denoiser,
    condition: Condition,
    timesteps: tuple[int, ...],
    seed: int,
    size: tuple[int, int],
) -> Trajectory:
    """Return the trajectory that draws an image from noise with DDPM (Ho et al. 2020).

    Args:
        model: Denoiser.
        condition: Encoded prompt, with or without guidance.
        timesteps: Sampling grid, from the most noise to the least.
        seed: Seed of the noise; equal seeds give equal noise on every device.
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
    """Draw one image's latents from noise with DDPM (Ho et al. 2020).

    Args:
        model: Denoiser.
        condition: Encoded prompt, with or without guidance.
        steps: Number of steps.
        seed: Seed of the noise; equal seeds give equal noise on every device.
        height, width: Size in pixels, multiples of the model's `size_multiple`.
    """
    timesteps = model.timesteps(steps, (height, width))
    yield from noise_trajectory(model, condition, timesteps, seed, (height, width)).run(model)
