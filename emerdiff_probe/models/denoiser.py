"""Define what the rest of the package needs from a latent diffusion model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import pandas as pd
import torch
from torch import Tensor, nn

from emerdiff_probe.inputs import Prompt
from emerdiff_probe.models.schedule import Schedule

__all__ = ["Condition", "Denoiser", "Family"]

Family = Literal[
    "playground",
    "stable-diffusion",
    "stable-diffusion-xl",
    "pixart",
    "stable-diffusion-3",
    "flux",
    "dit",
    "auraflow",
    "sana",
]


@dataclass(frozen=True, eq=False)
class Condition:
    """The condition of a prediction.

    Attributes:
        prompt: The text as the model reads it, cut to the model's length.
        embeddings: The encoded text, shape (1, token, channel), or a row for each sample.
        unconditional: The encoded negative or empty prompt, of the same shape; None without
            guidance.
        guidance: The scale of classifier-free guidance (Ho and Salimans 2022); 1 without. Models
            that read it as an input, such as latent consistency models, have no unconditional text.
        tokens: The texts of the prompt's tokens; all empty if it was passed encoded.
        unconditional_tokens: The texts of the negative or empty prompt's tokens; none without
            guidance.
        pooled: The whole prompt as one vector, shape (1, channel), or a row for each sample; None
            if the model does not read it.
        unconditional_pooled: The same for the negative or empty prompt.
        described: The prompt's settings besides its text, in words.
        mask: The mask of the tokens that count, shape (1, token), or a row for each sample; None if
            all do.
        unconditional_mask: The same for the negative or empty prompt.
    """

    prompt: str
    embeddings: Tensor
    unconditional: Tensor | None = None
    guidance: float = 1.0
    tokens: tuple[str, ...] = ()
    unconditional_tokens: tuple[str, ...] = ()
    pooled: Tensor | None = None
    unconditional_pooled: Tensor | None = None
    described: str = "prompt"
    mask: Tensor | None = None
    unconditional_mask: Tensor | None = None

    @classmethod
    def joined(cls, conditions: Sequence[Condition]) -> Condition:
        """Return one condition for samples of equal guidance, with the texts of the first."""
        own = ("embeddings", "pooled", "mask")
        names = (*own, "unconditional", "unconditional_pooled", "unconditional_mask")
        rows = {name: [getattr(each, name) for each in conditions] for name in names}
        joined: dict[str, Any] = {
            name: None if each[0] is None else torch.cat(each) for name, each in rows.items()
        }
        return replace(conditions[0], **joined)

    @property
    def halves(self) -> int:
        """Return the rows of a call for each latent: 2 if guided (unconditional first), else 1."""
        return 1 if self.unconditional is None else 2


class Denoiser(Protocol):
    """A latent diffusion model, as the package uses it.

    Latents are float32 of shape (sample, channel, y, x) whatever the model's dtype, because the
    arithmetic of a step loses too much in half precision. Images are float32 of shape (sample, 3,
    y, x), nominally in [0, 1].
    """

    name: str
    """The name it was loaded by: "playground", a folder or a hub id."""

    family: Family
    """The family whose settings suit it."""

    unet: nn.Module
    """The denoising network: a UNet, or a transformer."""

    image_size: int
    """The side in pixels of the square images that it was trained on."""

    size_multiple: int
    """A divisor of the sides of images, so that all levels of the network divide evenly."""

    @property
    def schedule(self) -> Schedule:
        """Return the amount of noise at each timestep, and the meaning of the network's output."""
        ...

    def timesteps(self, steps: int, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the sampling grid for an image of a size, from the most noise to the least."""

    @property
    def device(self) -> torch.device:
        """Return the device that the network runs on."""

    @property
    def dtype(self) -> torch.dtype:
        """Return the network's dtype."""

    @property
    def weights(self) -> str:
        """Return a hash of the network's current weights, without those of adapters."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """Return all networks that determine its answers: "unet" or "transformer", "vae", ..."""

    def condition(self, prompt: str | Prompt = "", guidance: float = 1.0) -> Condition:
        """Encode a prompt; warn about what its length cuts off."""

    def drawn_size(self, prompt: Prompt) -> tuple[int, int]:
        """Return the height and width in pixels of the image of a prompt."""

    def predict(self, latents: Tensor, timestep: int, condition: Condition) -> Tensor:
        """Return the predicted noise, in the latents' shape, with guidance if the condition has it.

        Gradients are kept if the latents require them, and likewise in `decode`.
        """

    def encode(self, pictures: Tensor) -> Tensor:
        """Encode images as latents: the mean of the autoencoder's posterior, scaled."""

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to images, not clamped to [0, 1]."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the shape (1, channel, y, x) of the latents of an image of that size."""

    def sites(
        self, pattern: str = "*", *, height: int | None = None, width: int | None = None
    ) -> pd.DataFrame:
        """Return a table of the network's sites: kind, level, dims, shape and bytes."""
