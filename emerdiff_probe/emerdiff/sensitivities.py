"""The adjoint engine: for one number of the image, how much every latent location moves it.

One backward pass in place of two runs for each location. What it gives is the derivative at no
shift, so it is the literal engine's answer as far as that is linear.
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
            "the run was replayed under interventions, which sensitivity() would apply twice; ask "
            "the run that it was replayed from"
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
    """Weights (target, rgb, y, x) in the size that the model sees."""
    values = np.asarray(targets, np.float32)
    rows, columns = run.model_size
    if values.ndim == 2 and values.shape[1] == 2:
        height, width = run.size
        if (values < 0).any() or (values >= (height, width)).any():
            raise InputError(f"pixels {values.tolist()} are not all within {height} x {width}")
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
    """Derivatives of sums over the picture by the shift at t_m of every latent location.

    Activations are kept one step at a time and computed again on the way back, so memory does not
    grow with the number of steps (Griewank and Walther 2000).

    Args:
        model: The denoiser.
        trajectory: Its timesteps include t_m.
        weights: Of the picture's values in each sum, shape (target, 3, y, x).
        config: Settings; the strength has no part in it.
        progress: Shows a bar with the time left.

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
    # At the first step only the shift asks for a gradient, and `predict` looks at the latents.
    asking = latents if latents.requires_grad else latents.clone().requires_grad_()
    eps = branches(model, watched, asking, shift, trajectory.condition, config)
    return trajectory.advance(model, watched.index, latents, eps)
