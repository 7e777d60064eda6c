"""Inputs made ready for a model: what a run starts from, before the model is called."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from emerdiff_probe import checks
from emerdiff_probe.errors import ConfigError, InputError
from emerdiff_probe.inputs import Input, Latents, Prompt, fit, input_name
from emerdiff_probe.models import Condition, Denoiser
from emerdiff_probe.runs.inversion import inversion_trajectory
from emerdiff_probe.runs.settings import RunSettings
from emerdiff_probe.runs.trajectory import Trajectory, noise_trajectory

__all__ = ["Prepared", "prepare"]

_MOST_SEED: Final = 2**63 - 1


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prompt, an image or latents, ready for a model.

    Attributes:
        model: The denoiser.
        source: The prompt, image or latents.
        settings: How it is run.
        seed: Of all its noise.
        picture: An image's pixels, uint8 (height, width, 3), in its own size; else None.
        pixels: The same as the model sees them, float32 in [0, 1], (height, width, 3).
        latents: Clean latents, float32, (1, channel, y, x), of given latents; else None.
        size: Height and width in pixels, as the model sees it.
        fit: How it was fitted to that size, in words.
    """

    model: Denoiser
    source: Input
    settings: RunSettings
    seed: int
    picture: NDArray[np.uint8] | None
    pixels: NDArray[np.float32] | None
    latents: Tensor | None
    size: tuple[int, int]
    fit: str

    @property
    def own_size(self) -> tuple[int, int]:
        """Height and width in pixels of the image itself, in which all positions are given."""
        return self.size if self.picture is None else (len(self.picture), self.picture.shape[1])

    @property
    def drawn(self) -> bool:
        """Whether the run is a prompt's drawing, and no inversion."""
        return isinstance(self.source, Prompt) and self.settings.condition == "prompt"

    @cached_property
    def condition(self) -> Condition:
        """The text of the run's predictions; what is no drawing has the empty prompt."""
        return self.model.condition("") if not self.drawn else self._prompted()

    def _prompted(self) -> Condition:
        assert isinstance(self.source, Prompt)
        return self.model.condition(self.source, self.settings.guidance)

    @property
    def prompt(self) -> str:
        """The prompt's text; empty for images and latents."""
        return self.source.text if isinstance(self.source, Prompt) else ""

    @property
    def name(self) -> str:
        """What to call it: the prompt, or the file's name."""
        return input_name(self.source)

    @cached_property
    def about(self) -> str:
        """What it is, with a digest of its content, for provenance."""
        if isinstance(self.source, Prompt):
            further = self.source.described.removeprefix("prompt")
            return f"prompt {self.source.text!r}, seed {self.seed}{further}"
        if self.picture is None:
            assert self.latents is not None
            return f"latents {self.source.name!r} {_digest(self.latents[0].cpu().numpy())}"
        return f"photo {self.source.name!r} {_digest(self.picture)}"

    @cached_property
    def x0(self) -> Tensor | None:
        """Clean latents of an image or of given latents; None for a prompt's drawing."""
        if self.latents is not None:
            return self.latents
        if self.pixels is not None:
            return self.model.encode(
                rearrange(torch.from_numpy(self.pixels), "y x rgb -> 1 rgb y x")
            )
        if self.drawn:
            return None
        *_, last = self._drawing(self._prompted()).run(self.model)
        return last.next_latents

    @cached_property
    def trajectory(self) -> Trajectory:
        """The trajectory of its run.

        It costs no call of the UNet, but for DDIM inversion and for a drawn image that is
        inverted.
        """
        if self.x0 is None:
            return self._drawing(self.condition)
        return inversion_trajectory(
            self.model,
            self.x0,
            method=self.settings.inversion,
            timesteps=self.timesteps,
            condition=self.condition,
            seed=self.seed,
        )

    @property
    def timesteps(self) -> tuple[int, ...]:
        """The timesteps of its run, from the most noise to the least."""
        if self.drawn or self.settings.inversion == "edit_friendly":
            return self._grid
        kept = tuple(t for t in self._grid if t <= self.settings.start)
        if not kept:
            raise ConfigError(
                f"start is {self.settings.start}, below every timestep of the grid of "
                f"{self.settings.steps} steps; choose {self._grid[-1]} or more"
            )
        return kept

    @property
    def _grid(self) -> tuple[int, ...]:
        return self.model.timesteps(self.settings.steps, self.size)

    def _drawing(self, condition: Condition) -> Trajectory:
        return noise_trajectory(self.model, condition, self._grid, self.seed, self.size)


def prepare(
    model: Denoiser,
    source: Input,
    *,
    seed: int | None = None,
    settings: RunSettings | None = None,
    **changes: Any,
) -> Prepared:
    """Return an input ready for a model; the model's UNet is not called.

    Args:
        model: The denoiser.
        source: A prompt, an image or latents.
        seed: Of all noise; by default the prompt's own, else 0.
        settings: How it is run; by default what fits the model.
        **changes: Single settings, as attributes of `RunSettings`.

    Raises:
        InputError: The input cannot be used.
        ConfigError: There is no such setting, it cannot have the value, or it has no meaning for
            such an input.
    """
    defaults = RunSettings.for_model(model)
    chosen = (settings or defaults).replace(**changes)
    if not isinstance(source, Prompt):
        _refuse_text(changes)
        chosen = chosen.replace(guidance=defaults.guidance, condition=defaults.condition)
    own = source.seed if isinstance(source, Prompt) else 0
    seed = own if seed is None else checks.integer("seed", seed, 0, _MOST_SEED)
    if isinstance(source, Prompt):
        source = dataclasses.replace(source, seed=seed)
        size = model.drawn_size(source)
        drawn = f"drawn by the model, {size[0]} x {size[1]} (height x width)"
        return Prepared(model, source, chosen, seed, None, None, None, size, drawn)
    if isinstance(source, Latents):
        latents, size = _checked_latents(model, source)
        return Prepared(model, source, chosen, seed, None, None, latents, size, "given as latents")
    picture = source.rgb()
    fitted = fit(picture, side=model.image_size, multiple=model.size_multiple)
    height, width = fitted.pixels.shape[:2]
    return Prepared(
        model, source, chosen, seed, picture, fitted.pixels, None, (height, width), fitted.method
    )


def _refuse_text(changes: Mapping[str, Any]) -> None:
    for name in ("guidance", "condition"):
        if name in changes and changes[name] not in (1, "empty"):
            raise ConfigError(
                f"{name} is {changes[name]!r}, but what is no prompt is denoised with the empty "
                "prompt, for which guidance changes nothing; leave it out"
            )


def _checked_latents(model: Denoiser, source: Latents) -> tuple[Tensor, tuple[int, int]]:
    latents = source.array()
    _, channels, rows, _ = model.latent_shape(model.image_size, model.image_size)
    factor = model.image_size // rows
    height, width = (side * factor for side in latents.shape[1:])
    if len(latents) != channels or height % model.size_multiple or width % model.size_multiple:
        multiple = model.size_multiple // factor
        raise InputError(
            f"latents have shape {latents.shape}; those of this model have {channels} channels and "
            f"sides that are multiples of {multiple}"
        )
    return torch.from_numpy(latents)[None].to(model.device), (height, width)


def _digest(array: NDArray[Any]) -> str:
    return hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()
