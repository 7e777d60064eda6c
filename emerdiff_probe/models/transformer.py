"""Use diffusion transformers of diffusers as a `Denoiser`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from emerdiff_probe.errors import InputError, ModelError
from emerdiff_probe.inputs import Prompt
from emerdiff_probe.models.arguments import Reading, network_arguments, network_output
from emerdiff_probe.models.beside import reading
from emerdiff_probe.models.denoiser import Condition, Family
from emerdiff_probe.models.folders import DTYPE, of_one_dtype, quiet_transformers
from emerdiff_probe.models.layouts import layout_of, unwrapped
from emerdiff_probe.models.modes import evaluating
from emerdiff_probe.models.pipeline_model import PipelineModel, rows_of
from emerdiff_probe.models.schedule import flow_timesteps

__all__ = ["Transformer"]


@dataclass(frozen=True, eq=False)
class _Encoded:
    """A prompt as a network reads it: the texts of its tokens, and tensors of one row."""

    tokens: tuple[str, ...]
    text: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None


class Transformer(PipelineModel):
    """A pipeline's transformer, autoencoder and text encoders, used as they are.

    Its latents are those of a variance-preserving diffusion and are not packed, whatever the
    network reads; see `emerdiff_probe.models.schedule.Schedule`.

    Args:
        pipeline: A diffusers pipeline whose transformer has a layout.
        name: The name it was loaded by, part of every dataset's provenance.

    Raises:
        ModelError: The transformer's class is not supported, or a part is missing.
    """

    def __init__(self, pipeline: Any, name: str) -> None:
        self.layout = layout_of(pipeline.transformer)
        self.family = cast("Family", self.layout.name)
        _check_parts(pipeline, name)
        super().__init__(pipeline, pipeline.transformer, name)
        _ = self.schedule  # refused now, not at the first run
        config: Any = unwrapped(self.unet).config
        self._reads_guidance = bool(config.get("guidance_embeds"))
        cells = self.layout.cells(config)
        side = config.get("sample_size") or getattr(pipeline, "default_sample_size", 128)
        self.image_size = side * self._factor
        self.size_multiple = self._factor * cells
        self._cells = cells
        self._length: int | None = None

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
            from diffusers import DiffusionPipeline

            pipeline = DiffusionPipeline.from_pretrained(folder, **{DTYPE: dtype, **options})
        return cls(of_one_dtype(pipeline, dtype), name)

    def timesteps(self, steps: int, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the sampling grid, from the most noise to the least.

        The grid of a flow follows the pipeline's scheduler, which may shift it with the size.

        Args:
            steps: The number of steps.
            size: The height and width of the image in pixels.

        Raises:
            ConfigError: The schedule has fewer timesteps.
        """
        if self.schedule.prediction != "flow":
            return super().timesteps(steps, size)
        height, width = (side // self.size_multiple for side in size)
        even = self.layout.even
        return flow_timesteps(self.pipeline.scheduler, steps, height * width, even=even)

    @property
    def text_parts(self) -> dict[str, nn.Module]:
        """Return the text encoders by name."""
        return {
            name: part
            for name, part in self.pipeline.components.items()
            if name.startswith("text_encoder") and isinstance(part, nn.Module)
        }

    @property
    def text_length(self) -> int:
        """Return the number of tokens of a text."""
        if self._length is None:
            self._length = self.condition("").embeddings.shape[1] + self.layout.registers
        return self._length

    @torch.no_grad()
    def condition(self, prompt: str | Prompt = "", guidance: float = 1.0) -> Condition:
        """Encode a prompt as the pipeline does.

        Args:
            prompt: A text, or a prompt with further settings. Text beyond the model's length is
                cut, which diffusers logs.
            guidance: The guidance scale; 1 means none. Models that read it as an input, such as
                Flux.1-dev, see one text.

        Raises:
            InputError: The guidance is below 1, or has no effect for a negative prompt; or the
                prompt does not fit the model.
        """
        prompt = prompt if isinstance(prompt, Prompt) else Prompt(prompt)
        guided = self._is_guided(prompt, guidance)
        with evaluating(*self.text_parts.values()):
            with reading("cond"):
                own = self._given(prompt) or self._encoded(prompt.text, prompt.clip_skip)
            condition = Condition(
                prompt.text,
                own.text,
                guidance=guidance,
                tokens=own.tokens,
                pooled=own.pooled,
                described=prompt.described,
                mask=own.mask,
            )
            if not guided:
                return condition
            with reading("uncond"):
                empty = self._encoded(prompt.negative_prompt)
        if empty.text.shape != own.text.shape:
            raise InputError(
                f"prompt_embeds have {own.text.shape[1]} tokens, and the unconditional text has "
                f"{empty.text.shape[1]}; give as many, or guidance=1"
            )
        return replace(
            condition,
            unconditional=empty.text,
            unconditional_tokens=empty.tokens,
            unconditional_pooled=empty.pooled,
            unconditional_mask=empty.mask,
        )

    def _encoded(self, text: str, clip_skip: int | None = None) -> _Encoded:
        encode = self.pipeline.encode_prompt
        asked = {
            # Some pipelines put instructions before a prompt.
            **_defaults(type(self.pipeline).__call__),
            "prompt": [text],
            "device": self.device,
            "num_images_per_prompt": 1,
            "do_classifier_free_guidance": False,
            "clip_skip": clip_skip,
            # The other encoders read the same text.
            "prompt_2": None,
            "prompt_3": None,
        }
        known = inspect.signature(encode).parameters
        if clip_skip is not None and "clip_skip" not in known:
            raise InputError(
                f"clip_skip is {clip_skip}, which {self.name} does not support; omit it"
            )
        with _read_by(self.text_parts) as read:
            found = encode(**{name: each for name, each in asked.items() if name in known})
        named = dict(zip(self.layout.encoded, found, strict=False))
        pooled = named.get("pooled")
        own = ("[register]",) * self.layout.registers
        return _Encoded(
            (*own, *self._token_texts(read, named["text"].shape[1])),
            named["text"].to(self.dtype),
            None if pooled is None else pooled.to(self.dtype),
            named.get("mask"),
        )

    def _token_texts(self, read: Mapping[str, Tensor], length: int) -> Iterator[str]:
        """Yield the texts of all tokens; with several encoders, each with its tokenizer's name."""
        names = self.layout.tokenizers
        for name in names:
            tokenizer = getattr(self.pipeline, name, None)
            ids = read.get(name.replace("tokenizer", "text_encoder"))
            if tokenizer is None or ids is None:
                # All but the last have the length that they were made for.
                own = length if name == names[-1] else self.pipeline.tokenizer_max_length
                length -= own
                yield from ("",) * own
                continue
            if self.layout.kept == "first and last":
                ids = torch.cat([ids[:1], ids[len(ids) - length + 1 :]])
            elif self.layout.kept == "last":
                ids = ids[len(ids) - length :]
            length -= len(ids)
            prefix = f"{name}:" if len(names) > 1 else ""
            for token in tokenizer.convert_ids_to_tokens(ids.tolist()):
                yield prefix + token.removesuffix("</w>")

    def _given(self, prompt: Prompt) -> _Encoded | None:
        """Return a prompt that was passed encoded; None for others.

        Raises:
            InputError: The given embeddings do not fit the model.
        """
        if prompt.prompt_embeds is None:
            return None
        config: Any = unwrapped(self.unet).config
        width, wants_pooled = config[self.layout.text_width], bool(self.layout.pooled_width)
        shape = prompt.prompt_embeds.shape
        if shape[-1] != width or wants_pooled != (prompt.pooled_prompt_embeds is not None):
            raise InputError(
                f"prompt_embeds have shape {shape}; those of this model have (token, {width}), and "
                f"come {'with' if wants_pooled else 'without'} pooled_prompt_embeds"
            )
        text = torch.from_numpy(prompt.prompt_embeds)[None].to(self.device, self.dtype)
        pooled = None
        if prompt.pooled_prompt_embeds is not None:
            one = torch.from_numpy(prompt.pooled_prompt_embeds)[None]
            pooled = one.to(self.device, self.dtype)
        mask = None
        if "mask" in self.layout.encoded:
            mask = torch.ones(text.shape[:2], dtype=torch.long, device=self.device)
        tokens = ("",) * (text.shape[1] + self.layout.registers)
        return _Encoded(tokens, text, pooled, mask)

    def _noise(self, latents: Tensor, timestep: int, condition: Condition) -> Tensor:
        schedule, count = self.schedule, len(latents)
        rows = torch.cat([latents] * condition.halves)
        reading = Reading(
            rows_of(count, condition.unconditional, condition.embeddings),
            _rows_if(count, condition.unconditional_pooled, condition.pooled),
            _rows_if(count, condition.unconditional_mask, condition.mask),
            condition.guidance,
        )
        read = schedule.as_read(rows, timestep).to(self.dtype)
        output = self.unet(**network_arguments(self.unet, read, timestep, reading))[0]
        output = network_output(self.unet, output, read).float()
        return schedule.to_noise(output, rows, timestep)


@contextmanager
def _read_by(encoders: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Note the numbers of the tokens that text encoders read within the block, by their name."""
    read: dict[str, Tensor] = {}

    def note(name: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        ids = inputs[0] if inputs else named["input_ids"]
        read[name] = ids[0].detach().cpu()

    with ExitStack() as stack:
        for name, encoder in encoders.items():
            handle = encoder.register_forward_pre_hook(
                lambda _, inputs, named, name=name: note(name, inputs, named), with_kwargs=True
            )
            stack.callback(handle.remove)
        yield read


def _defaults(call: Callable[..., Any]) -> dict[str, Any]:
    known = inspect.signature(call).parameters.values()
    return {each.name: each.default for each in known if each.default is not each.empty}


def _rows_if(count: int, unconditional: Tensor | None, conditional: Tensor | None) -> Tensor | None:
    return None if conditional is None else rows_of(count, unconditional, conditional)


def _check_parts(pipeline: Any, name: str) -> None:
    """Refuse a pipeline that lacks what a run needs.

    Raises:
        ModelError: A part is missing, or its parts do not fit each other.
    """
    kind = type(pipeline).__name__
    missing = [part for part in ("vae", "scheduler") if getattr(pipeline, part, None) is None]
    if missing or not hasattr(pipeline, "encode_prompt"):
        raise ModelError(
            f"{name}: a {kind} has no {', '.join(missing) or 'encode_prompt'}, which runs need; "
            "record your own call of it with ep.probe(pipe)"
        )
    own: Any = unwrapped(pipeline.transformer)
    layout = layout_of(own)
    channels = layout.latent_channels(own.config)
    if channels != pipeline.vae.config.latent_channels:
        raise ModelError(
            f"{name}: the transformer takes {channels} channels, and the autoencoder makes "
            f"{pipeline.vae.config.latent_channels} (an inpainting or control model?); choose a "
            "text-to-image checkpoint, or record your own call of it with ep.probe(pipe)"
        )
