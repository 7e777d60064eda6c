"""Prepare inputs for a model: what a run starts from, before the model is called."""

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
    """Hold a prompt, an image or latents, ready for a model.

    Attributes:
        model: Denoiser.
        source: Prompt, image or latents.
        settings: Settings of the run.
        seed: Seed of all its noise.
        picture: Pixels of an image, uint8 (height, width, 3), in its own size; else None.
        pixels: Pixels as the model sees them, float32 in [0, 1], (height, width, 3).
        latents: Clean latents, float32 (1, channel, y, x), if latents were given; else None.
        size: Height and width in pixels, as the model sees it.
        fit: Description of how it was fitted to that size.
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
        """Return height and width in pixels of the image itself; all positions are in these."""
        return self.size if self.picture is None else (len(self.picture), self.picture.shape[1])

    @property
    def drawn(self) -> bool:
        """Return whether the run draws a prompt, instead of inverting an image."""
        return isinstance(self.source, Prompt) and self.settings.condition == "prompt"

    @cached_property
    def condition(self) -> Condition:
        """Return the encoded text of the predictions; an inversion has the empty prompt."""
        return self.conditioned()

    def conditioned(self) -> Condition:
        """Encode that text again, with the text encoders as they are now."""
        return self.model.condition("") if not self.drawn else self._prompted()

    def _prompted(self) -> Condition:
        assert isinstance(self.source, Prompt)
        return self.model.condition(self.source, self.settings.guidance)

    @property
    def prompt(self) -> str:
        """Return the prompt's text, which is empty for images and latents."""
        return self.source.text if isinstance(self.source, Prompt) else ""

    @property
    def name(self) -> str:
        """Return its name: the prompt, or the name of the file."""
        return input_name(self.source)

    @cached_property
    def about(self) -> str:
        """Return what it is, with a digest of its content, for provenance."""
        if isinstance(self.source, Prompt):
            further = self.source.described.removeprefix("prompt")
            return f"prompt {self.source.text!r}, seed {self.seed}{further}"
        if self.picture is None:
            assert self.latents is not None
            return f"latents {self.source.name!r} {_digest(self.latents[0].cpu().numpy())}"
        return f"photo {self.source.name!r} {_digest(self.picture)}"

    @cached_property
    def x0(self) -> Tensor | None:
        """Return clean latents of an image or of given latents; None for a drawn prompt."""
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
        """Return the trajectory of its run.

        It costs no call of the UNet, except with DDIM inversion and for a drawn image that is
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
        """Return the timesteps of its run, from the most noise to the least."""
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
        source: Prompt, image or latents.
        seed: Seed of all noise; by default the prompt's own, else 0.
        settings: Settings of the run; by default what fits the model.
        **changes: Single settings, by names of attributes of `RunSettings`.

    Raises:
        InputError: The input cannot be used.
        ConfigError: A setting does not exist, cannot have the value, or has no meaning for such an
            input.
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
                f"{name} is {changes[name]!r}, but images and latents are denoised with the empty "
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
            f"latents have shape {latents.shape}; for this model give {channels} channels and "
            f"sides that are multiples of {multiple}"
        )
    return torch.from_numpy(latents)[None].to(model.device), (height, width)


def _digest(array: NDArray[Any]) -> str:
    return hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()
