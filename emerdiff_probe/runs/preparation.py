"""Subjects: prompts, photographs and latents as a model sees them, and their trajectories."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray

from emerdiff_probe.errors import ConfigError, InputError
from emerdiff_probe.inputs import Latents, Photo, Prompt, fit
from emerdiff_probe.models import Condition, Denoiser
from emerdiff_probe.runs.inversion import Inversion, invert
from emerdiff_probe.runs.trajectory import Trajectory, prompted

__all__ = ["Source", "Subject", "subjects"]

Source: TypeAlias = Prompt | Photo | Latents


@dataclass(frozen=True, eq=False)
class Subject:
    """A source as the model sees it.

    Attributes:
        source: The prompt, photograph or latents.
        given: Of a photograph the pixels, float32 (y, x, rgb) in [0, 1]; of latents themselves,
            float32 (channel, y, x).
        size: Height and width in pixels.
        condition: Its text, encoded.
        about: Prompt, seed and source, fit for JSON.
    """

    source: Source
    given: NDArray[np.float32] | None
    size: tuple[int, int]
    condition: Condition
    about: dict[str, Any]

    def trajectory(
        self, model: Denoiser, steps: int, first: int, inversion: Inversion, seed: int
    ) -> Trajectory:
        """The run that draws a prompt, or leads back to a picture.

        Args:
            model: The denoiser.
            steps: Of the sampling grid.
            first: The timestep from which a picture is denoised.
            inversion: Of pictures and latents.
            seed: Of the inversion.
        """
        timesteps = model.schedule.timesteps(steps)
        if self.given is None:
            return prompted(model, self.condition, timesteps, self.about["seed"], self.size)
        given = torch.from_numpy(self.given)
        if isinstance(self.source, Latents):
            x0 = given[None].to(model.device)
        else:
            x0 = model.encode(rearrange(given, "y x rgb -> 1 rgb y x"))
        return invert(
            model,
            x0,
            method=inversion,
            timesteps=tuple(t for t in timesteps if t <= first),
            condition=self.condition,
            seed=seed,
        )


def subjects(model: Denoiser, source: Source | Sequence[Source], guidance: float) -> list[Subject]:
    """What a model is to record, brought to its size.

    Args:
        model: The denoiser.
        source: One or several, of one kind.
        guidance: Scale of classifier-free guidance for prompts.

    Raises:
        InputError: They are of no kind or several, or cannot be used, or differ in size.
        ConfigError: Guidance without a prompt.
    """
    sources = [source] if isinstance(source, Prompt | Photo | Latents) else list(source)
    kinds = {type(each) for each in sources}
    if kinds not in ({Prompt}, {Photo}, {Latents}):
        names = ", ".join(sorted(kind.__name__ for kind in kinds)) or "nothing"
        raise InputError(
            "sources are ep.Prompt(text), ep.Photo(path or image) or ep.Latents(array), all of one "
            f"kind; not {names}"
        )
    if kinds != {Prompt} and guidance != 1:
        raise ConfigError(
            f"guidance is {guidance}, but what is no prompt is denoised with the empty prompt, "
            "for which guidance changes nothing; leave it out"
        )
    found = [_subject(model, each, guidance) for each in sources]
    if len(sizes := {each.size for each in found}) > 1:
        raise InputError(
            f"sources come out at different sizes {sorted(sizes)}, and a recording has one; "
            "crop them to one aspect ratio, or record them one by one"
        )
    return found


def _subject(model: Denoiser, source: Source, guidance: float) -> Subject:
    if isinstance(source, Prompt):
        about = {"prompt": source.text, "seed": int(source.seed), "source": source.described}
        condition = model.condition(source, guidance)
        return Subject(source, None, model.drawn_size(source), condition, about)
    if isinstance(source, Latents):
        return _latent_subject(model, source)
    picture = source.rgb()
    fitted = fit(picture, side=model.image_size, multiple=model.size_multiple)
    digest = hashlib.blake2b(picture.tobytes(), digest_size=8).hexdigest()
    about = {"prompt": "", "seed": -1, "source": f"{source.name} {digest}, {fitted.method}"}
    height, width = fitted.pixels.shape[:2]
    return Subject(source, fitted.pixels, (height, width), model.condition(""), about)


def _latent_subject(model: Denoiser, source: Latents) -> Subject:
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
    digest = hashlib.blake2b(latents.tobytes(), digest_size=8).hexdigest()
    about = {"prompt": "", "seed": -1, "source": f"{source.name} {digest}, given as latents"}
    return Subject(source, latents, (height, width), model.condition(""), about)
