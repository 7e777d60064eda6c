"""Compute with a noise schedule: forward noising and one reverse step.

diffusers' schedulers differ in rounding, clipping and in the timesteps that they take. A modulated
run needs a step from any timestep to any other, so it is implemented here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from emerdiff_probe.errors import ConfigError, ModelError

__all__ = ["Prediction", "Schedule", "flow_timesteps"]

Prediction = Literal["epsilon", "v_prediction", "sample", "flow"]

_LENGTH: Final = 1000
"""The number of training timesteps of a flow."""

_NO_SIGNAL: Final = 2.0**-24
"""A replacement for an alpha_bar of 0, by which x0 could not be divided."""


@dataclass(frozen=True, eq=False)
class Schedule:
    """A discrete variance-preserving diffusion.

    A flow is one in other coordinates: with noise level s, ``x = (1 - s) x0 + s eps``, divided by
    ``sqrt((1 - s)^2 + s^2)``, preserves variance, with ``alpha_bar = (1 - s)^2 / ((1 - s)^2 +
    s^2)``; and a network's prediction of the flow's velocity, ``v = eps - x0``, gives ``eps = x +
    (1 - s) v``. Runs of flows are therefore runs like all others; the timestep t is s = t / 1000.

    Attributes:
        alpha_bar: The share of signal power left at t, float64, shape (training timesteps,).
        prediction: The meaning of the network's output.
    """

    alpha_bar: Tensor
    prediction: Prediction

    @classmethod
    def from_scheduler(cls, scheduler: Any) -> Self:
        """Read the schedule from a diffusers scheduler.

        For a flow, neither the scheduler's steps nor its shift are part of it; see
        `flow_timesteps`.

        Raises:
            ModelError: The scheduler has no discrete ``alphas_cumprod``, or another prediction
                type.
        """
        config: Mapping[str, Any] = scheduler.config
        if _is_flow(scheduler):
            sigma = torch.arange(_LENGTH + 1, dtype=torch.float64) / _LENGTH
            power = (1 - sigma).square()
            share: Tensor = power / (power + sigma.square())
            return cls(share.clamp(min=_NO_SIGNAL), "flow")
        alpha_bar = getattr(scheduler, "alphas_cumprod", None)
        if alpha_bar is None:
            raise ModelError(
                f"the scheduler {type(scheduler).__name__} has no alphas_cumprod; choose one of a "
                "discrete diffusion (DDPM, DDIM, PNDM, Euler or DPM-Solver), or "
                "FlowMatchEulerDiscreteScheduler"
            )
        prediction = config.get("prediction_type", "epsilon")
        if prediction == "flow_prediction":
            raise ModelError(
                f"the scheduler {type(scheduler).__name__} has prediction_type='flow_prediction' "
                "without use_flow_sigmas, so its noise levels are not those of a flow; set "
                "FlowMatchEulerDiscreteScheduler, as with pipeline.scheduler = "
                "FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config)"
            )
        if prediction not in get_args(Prediction):
            raise ModelError(
                f"prediction type {prediction!r} is unknown; choose from {get_args(Prediction)}"
            )
        return cls(alpha_bar.detach().double().cpu().clamp(min=_NO_SIGNAL), prediction)

    @property
    def length(self) -> int:
        """Return the number of training timesteps."""
        return len(self.alpha_bar)

    def timesteps(self, steps: int) -> tuple[int, ...]:
        """Return the sampling grid, from the most noise to the least.

        It has "leading" spacing with an offset of 1: 50 steps of 1000 give 981, 961, ..., 21, 1,
        the grid of the paper's t_f = 1 and t_m = 281.

        Raises:
            ConfigError: `steps` is not between 1 and half the training timesteps.
        """
        if not 1 <= steps <= self.length // 2:
            raise ConfigError(f"steps is {steps}; choose 1 to {self.length // 2}")
        stride = self.length // steps
        return tuple(1 + stride * index for index in reversed(range(steps)))

    def signal(self, timestep: int | None) -> float:
        """Return alpha_bar at a timestep; 1 for None, the clean image."""
        return 1.0 if timestep is None else float(self.alpha_bar[timestep])

    def add_noise(self, x0: Tensor, eps: Tensor, timestep: int) -> Tensor:
        """Draw x_t given x_0: ``sqrt(alpha_bar) x0 + sqrt(1 - alpha_bar) eps``."""
        alpha_bar = self.signal(timestep)
        return alpha_bar**0.5 * x0 + (1 - alpha_bar) ** 0.5 * eps

    def as_read(self, x: Tensor, timestep: int) -> Tensor:
        """Return x_t in the coordinates that the network reads."""
        return x * self._norm(timestep) if self.prediction == "flow" else x

    def _norm(self, timestep: int) -> float:
        """Return, for a flow, ``sqrt((1 - s)^2 + s^2)``."""
        alpha_bar = self.signal(timestep)
        return 1 / (alpha_bar**0.5 + (1 - alpha_bar) ** 0.5)

    def to_noise(self, output: Tensor, x: Tensor, timestep: int) -> Tensor:
        """Return the predicted noise, from the network's output for x_t."""
        alpha_bar = self.signal(timestep)
        if self.prediction == "epsilon":
            return output
        if self.prediction == "flow":
            norm = self._norm(timestep)
            return x * norm + alpha_bar**0.5 * norm * output
        if self.prediction == "v_prediction":
            return alpha_bar**0.5 * output + (1 - alpha_bar) ** 0.5 * x
        return (x - alpha_bar**0.5 * output) / (1 - alpha_bar) ** 0.5

    def to_x0(self, eps: Tensor, x: Tensor, timestep: int) -> Tensor:
        """Return the predicted clean latents."""
        alpha_bar = self.signal(timestep)
        return (x - (1 - alpha_bar) ** 0.5 * eps) / alpha_bar**0.5

    def sigma(self, timestep: int, previous: int | None, eta: float = 1.0) -> float:
        """Return the standard deviation of the noise of a step; 0 at the last (DDIM, eq. 16)."""
        now, then = self.signal(timestep), self.signal(previous)
        return eta * ((1 - then) / (1 - now) * (1 - now / then)) ** 0.5

    def mean(
        self, x: Tensor, eps: Tensor, timestep: int, previous: int | None, eta: float = 1.0
    ) -> Tensor:
        """Return mu(x_t): the mean of x at `previous`, given x at `timestep`.

        Args:
            x: The latents at `timestep`, any shape.
            eps: The predicted noise, of the same shape.
            timestep: The current timestep.
            previous: The next smaller timestep of the grid, or None for the clean image.
            eta: 1 for DDPM (Ho et al. 2020, eq. 7), 0 for DDIM (Song et al. 2021, eq. 12).
        """
        then = self.signal(previous)
        sigma = self.sigma(timestep, previous, eta)
        direction = max(1 - then - sigma**2, 0.0) ** 0.5
        return then**0.5 * self.to_x0(eps, x, timestep) + direction * eps

    def step(
        self,
        x: Tensor,
        eps: Tensor,
        noise: Tensor,
        timestep: int,
        previous: int | None,
        eta: float = 1.0,
    ) -> Tensor:
        """Return x at `previous`: the mean plus sigma times unit noise."""
        sigma = self.sigma(timestep, previous, eta)
        return self.mean(x, eps, timestep, previous, eta) + sigma * noise

    def ddim_forward(self, x: Tensor, eps: Tensor, timestep: int | None, following: int) -> Tensor:
        """Return x after one DDIM step towards more noise with constant eps (Song et al. 2021)."""
        now, then = self.signal(timestep), self.signal(following)
        x0 = (x - (1 - now) ** 0.5 * eps) / now**0.5
        return then**0.5 * x0 + (1 - then) ** 0.5 * eps


def _is_flow(scheduler: Any) -> bool:
    """Return whether noise levels are a flow's; how the scheduler itself steps is no matter."""
    config = scheduler.config
    return type(scheduler).__name__ == "FlowMatchEulerDiscreteScheduler" or (
        config.get("prediction_type") == "flow_prediction" and bool(config.get("use_flow_sigmas"))
    )


def flow_timesteps(scheduler: Any, steps: int, tokens: int, *, even: bool) -> tuple[int, ...]:
    """Return the timesteps that a pipeline would take through a flow, rounded to thousandths.

    The first is at most 999: at 1000 there is no signal, and a step from there would be arbitrary.

    Args:
        scheduler: The pipeline's scheduler, which is left as it is.
        steps: The number of steps.
        tokens: The number of image tokens, by which some schedulers shift noise levels.
        even: Whether the pipeline asks for evenly spaced noise levels before the shift; otherwise
            the scheduler spaces them.

    Raises:
        ConfigError: There are fewer distinct timesteps.
    """
    if not 1 <= steps <= _LENGTH // 2:
        raise ConfigError(f"steps is {steps}; choose 1 to {_LENGTH // 2}")
    own, config = copy.deepcopy(scheduler), scheduler.config
    asked: dict[str, Any] = {"sigmas": np.linspace(1, 1 / steps, steps)} if even else {}
    if config.get("use_dynamic_shifting"):
        asked["mu"] = _shift(config, tokens)
    own.set_timesteps(steps, **asked)
    rounded = own.timesteps.double().round().clamp(1, _LENGTH - 1).int().tolist()
    found = tuple(sorted(set(rounded), reverse=True))
    if len(found) < steps:
        raise ConfigError(
            f"steps is {steps}, of which this scheduler rounds several to the same of {_LENGTH} "
            f"timesteps; choose {len(found)} or fewer"
        )
    return found


def _shift(config: Mapping[str, Any], tokens: int) -> float:
    """Return the scheduler's mu, linear in the number of image tokens, as pipelines compute it."""
    few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    least, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu: float = least + (most - least) * (tokens - few) / (many - few)
    return mu
