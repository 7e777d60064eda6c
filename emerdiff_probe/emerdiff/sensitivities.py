"""The adjoint engine: for one number of the picture, how much every latent location moves it.

One backward pass in place of two runs for each location. What it gives is the derivative at no
shift, so it is the literal engine's answer as far as that is linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm.auto import tqdm

from emerdiff_probe import schema
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.features import observe
from emerdiff_probe.emerdiff.provenance import provenance
from emerdiff_probe.emerdiff.shared import Watched, branches, watch
from emerdiff_probe.errors import InputError
from emerdiff_probe.inputs import Photo, Prompt
from emerdiff_probe.models import Denoiser, Model, as_model
from emerdiff_probe.models.identity import identity
from emerdiff_probe.runs import Trajectory

__all__ = ["gradients", "sensitivity"]


def sensitivity(
    model: Model,
    source: Prompt | Photo,
    targets: ArrayLike | Sequence[tuple[float, float]],
    *,
    config: EmerDiffConfig | None = None,
    progress: bool = True,
) -> xr.DataArray:
    """How much the shift of every latent location moves chosen numbers of the picture.

    A number is a weighted sum of the picture's values: one pixel's channel, or a segment's mean
    along a colour direction. To first order, ``(weights * response).sum()`` of the location's
    response, as `emerdiff_probe.respond` would find it.

    Args:
        model: From `emerdiff_probe.load`, or a diffusers pipeline.
        source: A photograph, or a prompt, whose picture is generated first.
        targets: Weights, shape (target, rgb, y, x) at the size of the picture as the model sees it;
            or pixels, a list of (y, x) positions, each of which stands for the mean of its three
            channels.
        config: Settings, with injection.
        progress: Shows a bar with the time left.

    Returns:
        ``sensitivity`` (target, source_y, source_x), float32.

    Raises:
        InputError: The targets do not fit the picture.
        ConfigError: Settings without injection, or with another fault.
    """
    model = as_model(model)
    config = config or EmerDiffConfig.for_model(model)
    observation = observe(model, source, config, progress=progress)
    height, width = observation.pixels.shape[:2]
    weights = _weights(targets, height, width)
    found = gradients(model, observation.trajectory, weights, config, progress=progress)
    rows, columns = found.shape[1:]
    return xr.DataArray(
        2 * config.strength * found.numpy(),
        dims=("target", schema.SOURCE_Y, schema.SOURCE_X),
        coords={
            schema.SOURCE_Y: schema.pixel_centres(rows, height),
            schema.SOURCE_X: schema.pixel_centres(columns, width),
        },
        name="sensitivity",
        attrs=provenance(identity(model), source, observation, "adjoint", config),
    )


def _weights(targets: ArrayLike | Sequence[tuple[float, float]], height: int, width: int) -> Tensor:
    values = np.asarray(targets, np.float32)
    if values.ndim == 2 and values.shape[1] == 2:
        places = np.floor(values).astype(int)
        if (places < 0).any() or (places >= (height, width)).any():
            raise InputError(f"pixels {values.tolist()} are not all within {height} x {width}")
        weights = torch.zeros(len(places), 3, height, width)
        for target, (y, x) in enumerate(places):
            weights[target, :, y, x] = 1 / 3
        return weights
    if values.ndim != 4 or values.shape[1:] != (3, height, width):
        raise InputError(
            f"targets have shape {values.shape}; give weights (target, 3, {height}, {width}), or "
            "pixels as a list of (y, x)"
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
