"""Any Stable Diffusion v1 or v2 like pipeline of diffusers as a `Denoiser`."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self

import pandas as pd
import torch
from torch import Tensor

from emerdiff_probe.errors import InputError, ModelError
from emerdiff_probe.models.catalogue import catalogue, chosen
from emerdiff_probe.models.denoiser import Condition, Family
from emerdiff_probe.models.schedule import Schedule

__all__ = ["StableDiffusion"]


class StableDiffusion:
    """A pipeline's UNet, autoencoder and text encoder, taken as they are.

    Args:
        pipeline: A ``StableDiffusionPipeline`` or one with the same parts.
        name: How it was asked for; part of every dataset's provenance.

    Raises:
        ModelError: A part is missing, or is of a kind that is not known.
    """

    def __init__(self, pipeline: Any, name: str) -> None:
        parts = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
        missing = [part for part in parts if getattr(pipeline, part, None) is None]
        if missing:
            raise ModelError(
                f"{name}: a {type(pipeline).__name__} has no {', '.join(missing)}; "
                "Stable Diffusion v1 and v2 pipelines have all of: " + ", ".join(parts)
            )
        if getattr(pipeline, "text_encoder_2", None) is not None:
            raise ModelError(
                f"{name}: pipelines with two text encoders (Stable Diffusion XL) are not "
                "supported; choose a Stable Diffusion v1 or v2 checkpoint"
            )
        if pipeline.unet.config.in_channels != pipeline.vae.config.latent_channels:
            raise ModelError(
                f"{name}: the UNet takes {pipeline.unet.config.in_channels} channels and the "
                f"autoencoder gives {pipeline.vae.config.latent_channels} (an inpainting or depth "
                "model?); choose a text-to-image checkpoint"
            )
        self.name = name
        self.pipeline = pipeline
        self.unet = pipeline.unet.eval()
        self.vae = pipeline.vae.eval()
        self.text_encoder = pipeline.text_encoder.eval()
        self.tokenizer = pipeline.tokenizer
        self.schedule = Schedule.from_scheduler(pipeline.scheduler)
        # The bundled model and those trained like it have three levels, Stable Diffusion has four.
        levels = len(self.unet.config.block_out_channels)
        self.family: Family = "playground" if levels == 3 else "stable-diffusion"
        self._factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        size = self.unet.config.sample_size
        self.image_size = (size if isinstance(size, int) else max(size)) * self._factor
        self.size_multiple = self._factor * 2 ** (levels - 1)

    @classmethod
    def from_folder(cls, folder: str, name: str, dtype: torch.dtype, **options: Any) -> Self:
        """Loads a pipeline saved by diffusers, from a folder or the hub.

        Args:
            folder: Path, or a hub id.
            name: How to call it.
            dtype: Of all its parts.
            **options: For ``StableDiffusionPipeline.from_pretrained``.
        """
        with _quiet_transformers():
            from diffusers import StableDiffusionPipeline

        options.setdefault("safety_checker", None)
        options.setdefault("requires_safety_checker", False)
        pipeline = StableDiffusionPipeline.from_pretrained(folder, dtype=dtype, **options)
        # transformers has versions that leave a text encoder in the dtype it is stored in.
        pipeline.text_encoder.to(dtype)
        return cls(pipeline, name)

    @property
    def device(self) -> torch.device:
        """Where the UNet runs."""
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The UNet's dtype."""
        return next(self.unet.parameters()).dtype

    @cached_property
    def weights(self) -> str:
        """A hash of the UNet's weights, the same for equal values of equal dtype."""
        digest = hashlib.blake2b(digest_size=12)
        for key, tensor in sorted(self.unet.state_dict().items()):
            digest.update(key.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    @property
    def description(self) -> dict[str, Any]:
        """Provenance for datasets."""
        return {
            "name": self.name,
            "weights": self.weights,
            "pipeline": type(self.pipeline).__name__,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "prediction": self.schedule.prediction,
            "image_size": self.image_size,
        }

    @torch.no_grad()
    def condition(self, prompt: str = "", guidance: float = 1.0) -> Condition:
        """Encodes a prompt, as ``StableDiffusionPipeline`` does.

        Args:
            prompt: Text. What is beyond the model's length is cut, with a warning that says what.
            guidance: Scale of classifier-free guidance; 1 means none.

        Raises:
            InputError: The guidance is below 1.
        """
        if not guidance >= 1:
            raise InputError(f"guidance is {guidance}; choose 1 (none) or larger, 7.5 is usual")
        embeddings, tokens, cut = self._embed(prompt)
        if cut:
            warnings.warn(
                f"the prompt is longer than the {self.tokenizer.model_max_length - 2} tokens that "
                f"the model reads; this was cut: {cut!r}",
                stacklevel=3,  # no_grad is a frame of its own
            )
        unconditional = self._embed("")[0] if guidance > 1 else None
        return Condition(prompt, embeddings, unconditional, guidance, tokens)

    def _embed(self, prompt: str) -> tuple[Tensor, tuple[str, ...], str]:
        length = self.tokenizer.model_max_length
        tokens = self.tokenizer(
            prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        whole = self.tokenizer(prompt).input_ids
        cut = self.tokenizer.decode(whole[length - 1 : -1]) if len(whole) > length else ""
        wants_mask = getattr(self.text_encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(self.device) if wants_mask else None
        output = self.text_encoder(tokens.input_ids.to(self.device), attention_mask=mask)
        texts = self.tokenizer.convert_ids_to_tokens(tokens.input_ids[0].tolist())
        # CLIP marks the last piece of a word.
        words = tuple(text.removesuffix("</w>") for text in texts)
        return output[0].to(self.dtype), words, cut

    def predict(self, latents: Tensor, timestep: int, condition: Condition) -> Tensor:
        """The predicted noise; with gradients where the latents ask for them.

        Args:
            latents: x_t, float32, shape (sample, channel, y, x).
            timestep: t.
            condition: Encoded text. With guidance the UNet sees twice the samples, the
                unconditional ones first.

        Returns:
            float32, of the latents' shape.
        """
        with torch.set_grad_enabled(latents.requires_grad):
            return self._predict(latents, timestep, condition)

    def _predict(self, latents: Tensor, timestep: int, condition: Condition) -> Tensor:
        count = len(latents)
        rows = torch.cat([latents] * condition.halves).to(self.dtype)
        texts = [condition.unconditional] if condition.unconditional is not None else []
        text = torch.cat([each.expand(count, -1, -1) for each in [*texts, condition.embeddings]])
        output = self.unet(rows, timestep, encoder_hidden_states=text, return_dict=False)[0].float()
        eps = self.schedule.to_noise(output, torch.cat([latents] * condition.halves), timestep)
        if condition.halves == 1:
            return eps
        without, with_text = eps.chunk(2)
        return without + condition.guidance * (with_text - without)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures, shape (sample, 3, y, x) in [0, 1], to latents: the posterior's mean, scaled."""
        vae_dtype = next(self.vae.parameters()).dtype
        scaled = (pictures * 2 - 1).to(self.device, vae_dtype)
        mean = self.vae.encode(scaled).latent_dist.mode().float()
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return (mean - shift) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures, shape (sample, 3, y, x); with gradients where they ask for them.

        They are not clamped: a response is a difference of two of them, and clamping would hide
        it wherever a picture is white or black.
        """
        vae_dtype = next(self.vae.parameters()).dtype
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        latents = latents / self.vae.config.scaling_factor + shift
        with torch.set_grad_enabled(latents.requires_grad):
            decoded = self.vae.decode(latents.to(vae_dtype), return_dict=False)[0]
        return decoded.float() / 2 + 0.5

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Shape (1, channel, y, x) of the latents of a picture of that size."""
        channels = self.unet.config.in_channels
        return 1, channels, height // self._factor, width // self._factor

    def sites(
        self,
        pattern: str = "*",
        *,
        kind: str | Iterable[str] | None = None,
        level: int | Iterable[int] | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> pd.DataFrame:
        """What there is to record: a table of the UNet's sites; nothing is run for it.

        Args:
            pattern: Names of sites separated by commas, with ``*`` for any characters; without a
                port a name means ``out``, after ``!`` it is left out, and ``*`` is every site.
            kind: Only sites of this kind, or these: "block", "resnet", "self", "cross", ...
            level: Only sites on grids of so many rows, as 16.
            height: Of the picture in pixels; by default that of the model's training.
            width: The same.

        Returns:
            A row for each site, in the order of computing: ``kind``, ``level``, ``dims``,
            ``shape`` and ``bytes`` of one sample at one timestep in the model's dtype.

        Raises:
            SiteError: A name in the pattern matches nothing, or there is no such kind or level.
        """
        latents = self.latent_shape(height or self.image_size, width or self.image_size)
        table = catalogue(self.unet, latents, self.tokenizer.model_max_length)
        return chosen(table, pattern, kind=kind, level=level)

    def __repr__(self) -> str:
        return f"StableDiffusion({self.name!r}, {self.image_size} px, {self.dtype}, {self.device})"


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keeps back what transformers says of torchvision when diffusers' pipelines are imported."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
