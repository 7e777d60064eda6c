"""The literal engine: EmerDiff as published, simple rather than fast; the oracle of the others."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from tqdm.auto import tqdm

from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.interventions import Intervention, Shift, intervene
from emerdiff_probe.interventions.injection import InjectAttention, products_captured
from emerdiff_probe.models.denoiser import Denoiser
from emerdiff_probe.runs import Trajectory
from emerdiff_probe.sites import Site
from emerdiff_probe.taps import capture

__all__ = ["Modulated", "modulate", "signed"]


@dataclass(frozen=True, eq=False)
class Modulated:
    """The end of modulated runs.

    Attributes:
        plus: The clean latents of the runs shifted by +lambda, shape (mask, channel, y, x).
        minus: The same for -lambda; if only one side is run, those of the unmodulated run, shape
            (1, channel, y, x).
        unmodulated: The clean latents of the run without a shift, shape (1, channel, y, x).
        site_rms: The root mean square of the shifted site's own output at t_m, to compare with
            lambda.
    """

    plus: Tensor
    minus: Tensor
    unmodulated: Tensor
    site_rms: float

    @classmethod
    def ended(cls, runs: Tensor, unmodulated: Tensor, site_rms: float, masks: int) -> Self:
        """Return the ends of the runs of `signed` masks, given in their order."""
        minus = unmodulated if len(runs) == masks else runs[masks:]
        return cls(runs[:masks], minus, unmodulated, site_rms)


def signed(masks: Tensor, config: EmerDiffConfig) -> Tensor:
    """Return the masks of all runs (run, source_y, source_x): first +lambda, then -lambda."""
    return masks if config.sides == "one" else torch.cat([masks, -masks])


def modulate(
    model: Denoiser,
    trajectory: Trajectory,
    masks: Tensor,
    config: EmerDiffConfig,
    *,
    progress: bool = False,
) -> Modulated:
    """Run two modulated denoisings for each mask, to the end.

    All runs advance together, one timestep after the other, the unmodulated one first: it supplies
    the queries and keys that the others use at that timestep (injection), so that only one
    timestep's are held at any time. Down to t_m, a modulated run equals the unmodulated one; at t_m
    its attention is shifted. It uses the noise of the unmodulated run throughout.

    Args:
        model: The denoiser.
        trajectory: The trajectory, whose timesteps include t_m.
        masks: Weights in [0, 1], shape (mask, source_y, source_x).
        config: The settings.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: t_m is not a timestep of the trajectory.
    """
    site = Site.parse(config.modulation_site)
    runs = signed(masks, config)
    unmodulated, modulated, site_rms = trajectory.start, None, 0.0
    modulated_steps = sum(t <= config.modulation_timestep for t in trajectory.timesteps)
    bar = tqdm(
        total=modulated_steps * len(runs),
        desc="modulated denoising",
        unit="call",
        disable=not progress,
    )
    with torch.inference_mode(), bar:
        for index, timestep in enumerate(trajectory.timesteps):
            with ExitStack() as stack:
                tap = stack.enter_context(capture(model.unet, [site]))
                if config.injection:
                    products_tap = stack.enter_context(products_captured(model.unet))
                eps = model.predict(unmodulated, timestep, trajectory.condition)
                output = tap.take()[site]
                products = products_tap.take() if config.injection else {}
            if timestep == config.modulation_timestep:
                modulated = unmodulated.expand(len(runs), -1, -1, -1)
                site_rms = float(output.float().square().mean().sqrt())
            if modulated is not None:
                parts = []
                for rows in torch.arange(len(runs)).split(config.batch):
                    interventions: list[Intervention] = []
                    if config.injection:
                        interventions.append(InjectAttention({timestep: [products]}))
                    if timestep == config.modulation_timestep:
                        interventions.append(Shift(str(site), config.strength, mask=runs[rows]))
                    with intervene(model, interventions):
                        parts.append(model.predict(modulated[rows], timestep, trajectory.condition))
                    bar.update(len(rows))
                modulated = trajectory.advance(model, index, modulated, torch.cat(parts))
            unmodulated = trajectory.advance(model, index, unmodulated, eps)
    if modulated is None:
        raise ConfigError(
            f"t_m = {config.modulation_timestep} is not a timestep of the trajectory; "
            f"choose one of {trajectory.timesteps}"
        )
    return Modulated.ended(modulated, unmodulated, site_rms, len(masks))
