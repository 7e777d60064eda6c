"""The shared engine: the literal one's result, with what all branches have in common done once.

Under injection (section 3.2 of the paper) every modulated run uses the unmodulated one's products
QK^T. Two things follow exactly. A cross-attention, whose keys and values come from the text alone,
gives every branch the unmodulated run's output: it need not be computed. And one softmax(QK^T)
serves the self-attention of all branches: only their values differ, so these are laid side by
side as channels of a single attention. At t_m, moreover, all branches are the unmodulated run up to
the shifted layer: they begin there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn
from tqdm.auto import tqdm

from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.literal import Modulated, signed
from emerdiff_probe.errors import CaptureError, ConfigError
from emerdiff_probe.interventions import Shift, intervene
from emerdiff_probe.models.denoiser import Condition, Denoiser
from emerdiff_probe.runs import Trajectory
from emerdiff_probe.sites import Site
from emerdiff_probe.taps import attentions, capture, given, prefix, with_processors

__all__ = ["Watched", "branches", "modulate", "watch"]

_QUERIES: Final = 256
"""Queries at a time: some 30 MiB of probabilities at Stable Diffusion v1's finest level."""


@dataclass(frozen=True, eq=False)
class Watched:
    """What one UNet call of the unmodulated run leaves for all branches.

    Attributes:
        index: Position in the trajectory.
        timestep: t.
        latents: x_t, shape (1, channel, y, x).
        eps: Its predicted noise.
        known: Tensors at the sites that branches take over.
        begun: At t_m, what is computed before the shifted layer, by module; else nothing.
        site_rms: Root mean square of the shifted site.
    """

    index: int
    timestep: int
    latents: Tensor
    eps: Tensor
    known: dict[Site, Tensor]
    begun: dict[str, Any]
    site_rms: float


def watch(model: Denoiser, trajectory: Trajectory, config: EmerDiffConfig) -> Iterator[Watched]:
    """Runs a trajectory unmodulated, from t_m down, and keeps what branches share.

    Yields:
        One timestep's after the other, so that only one need be held. Kept in a list they serve
        any number of calls of `modulate`.

    Raises:
        ConfigError: The settings are without injection, on which this rests; or t_m is not a
            timestep of the trajectory.
    """
    _check(trajectory, config)
    site = Site.parse(config.modulation_site)
    taken = list(dict.fromkeys([*_common_sites(model.unet), site]))
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
                begun = stack.enter_context(prefix(model.unet, site.path))
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
    """Runs two modulated denoisings for each mask, to the end; see `literal.modulate`.

    Args:
        model: The denoiser.
        trajectory: Its timesteps include t_m.
        masks: Weights in [0, 1], shape (mask, source_y, source_x).
        config: Settings.
        watched: What `watch` gave for this trajectory; by default it is made as it is needed.
        progress: Shows a bar with the time left.

    Raises:
        ConfigError: See `watch`.
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
    """The predicted noise of branches at one timestep.

    Args:
        model: The denoiser.
        watched: What they share.
        latents: Theirs, shape (run, channel, y, x).
        runs: Their signed masks, shape (run, source_y, source_x).
        condition: Encoded text.
        config: Settings; its batch is halved as often as memory runs out.
        done: Told how many runs are done.
    """
    shift = watched.timestep == config.modulation_timestep

    def predicted(rows: slice) -> Tensor:
        count = len(latents[rows])
        with ExitStack() as stack:
            stack.enter_context(_shared(model.unet, watched, config))
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
            "this engine rests on attention injection, and injection is False; "
            "choose engine='literal'"
        )
    if config.modulation_timestep not in trajectory.timesteps:
        raise ConfigError(
            f"t_m = {config.modulation_timestep} is not a timestep of the trajectory; "
            f"choose one of {trajectory.timesteps}"
        )


def _common_sites(unet: nn.Module) -> list[Site]:
    """What the branches take over: queries and keys of self-attention, outputs of the rest."""
    return [
        Site(path, port)
        for path, attention in attentions(unet).items()
        for port in (("out",) if attention.is_cross_attention else ("query", "key"))
    ]


@contextmanager
def _shared(unet: nn.Module, watched: Watched, config: EmerDiffConfig) -> Iterator[None]:
    known = watched.known
    processors: dict[str, Any] = {
        path: _Known(known[Site(path, "out")])
        if attention.is_cross_attention
        else _SideBySide(known[Site(path, "query")], known[Site(path, "key")])
        for path, attention in attentions(unet).items()
    }
    site = Site.parse(config.modulation_site)
    if site.port == "mix" and isinstance(processors[site.path], _Known):
        # What is shifted lies before the output projection, which therefore must run.
        processors[site.path] = _Known(known[site], project=True)
    with with_processors(unet, processors):
        yield


class _Known:
    """An attention processor that gives a known output, shape (row, location, channel).

    Args:
        output: Of the attention.
        project: Whether it is what the output projection is given.
    """

    def __init__(self, output: Tensor, *, project: bool = False) -> None:
        self._output = output
        self._project = project

    def __call__(
        self, attn: Attention, hidden_states: Tensor, *_arguments: object, **_options: object
    ) -> Tensor:
        repeats = len(hidden_states) // len(self._output)
        output = self._output.repeat_interleave(repeats, dim=0)
        projected: Tensor = attn.to_out[0](output) if self._project else output
        return projected


class _SideBySide:
    """A self-attention processor with given queries and keys, shape (row, location, channel).

    Every row of them serves as many rows of values as the batch is larger.
    """

    def __init__(self, query: Tensor, key: Tensor) -> None:
        self._query = query
        self._key = key

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if attention_mask is not None or encoder_hidden_states is not None:
            raise CaptureError("only plain self-attention can be shared; choose engine='literal'")
        query, key = (
            rearrange(each, "row place (head channel) -> row head place channel", head=attn.heads)
            for each in (self._query, self._key)
        )
        values = rearrange(
            attn.to_v(hidden_states),
            "(row branch) place (head channel) -> row head place (branch channel)",
            row=len(query),
            head=attn.heads,
        )
        mixed = _attention(query, key, values)
        mixed = rearrange(
            mixed,
            "row head place (branch channel) -> (row branch) place (head channel)",
            branch=len(hidden_states) // len(query),
        )
        projected: Tensor = attn.to_out[0](mixed)
        return projected


def _attention(query: Tensor, key: Tensor, values: Tensor) -> Tensor:
    """``softmax(Q K^T / sqrt(d)) V``, all of shape (row, head, location, channel), V the widest."""
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, values)
    # PyTorch's fast kernel for CPUs wants values as wide as queries, else the whole matrix is held.
    keys = (key * query.shape[-1] ** -0.5).transpose(-1, -2)
    # The sums of a softmax in half precision are in single precision inside.
    return torch.cat(
        [(some @ keys).softmax(-1) @ values for some in query.split(_QUERIES, dim=2)], dim=2
    )
