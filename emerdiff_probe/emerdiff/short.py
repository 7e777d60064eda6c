"""The short engine: fewer, longer steps from t_m to the end; similar to the literal one, not equal.

The coarse run passes through the fine run's own x_t: its noises are found as in edit-friendly
inversion (Huberman-Spiegelglas et al. 2024, algorithm 1), with mu and sigma of the longer steps.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from emerdiff_probe.emerdiff import literal, shared
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.literal import Modulated
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.models.denoiser import Denoiser
from emerdiff_probe.runs import Trajectory

__all__ = ["modulate", "shortened"]


def shortened(model: Denoiser, trajectory: Trajectory, config: EmerDiffConfig) -> Trajectory:
    """Return a trajectory from t_m down in ``config.short_steps`` steps of nearly equal length.

    Deterministic (DDIM) trajectories have no noise that could lead back to the fine run; their
    longer steps may leave it.

    Raises:
        ConfigError: t_m is not a timestep of the trajectory.
    """
    if config.modulation_timestep not in trajectory.timesteps:
        raise ConfigError(
            f"t_m = {config.modulation_timestep} is not a timestep of the trajectory; "
            f"choose one of {trajectory.timesteps}"
        )
    passed = trajectory.completed(model).latents
    first, last = trajectory.timesteps.index(config.modulation_timestep), len(passed) - 2
    count = min(config.short_steps, last - first + 1)
    # Keep at least the first: a single step leads from t_m to the end.
    kept = np.round(np.linspace(first, last, count)).astype(int) if count > 1 else [first]
    timesteps = tuple(trajectory.timesteps[index] for index in kept)
    latents = [passed[index] for index in kept]
    if trajectory.eta == 0:
        noises = tuple(trajectory.noises[index] for index in kept)
        return Trajectory(timesteps, latents[0], noises, 0.0, trajectory.condition)
    return Trajectory.led(latents, timesteps, trajectory.condition).completed(model)


def modulate(
    model: Denoiser,
    trajectory: Trajectory,
    masks: Tensor,
    config: EmerDiffConfig,
    *,
    progress: bool = False,
) -> Modulated:
    """Run two modulated denoisings for each mask on the coarse grid; see `literal.modulate`."""
    engine = shared.modulate if config.injection else literal.modulate
    coarse = shortened(model, trajectory, config)
    return engine(model, coarse, masks, config, progress=progress)
