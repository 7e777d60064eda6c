"""What the rest of the package asks of a latent diffusion model."""

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
]


@dataclass(frozen=True, eq=False)
class Condition:
    """What a prediction is conditioned on.

    Attributes:
        prompt: The text as the model read it: what was beyond its length is cut.
        embeddings: Shape (1, token, channel), or a row for each sample.
        unconditional: The negative or empty prompt, of that shape; None without guidance.
        guidance: Scale of classifier-free guidance (Ho and Salimans 2022); 1 without. Models that
            read it as an input, as latent consistency models do, have no unconditional text.
        tokens: The texts of the prompt's tokens; all empty where it came encoded.
        unconditional_tokens: Those of the negative or empty prompt; none without guidance.
        pooled: The whole prompt in one vector, shape (1, channel), or a row for each sample; None
            where the model does not read it.
        unconditional_pooled: The same for the negative or empty prompt.
        described: What the prompt says beside its text, in words.
        mask: Which tokens count, shape (1, token), or a row for each sample; None where all do.
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
        """One condition for several samples of equal guidance; its texts are the first's."""
        own = ("embeddings", "pooled", "mask")
        names = (*own, "unconditional", "unconditional_pooled", "unconditional_mask")
        rows = {name: [getattr(each, name) for each in conditions] for name in names}
        joined: dict[str, Any] = {
            name: None if each[0] is None else torch.cat(each) for name, each in rows.items()
        }
        return replace(conditions[0], **joined)

    @property
    def halves(self) -> int:
        """Rows of a UNet call for each latent: 2 with guidance (unconditional first), else 1."""
        return 1 if self.unconditional is None else 2


class Denoiser(Protocol):
    """A latent diffusion model, as the package uses it.

    Latents are float32 of shape (sample, channel, y, x) whatever the model's dtype, because the
    step's arithmetic loses too much in half precision; pictures are float32 of shape
    (sample, 3, y, x), nominally in [0, 1].
    """

    name: str
    """How it was asked for: "playground", a folder or a hub id."""

    family: Family
    """Whose settings suit it."""

    unet: nn.Module
    """The denoising network: a UNet, or a transformer."""

    image_size: int
    """Side in pixels of the square pictures that it was trained on."""

    size_multiple: int
    """Sides of pictures must be multiples of this, so that all levels of the UNet divide."""

    @property
    def schedule(self) -> Schedule:
        """The amount of noise at each timestep, and what the UNet predicts."""
        ...

    def timesteps(self, steps: int, size: tuple[int, int]) -> tuple[int, ...]:
        """The sampling grid for an image of a size, from the most noise to the least."""

    @property
    def device(self) -> torch.device:
        """Where the network runs."""

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's dtype."""

    @property
    def weights(self) -> str:
        """A hash of the UNet's weights as they are now, without those of adapters."""

    @property
    def parts(self) -> Mapping[str, nn.Module]:
        """All networks that decide what it answers, by name: "unet" or "transformer", "vae", ..."""

    def condition(self, prompt: str | Prompt = "", guidance: float = 1.0) -> Condition:
        """Encodes a prompt; warns of what its length cuts."""

    def drawn_size(self, prompt: Prompt) -> tuple[int, int]:
        """Height and width in pixels of the picture of a prompt."""

    def predict(self, latents: Tensor, timestep: int, condition: Condition) -> Tensor:
        """The predicted noise, of the latents' shape, with guidance if the condition has it.

        Gradients are kept where the latents require them, and so in `decode`.
        """

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures to latents: the mean of the autoencoder's posterior, scaled."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures, not clamped to [0, 1]."""

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape (1, channel, y, x) of the latents of a picture of that size."""

    def sites(
        self, pattern: str = "*", *, height: int | None = None, width: int | None = None
    ) -> pd.DataFrame:
        """What there is to record of the UNet, by site: kind, level, dims, shape and bytes."""
