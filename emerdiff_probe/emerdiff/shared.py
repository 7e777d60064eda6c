"""The shared engine: the result of the literal one, with common work of the branches done once.

Under injection all branches use the attention of the unmodulated run; see `sharing`. At t_m they
also equal the unmodulated run up to the shifted site, so they start there. Both hold for UNets and
for transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.literal import Modulated, signed
from emerdiff_probe.emerdiff.sharing import shared_attention, shared_sites
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.interventions import Shift, intervene
from emerdiff_probe.models.denoiser import Condition, Denoiser
from emerdiff_probe.runs import Trajectory
from emerdiff_probe.sites import Site
from emerdiff_probe.taps import capture, given, prefix

__all__ = ["Watched", "branches", "modulate", "watch"]


@dataclass(frozen=True, eq=False)
class Watched:
    """The results of one call of the unmodulated run that all branches use.

    Attributes:
        index: The position in the trajectory.
        timestep: The timestep t.
        latents: The latents x_t, shape (1, channel, y, x).
        eps: The predicted noise.
        known: The tensors at the sites that branches share.
        begun: At t_m, the outputs of modules up to the shifted site, by path; otherwise empty.
        site_rms: The root mean square of the shifted site.
    """

    index: int
    timestep: int
    latents: Tensor
    eps: Tensor
    known: dict[Site, Tensor]
    begun: dict[str, Any]
    site_rms: float


def watch(model: Denoiser, trajectory: Trajectory, config: EmerDiffConfig) -> Iterator[Watched]:
    """Run a trajectory unmodulated from t_m down and keep what branches share.

    Yields:
        The results of one timestep after the other, so that only one is held at a time. A list of
        all serves any number of calls of `modulate`.

    Raises:
        ConfigError: Injection is off, which this engine requires; or t_m is not a timestep of the
            trajectory.
    """
    _check(trajectory, config)
    site = Site.parse(config.modulation_site)
    taken = list(dict.fromkeys([*shared_sites(model.unet), site]))
    latents, start = trajectory.start, trajectory.timesteps.index(config.modulation_timestep)
    if trajectory.latents:
        latents = trajectory.latents[start]
    else:
        for index in range(start):
            eps = model.predict(latents, trajectory.timesteps[index], trajectory.condition)
            latents = trajectory.advance(model, index, latents, eps)
    for index, timestep in list(enumerate(trajectory.timesteps))[start:]:
        begun: dict[str, Any] = {}
        with ExitStack() as stack:
            tap = stack.enter_context(capture(model.unet, taken))
            if index == start:
                begun = stack.enter_context(
                    prefix(model.unet, site.path, through=site.port == "out")
                )
            eps = model.predict(latents, timestep, trajectory.condition)
        known = tap.take()
        rms = float(known[site].float().square().mean().sqrt())
        yield Watched(index, timestep, latents, eps, known, begun, rms)
        latents = trajectory.advance(model, index, latents, eps)


def modulate(
    model: Denoiser,
    trajectory: Trajectory,
    masks: Tensor,
    config: EmerDiffConfig,
    *,
    watched: Iterable[Watched] | None = None,
    progress: bool = False,
) -> Modulated:
    """Run two modulated denoisings for each mask to the end; see `literal.modulate`.

    Args:
        model: The denoiser.
        trajectory: The trajectory, whose timesteps include t_m.
        masks: Weights in [0, 1], shape (mask, source_y, source_x).
        config: The settings.
        watched: The results of `watch` for this trajectory; by default computed as needed.
        progress: Whether to show a progress bar.

    Raises:
        ConfigError: The settings do not fit; see `watch`.
    """
    _check(trajectory, config)
    runs = signed(masks, config)
    steps = sum(t <= config.modulation_timestep for t in trajectory.timesteps)
    bar = tqdm(
        total=steps * len(runs), desc="modulated denoising", unit="call", disable=not progress
    )
    modulated, site_rms = None, 0.0
    with torch.inference_mode(), bar:
        for each in watched or watch(model, trajectory, config):
            if modulated is None:
                modulated, site_rms = each.latents.expand(len(runs), -1, -1, -1), each.site_rms
            eps = branches(model, each, modulated, runs, trajectory.condition, config, bar.update)
            modulated = trajectory.advance(model, each.index, modulated, eps)
        unmodulated = trajectory.advance(model, each.index, each.latents, each.eps)
    assert modulated is not None
    return Modulated.ended(modulated, unmodulated, site_rms, len(masks))


def branches(
    model: Denoiser,
    watched: Watched,
    latents: Tensor,
    runs: Tensor,
    condition: Condition,
    config: EmerDiffConfig,
    done: Callable[[int], object] = lambda _rows: None,
) -> Tensor:
    """Return the predicted noise of branches at one timestep.

    Args:
        model: The denoiser.
        watched: The results that the branches share.
        latents: The latents of the branches, shape (run, channel, y, x).
        runs: The signed masks of the branches, shape (run, source_y, source_x).
        condition: The encoded text.
        config: The settings; its batch is halved as often as memory runs out.
        done: Called with the number of runs that were computed.
    """
    shift = watched.timestep == config.modulation_timestep
    site = Site.parse(config.modulation_site)
    # A mix is inside its attention, which must therefore compute its own output.
    inside = site.path if shift and site.port == "mix" else None

    def predicted(rows: slice) -> Tensor:
        count = len(latents[rows])
        with ExitStack() as stack:
            stack.enter_context(shared_attention(model.unet, watched.known, count, own=inside))
            if shift:
                stack.enter_context(given(model.unet, watched.begun, count))
                edit = Shift(config.modulation_site, config.strength, mask=runs[rows])
                stack.enter_context(intervene(model, edit))
            return model.predict(latents[rows], watched.timestep, condition)

    parts, first, batch = [], 0, config.batch
    while first < len(latents):
        rows = slice(first, min(first + batch, len(latents)))
        try:
            parts.append(predicted(rows))
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
            batch //= 2
            continue
        done(rows.stop - rows.start)
        first = rows.stop
    return torch.cat(parts)


def _check(trajectory: Trajectory, config: EmerDiffConfig) -> None:
    if not config.injection:
        raise ConfigError(
            "this engine needs attention injection, and injection is False; choose engine='literal'"
        )
    if config.modulation_timestep not in trajectory.timesteps:
        raise ConfigError(
            f"t_m = {config.modulation_timestep} is not a timestep of the trajectory; "
            f"choose one of {trajectory.timesteps}"
        )
