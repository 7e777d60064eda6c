"""Use any diffusers pipeline like Stable Diffusion v1, v2 or XL as a `Denoiser`."""

from __future__ import annotations

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import torch
from safetensors import safe_open
from torch import Tensor, nn

from emerdiff_probe.errors import InputError, ModelError
from emerdiff_probe.inputs import Prompt
from emerdiff_probe.models.beside import reading
from emerdiff_probe.models.catalogue import (
    is_laid_out_as_playground,
    text_width,
)
from emerdiff_probe.models.denoiser import Condition, Family
from emerdiff_probe.models.folders import DTYPE, of_one_dtype, pipeline_index, quiet_transformers
from emerdiff_probe.models.modes import evaluating
from emerdiff_probe.models.pipeline_model import PipelineModel, rows_of
from emerdiff_probe.models.refusals import check_folder, check_parts, say_unused
from emerdiff_probe.models.text import (
    Encoded,
    OneEncoder,
    TextEncoding,
    TwoEncoders,
    as_read,
    token_texts,
)
from emerdiff_probe.playground.clip import newer_parts
from emerdiff_probe.playground.padding import pad_as_configured

__all__ = ["StableDiffusion"]

_NO_CHECKER: Final = {"safety_checker": None, "requires_safety_checker": False}


class StableDiffusion(PipelineModel):
    """A pipeline's UNet, autoencoder and text encoders, used as they are.

    Args:
        pipeline: A ``StableDiffusionPipeline``, a ``StableDiffusionXLPipeline`` or one with the
            same parts, such as image-to-image pipelines. If it has a ControlNet or a T2I-Adapter,
            only the UNet is used, with a warning.
        name: The name it was loaded by, part of every dataset's provenance.

    Attributes:
        decoder: The autoencoder that decodes: the pipeline's own, unless another for the same
            latents replaces it.

    Raises:
        ModelError: A part is missing or not supported.
    """

    _usual_guidance = ", 7.5 is usual"

    def __init__(self, pipeline: Any, name: str) -> None:
        check_parts(pipeline, name)
        super().__init__(pipeline, pipeline.unet, name)
        self.text = _text_encoding(pipeline)
        _ = self.schedule  # refused now, not at the first run
        config = self.unet.config
        # Latent consistency models take the guidance scale as an input.
        self._reads_guidance = config.time_cond_proj_dim is not None
        self._is_xl = self._widens = isinstance(self.text, TwoEncoders)
        # The bundled model and those trained like it; the number of levels does not identify them.
        is_playground = (
            is_laid_out_as_playground(config)
            and self._factor == 4
            and bool(pipeline.scheduler.config.get("rescale_betas_zero_snr"))
        )
        self.family: Family = (
            "stable-diffusion-xl"
            if self._is_xl
            else "playground"
            if is_playground
            else "stable-diffusion"
        )
        # If a UNet does not state its size, diffusers' pipelines use these.
        size = config.sample_size or (128 if self._is_xl else 64)
        self.image_size = (size if isinstance(size, int) else max(size)) * self._factor
        self.size_multiple = self._factor * 2 ** (len(config.block_out_channels) - 1)

    @classmethod
    def from_folder(cls, folder: str, name: str, dtype: torch.dtype, **options: Any) -> Self:
        """Load a pipeline saved by diffusers, from a folder or the hub.

        Args:
            folder: A path, or a hub id.
            name: The name of the model.
            dtype: The dtype of all its parts.
            **options: Options of the pipeline's ``from_pretrained``.
        """
        with quiet_transformers():
            from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

        index = pipeline_index(folder, options)
        say_unused(name, [part for part, kind in index.items() if kind != [None, None]])
        check_folder(Path(folder), index, name)
        options = {DTYPE: dtype, **newer_parts(folder), **options}
        if "text_encoder_2" in index:
            pipeline = StableDiffusionXLPipeline.from_pretrained(folder, **options)
        else:
            pipeline = StableDiffusionPipeline.from_pretrained(folder, **{**_NO_CHECKER, **options})
        pad_as_configured(pipeline.unet)
        return cls(of_one_dtype(pipeline, dtype), name)

    @classmethod
    def from_file(cls, path: Path, name: str, dtype: torch.dtype, **options: Any) -> Self:
        """Load a checkpoint in one file, with the names of the original code.

        Args:
            path: The ``.safetensors`` file.
            name: The name of the model.
            dtype: The dtype of all its parts.
            **options: Options of the pipeline's ``from_single_file``. The file holds only weights;
                everything else comes from ``config``, a folder or hub id of a pipeline of its kind,
                by default the one on the hub that diffusers detects.

        Raises:
            ModelError: It is not a whole model.
        """
        with quiet_transformers():
            from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

        with safe_open(path, "pt") as file:
            names = list(file.keys())
        if not any(each.startswith("model.diffusion_model.") for each in names):
            raise ModelError(
                f"{name!r} is not a whole model (its first tensor is {min(names, default='')!r}): "
                "a LoRA, or one part? Load the pipeline that it belongs to with diffusers, load "
                "this into it, and give the pipeline to ep.load()"
            )
        is_xl = any(each.startswith("conditioner.") for each in names)
        kind = StableDiffusionXLPipeline if is_xl else StableDiffusionPipeline
        checker = {} if is_xl else _NO_CHECKER
        pipeline = kind.from_single_file(
            os.fspath(path), torch_dtype=dtype, **{**checker, **options}
        )
        return cls(of_one_dtype(pipeline, dtype), name)

    @property
    def text_parts(self) -> dict[str, nn.Module]:
        """Return the text encoders by name."""
        return self.text.parts

    @property
    def text_length(self) -> int:
        """Return the number of tokens of a text."""
        length: int = self.text.tokenizer.model_max_length
        return length

    @torch.no_grad()
    def condition(self, prompt: str | Prompt = "", guidance: float = 1.0) -> Condition:
        """Encode a prompt as the pipeline does.

        Args:
            prompt: A text, or a prompt with further settings. Text beyond the model's length is
                cut, with a warning that quotes it.
            guidance: The scale of classifier-free guidance; 1 means none.

        Raises:
            InputError: The guidance is below 1, or too small for a negative prompt; or the prompt
                does not fit the model.
        """
        prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        guided = self._is_guided(prompt, guidance)
        with evaluating(*self.text.parts.values()):
            with reading("cond"):
                text, tokens = self._encoded(prompt)
            condition = Condition(
                prompt.text,
                text.embeddings,
                guidance=guidance,
                tokens=tokens,
                pooled=text.pooled,
                described=prompt.described,
            )
            if not guided:
                return condition
            with reading("uncond"):
                empty, tokens = self._unconditional(prompt.negative_prompt)
        return replace(
            condition,
            unconditional=empty.embeddings,
            unconditional_tokens=tokens,
            unconditional_pooled=empty.pooled,
        )

    def _encoded(self, prompt: Prompt) -> tuple[Encoded, tuple[str, ...]]:
        """Return a prompt as the UNet reads it, and the texts of its tokens.

        Raises:
            InputError: The given embeddings do not fit the model.
        """
        if prompt.prompt_embeds is None:
            text, tokens = self._read(prompt.text)
            return self._in_dtype(self.text.encode(text, self.device, prompt.clip_skip)), tokens
        length = self.text.tokenizer.model_max_length
        wanted = (length, text_width(self.unet.config.cross_attention_dim))
        if prompt.prompt_embeds.shape != wanted or self._is_xl != (
            prompt.pooled_prompt_embeds is not None
        ):
            pooled = "with" if self._is_xl else "without"
            given = "no" if prompt.pooled_prompt_embeds is None else "with"
            raise InputError(
                f"prompt_embeds have shape {prompt.prompt_embeds.shape}, {given} "
                f"pooled_prompt_embeds; those of this model have {wanted} (token, channel), and "
                f"come {pooled} pooled_prompt_embeds"
            )
        embeddings = torch.from_numpy(prompt.prompt_embeds)[None].to(self.device)
        one = prompt.pooled_prompt_embeds
        text_as_one = None if one is None else torch.from_numpy(one)[None].to(self.device)
        return self._in_dtype(Encoded(embeddings, text_as_one)), ("",) * length

    def _unconditional(self, negative: str) -> tuple[Encoded, tuple[str, ...]]:
        text, tokens = self._read(negative)
        if negative:
            return self._in_dtype(self.text.encode(text, self.device)), tokens
        return self._in_dtype(self.text.unconditional(self.device)), tokens

    def _read(self, prompt: str) -> tuple[str, tuple[str, ...]]:
        """Return a text as the tokenizers take it, and the texts of its tokens."""
        tokenizer = self.text.tokenizer
        text = as_read(self.pipeline, tokenizer, prompt)
        tokens, cut = token_texts(tokenizer, text)
        if cut:
            warnings.warn(
                f"the prompt is longer than the {tokenizer.model_max_length - 2} tokens that "
                f"the model reads; this was cut: {cut!r}",
                stacklevel=5,  # no_grad is a frame of its own
            )
        return text, tokens

    def _in_dtype(self, text: Encoded) -> Encoded:
        pooled = None if text.pooled is None else text.pooled.to(self.dtype)
        return Encoded(text.embeddings.to(self.dtype), pooled)

    def _noise(self, latents: Tensor, timestep: int, condition: Condition) -> Tensor:
        rows = torch.cat([latents] * condition.halves).to(self.dtype)
        text = rows_of(len(latents), condition.unconditional, condition.embeddings)
        added = None
        if condition.pooled is not None:
            added = {
                "text_embeds": rows_of(
                    len(latents), condition.unconditional_pooled, condition.pooled
                ),
                "time_ids": self._picture_numbers(latents).expand(len(rows), -1),
            }
        output = self.unet(
            rows,
            timestep,
            encoder_hidden_states=text,
            timestep_cond=self._guidance_embedding(rows, condition.guidance),
            added_cond_kwargs=added,
            return_dict=False,
        )[0].float()
        return self.schedule.to_noise(output, torch.cat([latents] * condition.halves), timestep)

    def _guidance_embedding(self, rows: Tensor, guidance: float) -> Tensor | None:
        """Return the guidance scale as latent consistency models read it (Luo et al. 2023)."""
        if not self._reads_guidance:
            return None
        from diffusers import StableDiffusionPipeline

        embedding = StableDiffusionPipeline.get_guidance_scale_embedding(
            self.pipeline,
            torch.tensor([guidance - 1] * len(rows)),
            embedding_dim=self.unet.config.time_cond_proj_dim,
        )
        return embedding.to(rows)

    def _picture_numbers(self, latents: Tensor) -> Tensor:
        """Return XL's numbers for an image: its size, no crop, and the size again, in pixels."""
        size = [side * self._factor for side in latents.shape[-2:]]
        return torch.tensor([[*size, 0, 0, *size]], device=latents.device, dtype=self.dtype)


def _text_encoding(pipeline: Any) -> TextEncoding:
    if getattr(pipeline, "text_encoder_2", None) is None:
        return OneEncoder(pipeline.tokenizer, pipeline.text_encoder)
    return TwoEncoders(
        pipeline.tokenizer,
        pipeline.tokenizer_2,
        pipeline.text_encoder,
        pipeline.text_encoder_2,
        empty_is_zero=bool(pipeline.config.get("force_zeros_for_empty_prompt")),
    )
