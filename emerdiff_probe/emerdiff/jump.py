"""The jump engine: stop at t_m, with the clean latents that the model predicts there.

It takes a single step: the part before the shifted layer is computed once, and only the part after
it for each branch. It is fast, and less similar to the literal engine than `short`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.literal import Modulated, signed
from emerdiff_probe.emerdiff.shared import Watched, branches, watch
from emerdiff_probe.models.denoiser import Denoiser
from emerdiff_probe.runs import Trajectory

__all__ = ["modulate"]


def modulate(
    model: Denoiser,
    trajectory: Trajectory,
    masks: Tensor,
    config: EmerDiffConfig,
    *,
    watched: Iterable[Watched] | None = None,
    progress: bool = False,
) -> Modulated:
    """Predict clean latents at t_m, with two shifts for each mask; see `literal.modulate`.

    Args:
        model: The denoiser.
        trajectory: The trajectory, whose timesteps include t_m.
        masks: Weights in [0, 1], shape (mask, source_y, source_x).
        config: The settings.
        watched: The result of `shared.watch`, of which only the first is used.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: The settings do not fit; see `shared.watch`.
    """
    runs = signed(masks, config)
    bar = tqdm(total=len(runs), desc="modulated calls", unit="call", disable=not progress)
    with torch.inference_mode(), bar:
        first = next(iter(watched or watch(model, trajectory, config)))
        latents = first.latents.expand(len(runs), -1, -1, -1)
        eps = branches(model, first, latents, runs, trajectory.condition, config, bar.update)
        ended, unmodulated = (
            model.schedule.to_x0(noise, first.latents, first.timestep) for noise in (eps, first.eps)
        )
    return Modulated.ended(ended, unmodulated, first.site_rms, len(masks))
