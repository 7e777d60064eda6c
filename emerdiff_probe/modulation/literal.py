"""The literal engine: EmerDiff by the book, clear before fast, the oracle of every faster one."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm.auto import tqdm

from emerdiff_probe.errors import ConfigError
from emerdiff_probe.models.denoiser import Denoiser
from emerdiff_probe.modulation.config import EmerDiffConfig
from emerdiff_probe.modulation.interventions import injected, products_captured, shifted
from emerdiff_probe.probing import Trajectory, capture
from emerdiff_probe.sites import Site

__all__ = ["Modulated", "modulate"]


@dataclass(frozen=True, eq=False)
class Modulated:
    """Where the modulated runs ended.

    Attributes:
        plus: Clean latents of the runs shifted by +lambda, shape (mask, channel, y, x).
        minus: The same for -lambda.
        unmodulated: Clean latents of the run without a shift, shape (1, channel, y, x).
        site_rms: Root mean square of the shifted site's own output at t_m, to which lambda
            compares.
    """

    plus: Tensor
    minus: Tensor
    unmodulated: Tensor
    site_rms: float


def modulate(
    model: Denoiser,
    trajectory: Trajectory,
    masks: Tensor,
    config: EmerDiffConfig,
    *,
    progress: bool = False,
) -> Modulated:
    """Runs two modulated denoisings for each mask, to the end.

    All runs advance together, one timestep after the other, the unmodulated one first: from it
    come the queries and keys that the others use at that timestep (injection), so only one
    timestep's are ever held. Down to t_m a modulated run is the unmodulated one; at t_m its
    attention is shifted; and it takes the same noise as the unmodulated run all the way.

    Args:
        model: The denoiser.
        trajectory: Its timesteps include t_m.
        masks: Weights in [0, 1], shape (mask, source_y, source_x).
        config: Settings.
        progress: Shows a bar with the time left.
    """
    site = Site.parse(config.modulation_site)
    weights = masks.flatten(1).to(model.device)
    shifts = torch.cat([config.strength * weights, -config.strength * weights])
    unmodulated, modulated, site_rms = trajectory.start, None, 0.0
    modulated_steps = sum(t <= config.modulation_timestep for t in trajectory.timesteps)
    bar = tqdm(
        total=modulated_steps * len(shifts),
        desc="modulated denoising",
        unit="call",
        disable=not progress,
    )
    with torch.inference_mode(), bar:
        for index, timestep in enumerate(trajectory.timesteps):
            with products_captured(model.unet) as products_tap, capture(model.unet, [site]) as tap:
                eps = model.predict(unmodulated, timestep, trajectory.condition)
                products, output = products_tap.take(), tap.take()[site]
            if timestep == config.modulation_timestep:
                modulated = unmodulated.expand(len(shifts), -1, -1, -1)
                site_rms = float(output.float().square().mean().sqrt())
            if modulated is not None:
                parts = []
                for rows in torch.arange(len(shifts)).split(config.batch):
                    with ExitStack() as interventions:
                        if config.injection:
                            interventions.enter_context(injected(model.unet, products))
                        if timestep == config.modulation_timestep:
                            interventions.enter_context(shifted(model.unet, site, shifts[rows]))
                        parts.append(model.predict(modulated[rows], timestep, trajectory.condition))
                    bar.update(len(rows))
                modulated = trajectory.advance(model, index, modulated, torch.cat(parts))
            unmodulated = trajectory.advance(model, index, unmodulated, eps)
    if modulated is None:
        raise ConfigError(
            f"t_m = {config.modulation_timestep} is not a timestep of the trajectory; "
            f"choose one of {trajectory.timesteps}"
        )
    plus, minus = modulated.chunk(2)
    return Modulated(plus, minus, unmodulated, site_rms)
