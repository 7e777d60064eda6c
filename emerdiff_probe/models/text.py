"""Encode text: from a prompt to what a UNet reads of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from emerdiff_probe.errors import InputError

__all__ = ["Encoded", "OneEncoder", "TextEncoding", "TwoEncoders", "as_read", "token_texts"]


@dataclass(frozen=True, eq=False)
class Encoded:
    """A prompt as a UNet reads it.

    Attributes:
        embeddings: The encoded text, shape (1, token, channel).
        pooled: The whole prompt as one vector, shape (1, channel), if the UNet reads that too.
    """

    embeddings: Tensor
    pooled: Tensor | None = None


class TextEncoding(Protocol):
    """The way in which a family of models encodes text."""

    @property
    def tokenizer(self) -> Any:
        """Return the tokenizer that limits the length of a prompt and names its tokens."""

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Return its networks by name, as pipelines call them."""

    def encode(self, prompt: str, device: torch.device, clip_skip: int | None = None) -> Encoded:
        """Encode a prompt; text beyond the tokenizer's length is cut.

        Args:
            prompt: The text as the tokenizers take it; see `as_read`.
            device: The device of the result.
            clip_skip: The number of last layers to skip; None reads the layer that the UNet was
                trained on.
        """

    def unconditional(self, device: torch.device) -> Encoded:
        """Return the encoding that stands for no prompt in classifier-free guidance."""


@dataclass(frozen=True, eq=False)
class OneEncoder:
    """Stable Diffusion v1 and v2: the last layer of one CLIP text encoder."""

    tokenizer: Any
    encoder: Any

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Return its network by name."""
        return {"text_encoder": self.encoder}

    def encode(self, prompt: str, device: torch.device, clip_skip: int | None = None) -> Encoded:
        """Encode a prompt as ``StableDiffusionPipeline`` does."""
        tokens = _tokens(self.tokenizer, prompt)
        wants_mask = getattr(self.encoder.config, "use_attention_mask", False)
        mask = tokens.attention_mask.to(device) if wants_mask else None
        ids = tokens.input_ids.to(device)
        if clip_skip is None:
            return Encoded(self.encoder(ids, attention_mask=mask)[0])
        layers = self.encoder(ids, attention_mask=mask, output_hidden_states=True).hidden_states
        # In some versions of transformers the last norm is inside a text_model, in others beside
        # its parts.
        last = getattr(self.encoder, "text_model", self.encoder).final_layer_norm
        return Encoded(last(_left_out(layers, clip_skip, 1)))

    def unconditional(self, device: torch.device) -> Encoded:
        """Return the encoded empty prompt."""
        return self.encode("", device)


@dataclass(frozen=True, eq=False)
class TwoEncoders:
    """Stable Diffusion XL: the second-to-last layers of two text encoders, side by side.

    The pooled text is the second encoder's projection (Podell et al. 2023, arXiv 2307.01952,
    section 2.1).

    Attributes:
        tokenizer: The tokenizer of the first encoder.
        tokenizer_2: The tokenizer of the second encoder.
        encoder: A ``CLIPTextModel``.
        encoder_2: A ``CLIPTextModelWithProjection``.
        empty_is_zero: Whether the model was trained with zeros for no prompt.
    """

    tokenizer: Any
    tokenizer_2: Any
    encoder: Any
    encoder_2: Any
    empty_is_zero: bool

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Return its networks by name."""
        return {"text_encoder": self.encoder, "text_encoder_2": self.encoder_2}

    def encode(self, prompt: str, device: torch.device, clip_skip: int | None = None) -> Encoded:
        """Encode a prompt as ``StableDiffusionXLPipeline`` does.

        The empty prompt gets the encoding that stands for no prompt, so that it conditions on
        nothing; the pipeline would encode its end marks.
        """
        if self.empty_is_zero and not prompt:
            return self.unconditional(device)
        return self._encode(prompt, device, clip_skip)

    def unconditional(self, device: torch.device) -> Encoded:
        """Return zeros, or the encoded empty prompt."""
        empty = self._encode("", device)
        if not self.empty_is_zero or empty.pooled is None:
            return empty
        return Encoded(torch.zeros_like(empty.embeddings), torch.zeros_like(empty.pooled))

    def _encode(self, prompt: str, device: torch.device, clip_skip: int | None = None) -> Encoded:
        first, second = (
            encoder(_tokens(tokenizer, prompt).input_ids.to(device), output_hidden_states=True)
            for tokenizer, encoder in (
                (self.tokenizer, self.encoder),
                (self.tokenizer_2, self.encoder_2),
            )
        )
        layers = [_left_out(each.hidden_states, clip_skip or 0, 2) for each in (first, second)]
        return Encoded(torch.cat(layers, dim=-1), second[0])


def _left_out(layers: tuple[Tensor, ...], clip_skip: int, last: int) -> Tensor:
    """Return the layer to read if the last `clip_skip` are skipped; `last` counts the usual one.

    Raises:
        InputError: The encoder has fewer layers.
    """
    if not 0 <= clip_skip <= len(layers) - last:
        raise InputError(f"clip_skip is {clip_skip}; choose 0 to {len(layers) - last}")
    return layers[-last - clip_skip]


def as_read(pipeline: Any, tokenizer: Any, prompt: str) -> str:
    """Return a prompt as a pipeline passes it to a tokenizer.

    A textual inversion of several vectors is one word to the user and several tokens to the model.
    """
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    read: str = convert(prompt, tokenizer) if convert else prompt
    return read


def _tokens(tokenizer: Any, prompt: str) -> Any:
    length = tokenizer.model_max_length
    return tokenizer(
        prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )


def token_texts(tokenizer: Any, prompt: str) -> tuple[tuple[str, ...], str]:
    """Return the texts of a prompt's tokens, padded to the tokenizer's length, and the cut text."""
    length = tokenizer.model_max_length
    whole = tokenizer(prompt).input_ids
    cut = tokenizer.decode(whole[length - 1 : -1]) if len(whole) > length else ""
    texts = tokenizer.convert_ids_to_tokens(_tokens(tokenizer, prompt).input_ids[0].tolist())
    # CLIP marks the last piece of a word.
    return tuple(text.removesuffix("</w>") for text in texts), cut
