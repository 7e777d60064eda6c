"""Invert images: from an image's latents to a trajectory that leads back to it."""

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
      al. 2024, arXiv 2304.06140, alg. 1). The trajectory is led: running it finds the z_t, so the
      inversion needs no calls of its own. It rebuilds the image almost by construction, so its
      reconstruction error says nothing about the model. Look instead at the root mean squares of
      the
      noise maps and at their spatial correlation (0 for true noise). The root mean square is 1 for
      the
      noise of a run; here, where the x_t are drawn independently, a model that knows x_0 has
      ``sqrt(1 + 2 a (1 - alpha_bar_s) / (1 - a))`` in a step from t to s, with
      ``a = alpha_bar_t / alpha_bar_s``. What is above that is the model's error.
    - ``ddim``: the deterministic sampler run backwards (Song et al. 2021), eta = 0; one call for
      each step.
    - ``noising``: one draw x_t ~ q(x_t | x_0) at the first timestep and fresh noise on the way
      back; the result is another image, similar as far as x_t determines it.

    Args:
        model: Denoiser.
        x0: Clean latents, float32, shape (1, channel, y, x).
        method: Name of one of the three methods.
        timesteps: Timesteps of the trajectory, from the most noise to the least.
        condition: Encoded text of the predictions.
        seed: Seed of the draws.

    Raises:
        ConfigError: The method does not exist.
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
        # eps at the present noise level stands in for that of the next one; at the clean image,
        # where the model has no timestep, the first noisy timestep is used.
        eps = model.predict(latents, following if now is None else now, condition)
        latents = schedule.ddim_forward(latents, eps, now, following)
        now = following
    noises = tuple(torch.zeros_like(x0) for _ in timesteps)
    return Trajectory(timesteps, latents, noises, 0.0, condition)


def noise_diagnostics(steps: Sequence[Step]) -> dict[str, object]:
    """Measure how similar the noise of a run is to true noise, as JSON values.

    Args:
        steps: All steps of the unmodulated run.

    Returns:
        ``noise_rms`` and ``noise_autocorrelation`` of the noise of each step except the last, which
        adds none (1 and 0 for true noise); and the same for the latents that the run starts from,
        as ``start_rms`` and ``start_autocorrelation``.
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
    """Return the mean correlation of neighbours along y and x, in [-1, 1]; 0 for white noise."""
    centred = noise - noise.mean((-2, -1), keepdim=True)
    power = centred.square().mean()
    down = (centred[..., 1:, :] * centred[..., :-1, :]).mean()
    across = (centred[..., 1:] * centred[..., :-1]).mean()
    return float((down + across) / (2 * power)) if power > 0 else 0.0
