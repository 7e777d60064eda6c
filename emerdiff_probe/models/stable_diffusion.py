"""Any pipeline of diffusers like Stable Diffusion v1, v2 or XL as a `Denoiser`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

import diffusers
import pandas as pd
import torch
from safetensors import safe_open
from torch import Tensor, nn

from emerdiff_probe.errors import InputError, ModelError
from emerdiff_probe.inputs import Prompt
from emerdiff_probe.models.catalogue import (
    catalogue,
    chosen,
    is_laid_out_as_playground,
    text_width,
    unwrapped,
)
from emerdiff_probe.models.denoiser import Condition, Family
from emerdiff_probe.models.identity import unet_weights
from emerdiff_probe.models.locks import exclusively
from emerdiff_probe.models.modes import evaluating
from emerdiff_probe.models.refusals import check_folder, check_parts, say_unused
from emerdiff_probe.models.schedule import Schedule
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

_HUB_OPTIONS: Final = ("cache_dir", "force_download", "local_files_only", "revision", "token")
# diffusers calls it "dtype" in newer versions, which warn of the older name.
_DTYPE: Final = (
    "dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 40) else "torch_dtype"
)
_NO_CHECKER: Final = {"safety_checker": None, "requires_safety_checker": False}


class StableDiffusion:
    """A pipeline's UNet, autoencoder and text encoders, taken as they are.

    Args:
        pipeline: A ``StableDiffusionPipeline``, a ``StableDiffusionXLPipeline`` or one with the
            same parts, as those from picture to picture. Of one with a ControlNet or a T2I-Adapter
            the UNet alone is used, with a warning.
        name: How it was asked for; part of every dataset's provenance.

    Attributes:
        decoder: The autoencoder that decodes: the pipeline's own, unless another for the same
            latents is put in its place.

    Raises:
        ModelError: A part is missing, or is of a kind that is not known.
    """

    def __init__(self, pipeline: Any, name: str) -> None:
        check_parts(pipeline, name)
        self.name = name
        self.pipeline = pipeline
        self.unet = pipeline.unet
        self.vae = pipeline.vae
        self.decoder: Any = self.vae
        self.text = _text_encoding(pipeline)
        _ = self.schedule  # refused now, not at the first run
        config = self.unet.config
        self._factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        self._is_xl = isinstance(self.text, TwoEncoders)
        # The bundled model and those trained like it; how many levels there are tells nothing.
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
        # Where a UNet does not say its size, diffusers' pipelines take these.
        size = config.sample_size or (128 if self._is_xl else 64)
        self.image_size = (size if isinstance(size, int) else max(size)) * self._factor
        self.size_multiple = self._factor * 2 ** (len(config.block_out_channels) - 1)

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of the pipeline's scheduler, which may be set after loading."""
        return Schedule.from_scheduler(self.pipeline.scheduler)

    def decode_with(self, folder: str) -> None:
        """Lets a tiny autoencoder for the same latents decode from now on.

        Args:
            folder: A folder or hub id of diffusers' ``AutoencoderTiny``.

        Raises:
            ModelError: It is for other latents.
        """
        from diffusers import AutoencoderTiny

        tiny = AutoencoderTiny.from_pretrained(folder, torch_dtype=self.dtype).eval()
        channels, own = tiny.config.latent_channels, self.unet.config.in_channels
        factor = 2 ** (len(tiny.config.block_out_channels) - 1)
        if (channels, factor) != (own, self._factor):
            raise ModelError(
                f"the decoder {folder!r} is for latents of {channels} channels, {factor} times "
                f"smaller than pictures; the model's have {own}, {self._factor} times smaller"
            )
        self.decoder = tiny.to(self.device)

    @classmethod
    def from_folder(cls, folder: str, name: str, dtype: torch.dtype, **options: Any) -> Self:
        """Loads a pipeline saved by diffusers, from a folder or the hub.

        Args:
            folder: Path, or a hub id.
            name: How to call it.
            dtype: Of all its parts.
            **options: For the pipeline's ``from_pretrained``.
        """
        with _quiet_transformers():
            from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

        of_the_hub = {name: options[name] for name in _HUB_OPTIONS if name in options}
        index = StableDiffusionPipeline.load_config(folder, **of_the_hub)
        say_unused(name, [part for part, kind in index.items() if kind != [None, None]])
        check_folder(Path(folder), index, name)
        options = {_DTYPE: dtype, **newer_parts(folder), **options}
        if "text_encoder_2" in index:
            pipeline = StableDiffusionXLPipeline.from_pretrained(folder, **options)
        else:
            pipeline = StableDiffusionPipeline.from_pretrained(folder, **{**_NO_CHECKER, **options})
        pad_as_configured(pipeline.unet)
        return cls(_of_one_dtype(pipeline, dtype), name)

    @classmethod
    def from_file(cls, path: Path, name: str, dtype: torch.dtype, **options: Any) -> Self:
        """Loads a checkpoint in one file, with the names of the original code.

        Args:
            path: Of a ``.safetensors`` file.
            name: How to call it.
            dtype: Of all its parts.
            **options: For the pipeline's ``from_single_file``. The file holds weights alone; the
                rest is taken from ``config``, a folder or hub id of a pipeline of its kind, by
                default the one on the hub that diffusers takes it for.

        Raises:
            ModelError: It is not a whole model.
        """
        with _quiet_transformers():
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
        return cls(_of_one_dtype(pipeline, dtype), name)

    @property
    def device(self) -> torch.device:
        """Where the UNet runs; that where it waits may be another, if it is offloaded."""
        return torch.device(self.pipeline._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        """What the UNet computes in, which may be another dtype than its weights are kept in."""
        unet: Any = unwrapped(self.unet)
        dtype: torch.dtype = unet.dtype
        return dtype

    @property
    def weights(self) -> str:
        """A hash of the UNet's weights as they are now, the same for equal values of equal dtype.

        Weights of adapters are left out; `emerdiff_probe.models.identity.identity` has them too.
        """
        return unet_weights(self.unet)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """All networks that decide what it answers, by name."""
        own = {"unet": self.unet, **self.text.parts, "vae": self.vae}
        return own if self.decoder is self.vae else {**own, "decoder": self.decoder}

    @torch.no_grad()
    def condition(self, prompt: str | Prompt = "", guidance: float = 1.0) -> Condition:
        """Encodes a prompt, as the pipeline does.

        Args:
            prompt: Text, or a prompt with more than a text. What is beyond the model's length is
                cut, with a warning that says what.
            guidance: Scale of classifier-free guidance; 1 means none.

        Raises:
            InputError: The guidance is below 1, or there is a negative prompt for which it is none;
                or the prompt does not fit the model.
        """
        prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        if not guidance >= 1:
            raise InputError(f"guidance is {guidance}; choose 1 (none) or larger, 7.5 is usual")
        halves = guidance > 1 and not self._reads_guidance
        if prompt.negative_prompt and not halves:
            raise InputError(
                f"negative_prompt is {prompt.negative_prompt!r}, and nothing leads away from it: "
                + (
                    "this model reads guidance as a number and sees one text"
                    if self._reads_guidance
                    else f"guidance is {guidance}; choose a larger one, 7.5 is usual"
                )
            )
        with evaluating(*self.text.parts.values()):
            text, tokens = self._encoded(prompt)
            condition = Condition(
                prompt.text,
                text.embeddings,
                guidance=guidance,
                tokens=tokens,
                pooled=text.pooled,
                described=prompt.described,
            )
            if not halves:
                return condition
            empty, tokens = self._unconditional(prompt.negative_prompt)
        return replace(
            condition,
            unconditional=empty.embeddings,
            unconditional_tokens=tokens,
            unconditional_pooled=empty.pooled,
        )

    @property
    def _reads_guidance(self) -> bool:
        """Whether the scale of guidance is an input, as of latent consistency models."""
        return self.unet.config.time_cond_proj_dim is not None

    def _encoded(self, prompt: Prompt) -> tuple[Encoded, tuple[str, ...]]:
        """A prompt as the UNet reads it, and the texts of its tokens."""
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
        """A text as the tokenizers take it, and the texts of its tokens."""
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

    def drawn_size(self, prompt: Prompt) -> tuple[int, int]:
        """Return height and width in pixels of the picture of a prompt.

        Raises:
            InputError: One is no multiple of `size_multiple`; says the nearest that are.
        """
        size = []
        for name in ("height", "width"):
            side = getattr(prompt, name) or self.image_size
            below, rest = divmod(side, self.size_multiple)
            if rest:
                near = [each * self.size_multiple for each in (below, below + 1) if each]
                raise InputError(
                    f"{name} is {side}; choose a multiple of {self.size_multiple}, as "
                    f"{' or '.join(map(str, near))}"
                )
            size.append(int(side))
        return size[0], size[1]

    def _in_dtype(self, text: Encoded) -> Encoded:
        pooled = None if text.pooled is None else text.pooled.to(self.dtype)
        return Encoded(text.embeddings.to(self.dtype), pooled)

    def predict(self, latents: Tensor, timestep: int, condition: Condition) -> Tensor:
        """The predicted noise; with gradients where the latents ask for them.

        Waits while another thread records or intervenes.

        Args:
            latents: x_t, float32, shape (sample, channel, y, x).
            timestep: t.
            condition: Encoded text. With guidance the UNet sees twice the samples, the
                unconditional ones first.

        Returns:
            float32, of the latents' shape.
        """
        with (
            exclusively(self.unet),
            evaluating(self.unet),
            torch.set_grad_enabled(latents.requires_grad),
        ):
            return self._predict(latents, timestep, condition)

    def _predict(self, latents: Tensor, timestep: int, condition: Condition) -> Tensor:
        rows = torch.cat([latents] * condition.halves).to(self.dtype)
        text = _rows(len(latents), condition.unconditional, condition.embeddings)
        added = None
        if condition.pooled is not None:
            added = {
                "text_embeds": _rows(
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
        eps = self.schedule.to_noise(output, torch.cat([latents] * condition.halves), timestep)
        if condition.halves == 1:
            return eps
        without, with_text = eps.chunk(2)
        return without + condition.guidance * (with_text - without)

    def _guidance_embedding(self, rows: Tensor, guidance: float) -> Tensor | None:
        """The scale of guidance as latent consistency models read it (Luo et al. 2023)."""
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
        """What XL reads of a picture: its size, no crop, and the size again, in pixels."""
        size = [side * self._factor for side in latents.shape[-2:]]
        return torch.tensor([[*size, 0, 0, *size]], device=latents.device, dtype=self.dtype)

    @contextmanager
    def _precise(self, autoencoder: Any) -> Iterator[torch.dtype]:
        """An autoencoder as it works: in evaluation, and XL's own beyond the range of float16."""
        dtype = next(autoencoder.parameters()).dtype
        widen = self._is_xl and dtype == torch.float16 and autoencoder.config.force_upcast
        if widen:
            autoencoder.float()
        try:
            with evaluating(autoencoder):
                yield torch.float32 if widen else dtype
        finally:
            if widen:
                autoencoder.to(dtype)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures, shape (sample, 3, y, x) in [0, 1], to latents: the posterior's mean, scaled."""
        with self._precise(self.vae) as dtype:
            encoded = self.vae.encode((pictures * 2 - 1).to(self.device, dtype))
        # A tiny autoencoder gives no distribution.
        tiny = hasattr(encoded, "latents")
        mean = (encoded.latents if tiny else encoded.latent_dist.mode()).float()
        centre, scale = _centre_and_scale(self.vae, mean)
        return (mean - centre) * scale

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures, shape (sample, 3, y, x); with gradients where they ask for them.

        They are not clamped: a response is a difference of two of them, and clamping would hide
        it wherever a picture is white or black.
        """
        centre, scale = _centre_and_scale(self.decoder, latents)
        latents = latents / scale + centre
        with self._precise(self.decoder) as dtype, torch.set_grad_enabled(latents.requires_grad):
            decoded = self.decoder.decode(latents.to(dtype), return_dict=False)[0]
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
        table = catalogue(self.unet, latents, self.text.tokenizer.model_max_length)
        return chosen(table, pattern, kind=kind, level=level)

    def __repr__(self) -> str:
        return f"StableDiffusion({self.name!r}, {self.image_size} px, {self.dtype}, {self.device})"


def _centre_and_scale(autoencoder: Any, latents: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """What is taken from an autoencoder's latents, and what they are then multiplied by."""
    config = autoencoder.config
    mean, deviation = (getattr(config, f"latents_{each}", None) for each in ("mean", "std"))
    if mean is None or deviation is None:
        return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor
    centre, widths = latents.new_tensor([mean, deviation])[..., None, None]
    return centre, config.scaling_factor / widths


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


def _rows(count: int, unconditional: Tensor | None, conditional: Tensor) -> Tensor:
    """Rows of a UNet call for so many samples, those without the prompt first."""
    parts = [conditional] if unconditional is None else [unconditional, conditional]
    return torch.cat([part.expand(count, *part.shape[1:]) for part in parts])


def _of_one_dtype(pipeline: Any, dtype: torch.dtype) -> Any:
    # transformers has versions that leave a text encoder in the dtype it is stored in.
    for name in ("text_encoder", "text_encoder_2"):
        if (encoder := getattr(pipeline, name, None)) is not None:
            encoder.to(dtype)
    return pipeline


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
