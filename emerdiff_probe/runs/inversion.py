"""Inversions: from an image's latents to a trajectory that leads back to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from emerdiff_probe.errors import ConfigError
from emerdiff_probe.models.denoiser import Condition, Denoiser
from emerdiff_probe.runs.sampling import Step, noise_like
from emerdiff_probe.runs.trajectory import Trajectory

__all__ = ["Inversion", "inversion_trajectory", "noise_diagnostics"]

Inversion = Literal["edit_friendly", "ddim", "noising"]


def inversion_trajectory(
    model: Denoiser,
    x0: Tensor,
    *,
    method: Inversion,
    timesteps: tuple[int, ...],
    condition: Condition,
    seed: int = 0,
) -> Trajectory:
    """Return a trajectory that leads to given clean latents.

    Three methods:

    - ``edit_friendly``: independent draws x_t ~ q(x_t | x_0) at every timestep; the noise maps
      z_t = (x_{t-1} - mu(x_t)) / sigma_t make the run pass through them (Huberman-Spiegelglas et
      al. 2024, arXiv 2304.06140, alg. 1). The trajectory is led: whoever runs it finds the z_t, so
      that the inversion needs no call of its own. It rebuilds the image almost by construction, so
      its reconstruction error says nothing of the model: look at the noise maps' root mean squares
      and their spatial correlation (0 for true noise). The first are 1 for noise of a run, and
      since the x_t are drawn independently ``sqrt(1 + 2 a (1 - alpha_bar_s) / (1 - a))`` for a
      model that knows x_0, of a step from t to s with ``a = alpha_bar_t / alpha_bar_s``: what is
      above that is the model's error.
    - ``ddim``: the deterministic sampler run backwards (Song et al. 2021), eta = 0; one call a
      step.
    - ``noising``: one draw x_t ~ q(x_t | x_0) at the first timestep and fresh noise on the way
      back: another image comes out, alike as far as x_t determines it.

    Args:
        model: The denoiser.
        x0: Clean latents, float32, shape (1, channel, y, x).
        method: One of the three.
        timesteps: The steps of the trajectory, from the most noise to the least.
        condition: Text of the predictions.
        seed: Of the draws.

    Raises:
        ConfigError: No such method.
    """
    generator = torch.Generator().manual_seed(seed)
    schedule = model.schedule
    if method == "edit_friendly":
        drawn = [schedule.add_noise(x0, noise_like(x0, generator), t) for t in timesteps]
        return Trajectory.led(drawn, timesteps, condition)
    if method == "ddim":
        return _ddim(model, x0, timesteps, condition)
    if method == "noising":
        start = schedule.add_noise(x0, noise_like(x0, generator), timesteps[0])
        noises = tuple(noise_like(x0, generator) for _ in timesteps)
        return Trajectory(timesteps, start, noises, 1.0, condition)
    raise ConfigError(f"inversion is {method!r}; choose one of {', '.join(get_args(Inversion))}")


def _ddim(
    model: Denoiser, x0: Tensor, timesteps: tuple[int, ...], condition: Condition
) -> Trajectory:
    schedule = model.schedule
    latents, now = x0, None
    for following in reversed(timesteps):
        # eps at the present noise level stands for the next one's; at the clean image, where
        # the model has no timestep, that of the first noisy one is used.
        eps = model.predict(latents, following if now is None else now, condition)
        latents = schedule.ddim_forward(latents, eps, now, following)
        now = following
    noises = tuple(torch.zeros_like(x0) for _ in timesteps)
    return Trajectory(timesteps, latents, noises, 0.0, condition)


def noise_diagnostics(steps: Sequence[Step]) -> dict[str, object]:
    """Say how much the noise of a run is like true noise, fit for JSON.

    Args:
        steps: All steps of the unmodulated run.

    Returns:
        ``noise_rms`` and ``noise_autocorrelation`` of each step's noise but the last, which adds
        none (1 and 0 for true noise), and the same of the latents that the run starts from, as
        ``start_rms`` and ``start_autocorrelation``.
    """
    noises = [step.noise for step in steps[:-1]]
    return {
        "noise_rms": [round(_rms(noise), 4) for noise in noises],
        "noise_autocorrelation": [round(_autocorrelation(noise), 4) for noise in noises],
        "start_rms": round(_rms(steps[0].latents), 4),
        "start_autocorrelation": round(_autocorrelation(steps[0].latents), 4),
    }


def _rms(tensor: Tensor) -> float:
    return float(tensor.square().mean().sqrt())


def _autocorrelation(noise: Tensor) -> float:
    """Correlation of neighbours along y and x, averaged; 0 for white noise, in [-1, 1]."""
    centred = noise - noise.mean((-2, -1), keepdim=True)
    power = centred.square().mean()
    down = (centred[..., 1:, :] * centred[..., :-1, :]).mean()
    across = (centred[..., 1:] * centred[..., :-1]).mean()
    return float((down + across) / (2 * power)) if power > 0 else 0.0
