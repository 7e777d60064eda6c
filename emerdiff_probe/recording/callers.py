"""Describe the callers of a network, and what they report about the rows of a call.

A network call is a batch of rows. It does not say which rows are samples and which are the halves
of classifier-free guidance: only the caller knows.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emerdiff_probe.errors import ModelError
from emerdiff_probe.models import Condition, Denoiser
from emerdiff_probe.models.identity import identity, parts_identity
from emerdiff_probe.models.layouts import layout_of, network_of
from emerdiff_probe.models.pipeline_model import pixels_of_a_cell
from emerdiff_probe.models.text import as_read, token_texts

__all__ = ["HALVES", "Caller", "OwnLoop", "PipelineCall", "Prediction", "Target"]

HALVES: Final = ("uncond", "cond")
"""The labels of the halves of a guided call, in their order."""


@dataclass(frozen=True, eq=False)
class Target:
    """The model that is probed.

    Attributes:
        unet: The UNet or transformer as it is called, possibly compiled.
        pipeline: The pipeline that calls it, if any.
        denoiser: The model of `emerdiff_probe.load` that calls it, if any.
        factor: The pixels of an image along a side of one latent; 1 if unknown.
        about: The provenance, fit for JSON.
    """

    unet: nn.Module
    pipeline: Any
    denoiser: Denoiser | None
    factor: int
    about: dict[str, Any]

    @classmethod
    def of(cls, model: Any) -> Target:
        """Find the network of a pipeline or a model, or take a network itself.

        Raises:
            ModelError: There is none, or its class is not supported.
        """
        unet = network_of(model)
        layout_of(unet)
        if hasattr(model, "predict"):
            side = model.image_size
            factor = side // model.latent_shape(side, side)[-1]
            pipeline = getattr(model, "pipeline", None)
            return cls(unet, pipeline, model, factor, identity(model))
        parameter = next(unet.parameters())
        about = {
            "name": getattr(model, "name_or_path", None) or "",
            "dtype": str(parameter.dtype).removeprefix("torch."),
            "device": str(parameter.device),
            **_identity_of_parts(model, unet),
        }
        if model is unet:
            return cls(unet, None, None, 1, about)
        scheduler = model.scheduler
        about |= {
            "pipeline": type(model).__name__,
            "scheduler": {"class": type(scheduler).__name__, **scheduler.config},
        }
        factor = pixels_of_a_cell(model)
        return cls(unet, model, None, factor, json.loads(json.dumps(about, default=str)))


def _identity_of_parts(model: Any, unet: nn.Module) -> dict[str, Any]:
    """Return what can be read from the networks of a pipeline that determine its images."""
    parts = {
        name: part
        for name, part in getattr(model, "components", {}).items()
        if isinstance(part, nn.Module) and name != "safety_checker"
    }
    try:
        return parts_identity(parts | {layout_of(unet).attribute: unet})
    except ModelError:  # offloaded layer by layer, which can be recorded all the same
        return {}


class Caller(Protocol):
    """The caller of a network."""

    @property
    def source(self) -> str:
        """Return a name for it, for provenance."""

    @property
    def key(self) -> object:
        """Return a key that is equal for calls that belong together."""

    def guidance(self, latents: Tensor) -> tuple[str, ...] | None:
        """Return the labels of the parts of a call's rows; empty for samples, None if unknown."""

    def alternates_with(self, other: Caller) -> bool:
        """Return whether a call of the other can be a further part of the same step."""

    def unconditional(self, samples: int) -> Tensor | None:
        """Return the encoding of no prompt, (1 or sample, token, channel); None if unknown."""

    def prompts(self, samples: int) -> tuple[str, ...]:
        """Return the prompt of each sample, empty if unknown."""

    def tokens(self, samples: int, length: int, guided: bool) -> NDArray[np.str_] | None:
        """Return the texts of the tokens, (sample[, guidance], token), or None if unknown."""


@dataclass(frozen=True, eq=False)
class OwnLoop:
    """A loop of the user's own, which reports nothing.

    Attributes:
        target: The model whose network it calls.
    """

    target: Target

    @property
    def source(self) -> str:
        """Return a name for such a loop."""
        return "own loop"

    @property
    def key(self) -> None:
        """Return None: all calls belong together."""

    def guidance(self, latents: Tensor) -> None:
        """Return None: the parts are unknown."""

    def alternates_with(self, other: Caller) -> bool:
        """Return whether the other is such a loop, too."""
        return isinstance(other, OwnLoop)

    def unconditional(self, samples: int) -> Tensor | None:
        """Return the encoded empty prompt, if there is a text encoder."""
        if self.target.denoiser is not None:
            return self.target.denoiser.condition("").embeddings
        return _encoded(self.target.pipeline, [""])

    def prompts(self, samples: int) -> tuple[str, ...]:
        """Return empty prompts: they are unknown."""
        return ("",) * samples

    def tokens(self, samples: int, length: int, guided: bool) -> None:
        """Return None: the tokens are unknown."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A call of `Denoiser.predict`."""

    model: Denoiser
    condition: Condition

    @property
    def source(self) -> str:
        """Return the model's name."""
        return self.model.name

    @property
    def key(self) -> object:
        """Return the condition of the predictions."""
        condition = self.condition
        texts = condition.prompt, condition.described
        return texts, condition.guidance, len(condition.embeddings)

    def guidance(self, latents: Tensor) -> tuple[str, ...]:
        """Return both halves if the condition has them."""
        return HALVES if self.condition.halves == 2 else ()

    def alternates_with(self, other: Caller) -> bool:
        """Return whether exactly one of the two is a prediction without a prompt."""
        if not isinstance(other, Prediction):
            return False
        return bool(self.condition.prompt) != bool(other.condition.prompt)

    def unconditional(self, samples: int) -> Tensor:
        """Return the encoded empty prompt."""
        return self.model.condition("").embeddings

    def prompts(self, samples: int) -> tuple[str, ...]:
        """Return the condition's prompt; empty if it joins those of several samples."""
        return (self.condition.prompt if self._is_one else "",) * samples

    def tokens(self, samples: int, length: int, guided: bool) -> NDArray[np.str_] | None:
        """Return the condition's tokens, with those of the negative prompt if there is guidance."""
        texts = self.condition.tokens
        if not self._is_one or len(texts) != length:
            return None
        if not guided:
            return np.array([texts] * samples)
        empty = self.condition.unconditional_tokens or self.model.condition("").tokens
        return np.array([[empty, texts]] * samples)

    @property
    def _is_one(self) -> bool:
        return len(self.condition.embeddings) == 1


@dataclass(frozen=True, eq=False)
class PipelineCall:
    """A call of a diffusers pipeline.

    Attributes:
        pipeline: The pipeline.
        prompt: The prompt argument.
        negative_prompt: The negative prompt argument.
        embedded: Whether the texts were passed encoded.
        guidance_scale: The guidance scale argument; None if the pipeline has none.
        length: The largest number of tokens of a prompt, if it was passed.
    """

    pipeline: Any
    prompt: Any
    negative_prompt: Any
    embedded: bool
    guidance_scale: float | None = None
    length: int | None = None

    @classmethod
    def of(cls, pipeline: Any, arguments: Mapping[str, Any]) -> PipelineCall:
        """Read a call by the names of its arguments."""
        known = inspect.signature(type(pipeline).__call__).parameters.get("guidance_scale")
        scale = arguments.get("guidance_scale", None if known is None else known.default)
        embedded = any(
            arguments.get(name) is not None for name in ("prompt_embeds", "negative_prompt_embeds")
        )
        return cls(
            pipeline,
            arguments.get("prompt"),
            arguments.get("negative_prompt"),
            embedded,
            scale if isinstance(scale, int | float) else None,
            arguments.get("max_sequence_length"),
        )

    @property
    def source(self) -> str:
        """Return the pipeline's class name."""
        return type(self.pipeline).__name__

    @property
    def key(self) -> object:
        """Return this call."""
        return id(self)

    def guidance(self, latents: Tensor) -> tuple[str, ...] | None:
        """Return the parts that the pipeline reports while it runs.

        The report is trusted if the pipeline gives both halves, and no other rows, the same
        latents. Pipelines with more than two parts (perturbed attention, guidance by an image) do
        not report what they are. Pipelines that call once for each text, or have no guidance, have
        only samples in a call.
        """
        way = layout_of(network_of(self.pipeline)).guidance
        if "halves" not in way:
            return ()
        guided = getattr(self.pipeline, "do_classifier_free_guidance", None)
        if guided is None and self.guidance_scale is not None:
            guided = self.guidance_scale > 1
        if guided is None or self._has_other_parts():
            return None
        if not guided:
            return None if self._contradicts(latents) else ()
        halves = latents.chunk(2)
        same = len(latents) % 2 == 0 and bool((halves[0] == halves[1]).all())
        return (HALVES if way == "halves" else HALVES[::-1]) if same else None

    def alternates_with(self, other: Caller) -> bool:
        """Return whether it is the same call of the pipeline."""
        return other is self

    def unconditional(self, samples: int) -> Tensor | None:
        """Return the encoded negative prompts."""
        if self.embedded:
            return None
        negative = _spread(self.negative_prompt or "", samples)
        if negative is None:
            return None
        return _encoded(self.pipeline, list(negative), self.length)

    def _contradicts(self, latents: Tensor) -> bool:
        """Return whether a pipeline reports no guidance but passes every latent twice.

        Pipelines for panoramas do so, with each view next to itself. Those of latent consistency
        models report no guidance and really use none.
        """
        scale = getattr(self.pipeline, "guidance_scale", 1)
        if len(latents) % 2 or not scale > 1:
            return False
        return bool((latents[0::2] == latents[1::2]).all())

    def _has_other_parts(self) -> bool:
        return bool(getattr(self.pipeline, "do_perturbed_attention_guidance", False)) or hasattr(
            self.pipeline, "image_guidance_scale"
        )

    def prompts(self, samples: int) -> tuple[str, ...]:
        """Return the texts that it was called with, each as often as there are images of it."""
        return _spread(self.prompt, samples) or ("",) * samples

    def tokens(self, samples: int, length: int, guided: bool) -> NDArray[np.str_] | None:
        """Return the prompts' tokens, with those of the negative prompts if there is guidance."""
        tokenizer = getattr(self.pipeline, "tokenizer", None)
        prompts = _spread(self.prompt, samples)
        if tokenizer is None or prompts is None or self.embedded:
            return None
        parts = [prompts]
        if guided:
            parts = [_spread(self.negative_prompt, samples) or ("",) * samples, prompts]
        texts = np.array([[self._read(tokenizer, text) for text in part] for part in parts])
        if texts.shape[-1] != length:
            return None
        return texts.swapaxes(0, 1) if guided else texts[0]

    def _read(self, tokenizer: Any, text: str) -> tuple[str, ...]:
        return token_texts(tokenizer, as_read(self.pipeline, tokenizer, text))[0]


def _encoded(pipeline: Any, texts: list[str], length: int | None = None) -> Tensor | None:
    """Return texts as a pipeline's network reads them, or None if it cannot encode them."""
    if getattr(pipeline, "text_encoder", None) is None:
        return None
    try:
        with torch.no_grad():
            known = inspect.signature(pipeline.encode_prompt).parameters
            asked = {
                "device": pipeline._execution_device,
                "num_images_per_prompt": 1,
                "do_classifier_free_guidance": False,
                # The other encoders read the same text.
                "prompt_2": None,
                "prompt_3": None,
                **({} if length is None else {"max_sequence_length": length}),
            }
            asked = {name: value for name, value in asked.items() if name in known}
            return pipeline.encode_prompt(prompt=texts, **asked)[0]
    except Exception:  # Each pipeline has arguments and errors of its own.
        return None


def _spread(given: Any, samples: int) -> tuple[str, ...] | None:
    """Return one text or several, each repeated for its share of the samples."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or samples % len(texts):
        return None
    return tuple(text for text in texts for _ in range(samples // len(texts)))
