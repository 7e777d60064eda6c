"""The adjoint engine: how much every latent location changes one number of the image.

It needs one backward pass instead of two runs for each location. The result is the derivative at no
shift, which equals the literal engine's answer as far as that is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from emerdiff_probe import schema
from emerdiff_probe.emerdiff.asking import settled
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.shared import Watched, branches, watch
from emerdiff_probe.errors import ConfigError, InputError
from emerdiff_probe.models import Denoiser
from emerdiff_probe.runs import Run, Trajectory

__all__ = ["gradients", "sensitivity_run"]


def sensitivity_run(
    run: Run,
    targets: ArrayLike | Sequence[tuple[float, float]],
    *,
    config: EmerDiffConfig | None = None,
    progress: bool = True,
    **settings: Any,
) -> xr.DataArray:
    """Differentiate by the shift of every location; see `emerdiff_probe.runs.Run.sensitivity`."""
    config = settled(run, config, settings)
    if run.interventions:
        raise ConfigError(
            "the run was replayed under interventions, which sensitivity() would apply twice; call "
            "it on the run that this one was replayed from"
        )
    weights = _weights(targets, run)
    trajectory = run.trajectory.since(config.modulation_timestep)
    found = gradients(run.model, trajectory, weights, config, progress=progress)
    rows, columns = found.shape[1:]
    height, width = run.size
    return xr.DataArray(
        2 * config.strength * found.numpy(),
        dims=("target", schema.SOURCE_Y, schema.SOURCE_X),
        coords={
            schema.SOURCE_Y: schema.pixel_centres(rows, height),
            schema.SOURCE_X: schema.pixel_centres(columns, width),
        },
        name="sensitivity",
        attrs={"engine": "adjoint", "config": config.to_json(), **run.provenance},
    )


def _weights(targets: ArrayLike | Sequence[tuple[float, float]], run: Run) -> Tensor:
    """Return weights (target, rgb, y, x) in the size that the model sees.

    Raises:
        InputError: Pixels lie outside the image, or weights have another shape.
    """
    values = np.asarray(targets, np.float32)
    rows, columns = run.model_size
    if values.ndim == 2 and values.shape[1] == 2:
        height, width = run.size
        if (values < 0).any() or (values >= (height, width)).any():
            raise InputError(
                f"pixels {values.tolist()} are not all within {height} x {width} pixels"
            )
        places = np.floor(values * (rows / height, columns / width)).astype(int)
        weights = torch.zeros(len(places), 3, rows, columns)
        for target, (y, x) in enumerate(places):
            weights[target, :, y, x] = 1 / 3
        return weights
    if values.ndim != 4 or values.shape[1:] != (3, rows, columns):
        raise InputError(
            f"targets have shape {values.shape}; give pixels as a list of (y, x), or weights "
            f"(target, 3, {rows}, {columns})"
        )
    return torch.from_numpy(values)


def gradients(
    model: Denoiser,
    trajectory: Trajectory,
    weights: Tensor,
    config: EmerDiffConfig,
    *,
    progress: bool = False,
) -> Tensor:
    """Return the derivatives of weighted sums over the image by the shift of each location at t_m.

    Activations are kept for one step at a time and recomputed in the backward pass, so memory does
    not grow with the number of steps (Griewank and Walther 2000).

    Args:
        model: The denoiser.
        trajectory: The trajectory, whose timesteps include t_m.
        weights: The weights of the image's values in each sum, shape (target, 3, y, x).
        config: The settings, of which the strength has no effect.
        progress: Whether to show a progress bar.

    Returns:
        Shape (target, source_y, source_x), float32, on the CPU.
    """
    unit = config.replace(strength=1.0)
    watched = list(watch(model, trajectory, unit))
    height, width = weights.shape[-2:]
    grid = tuple(model.sites(config.modulation_site, height=height, width=width)["shape"].iloc[0])
    shift = torch.zeros(1, *grid[:2], device=model.device, requires_grad=True)
    with torch.enable_grad():
        latents = watched[0].latents
        for each in watched:
            step = partial(_step, model, trajectory, unit, each)
            latents = checkpoint(step, latents, shift, use_reentrant=False)
        picture = model.decode(latents)[0]
        found = []
        for target in tqdm(weights, desc="backward passes", unit="target", disable=not progress):
            total = (picture * target.to(picture)).sum()
            (gradient,) = torch.autograd.grad(total, shift, retain_graph=True)
            found.append(gradient[0].float().cpu())
    return torch.stack(found)


def _step(
    model: Denoiser,
    trajectory: Trajectory,
    config: EmerDiffConfig,
    watched: Watched,
    latents: Tensor,
    shift: Tensor,
) -> Tensor:
    # At the first step only the shift requires a gradient, and `predict` checks the latents.
    asking = latents if latents.requires_grad else latents.clone().requires_grad_()
    eps = branches(model, watched, asking, shift, trajectory.condition, config)
    return trajectory.advance(model, watched.index, latents, eps)
