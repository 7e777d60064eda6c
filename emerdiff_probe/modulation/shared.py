"""The shared engine: the literal one's result, with what all branches have in common done once.

Under injection (section 3.2 of the paper) every modulated run uses the unmodulated one's products
QK^T. Two things follow exactly. A cross-attention, whose keys and values come from the text alone,
gives every branch the unmodulated run's output: it need not be computed. And one softmax(QK^T)
serves the self-attention of all branches: only their values differ, so these are laid side by
side as channels of a single attention.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor, nn
from tqdm.auto import tqdm

from emerdiff_probe.errors import CaptureError, ConfigError
from emerdiff_probe.models.denoiser import Denoiser
from emerdiff_probe.modulation.config import EmerDiffConfig
from emerdiff_probe.modulation.interventions import shifted
from emerdiff_probe.modulation.literal import Modulated
from emerdiff_probe.probing import Trajectory, capture
from emerdiff_probe.probing.taps import attentions, processed
from emerdiff_probe.sites import Site

__all__ = ["modulate"]


def modulate(
    model: Denoiser,
    trajectory: Trajectory,
    masks: Tensor,
    config: EmerDiffConfig,
    *,
    progress: bool = False,
) -> Modulated:
    """Runs two modulated denoisings for each mask, to the end; see `literal.modulate`.

    Raises:
        ConfigError: The settings are without injection, on which this rests; or t_m is not a
            timestep of the trajectory.
    """
    if not config.injection:
        raise ConfigError(
            "the shared engine rests on attention injection, and injection is False; "
            "choose engine='literal'"
        )
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
    common = _common_sites(model.unet)
    with torch.inference_mode(), bar:
        for index, timestep in enumerate(trajectory.timesteps):
            with capture(model.unet, common) as tap, capture(model.unet, [site]) as site_tap:
                eps = model.predict(unmodulated, timestep, trajectory.condition)
                known, output = tap.take(), site_tap.take()[site]
            if timestep == config.modulation_timestep:
                modulated = unmodulated.expand(len(shifts), -1, -1, -1)
                site_rms = float(output.float().square().mean().sqrt())
            if modulated is not None:
                parts = []
                for rows in torch.arange(len(shifts)).split(config.batch):
                    with ExitStack() as stack:
                        stack.enter_context(_shared(model.unet, known))
                        if timestep == config.modulation_timestep:
                            stack.enter_context(shifted(model.unet, site, shifts[rows]))
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


def _common_sites(unet: nn.Module) -> list[Site]:
    """What the branches take over: queries and keys of self-attention, outputs of the rest."""
    return [
        Site(path, port)
        for path, attention in attentions(unet).items()
        for port in (("out",) if attention.is_cross_attention else ("query", "key"))
    ]


@contextmanager
def _shared(unet: nn.Module, known: dict[Site, Tensor]) -> Iterator[None]:
    processors = {
        path: _Known(known[Site(path, "out")])
        if attention.is_cross_attention
        else _SideBySide(known[Site(path, "query")], known[Site(path, "key")])
        for path, attention in attentions(unet).items()
    }
    with processed(unet, processors):
        yield


class _Known:
    """An attention processor that gives a known output, shape (row, location, channel)."""

    def __init__(self, output: Tensor) -> None:
        self._output = output

    def __call__(
        self, attn: Attention, hidden_states: Tensor, *_arguments: object, **_options: object
    ) -> Tensor:
        return self._output.repeat_interleave(len(hidden_states) // len(self._output), dim=0)


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
        mixed = F.scaled_dot_product_attention(query, key, values)
        mixed = rearrange(
            mixed,
            "row head place (branch channel) -> (row branch) place (head channel)",
            branch=len(hidden_states) // len(query),
        )
        projected: Tensor = attn.to_out[0](mixed)
        return projected
