"""Who calls a UNet, and what they tell of the rows of the call.

A UNet call is a batch of rows. It does not say which are samples and which are the halves of
classifier-free guidance: only who made the call knows.
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
from emerdiff_probe.models.text import as_read, token_texts

__all__ = ["HALVES", "Caller", "OwnLoop", "PipelineCall", "Prediction", "Target"]

HALVES: Final = ("uncond", "cond")
"""Labels of the halves of a guided call, in their order."""


@dataclass(frozen=True, eq=False)
class Target:
    """What is probed.

    Attributes:
        unet: The UNet or transformer, as it is called, which may be compiled.
        pipeline: That which calls it, if any.
        denoiser: The same.
        factor: Pixels of a picture to a side of one latent; 1 where nobody knows.
        about: Provenance, fit for JSON.
    """

    unet: nn.Module
    pipeline: Any
    denoiser: Denoiser | None
    factor: int
    about: dict[str, Any]

    @classmethod
    def of(cls, model: Any) -> Target:
        """Finds the network of a pipeline, a model or of itself.

        Raises:
            ModelError: There is none, or nothing is known of its class.
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
        factor = getattr(model, "vae_scale_factor", 1)
        return cls(unet, model, None, factor, json.loads(json.dumps(about, default=str)))


def _identity_of_parts(model: Any, unet: nn.Module) -> dict[str, Any]:
    """What can be read from the networks of a pipeline that decide its pictures."""
    parts = {
        name: part
        for name, part in getattr(model, "components", {}).items()
        if isinstance(part, nn.Module) and name != "safety_checker"
    }
    try:
        return parts_identity(parts | {layout_of(unet).attribute: unet})
    except ModelError:  # offloaded layer by layer, which is recorded all the same
        return {}


class Caller(Protocol):
    """Who calls a UNet."""

    @property
    def source(self) -> str:
        """What it is, for provenance."""

    @property
    def key(self) -> object:
        """Equal for calls that belong together."""

    def guidance(self, latents: Tensor) -> tuple[str, ...] | None:
        """Labels of the parts of a call's rows; none where all are samples; None: not known."""

    def alternates_with(self, other: Caller) -> bool:
        """Whether a call of the other can be a further part of the same step."""

    def unconditional(self, samples: int) -> Tensor | None:
        """What stands for no prompt, (1 or sample, token, channel); None where it is not known."""

    def prompts(self, samples: int) -> tuple[str, ...]:
        """The prompt of each sample, empty where it is not known."""

    def tokens(self, samples: int, length: int, guided: bool) -> NDArray[np.str_] | None:
        """Texts of the tokens, (sample[, guidance], token), or None where they are not known."""


@dataclass(frozen=True, eq=False)
class OwnLoop:
    """Code of the user's own, which tells nothing.

    Attributes:
        target: Whose UNet it calls.
    """

    target: Target

    @property
    def source(self) -> str:
        """That it is such."""
        return "own loop"

    @property
    def key(self) -> None:
        """All calls belong together."""

    def guidance(self, latents: Tensor) -> None:
        """Not known."""

    def alternates_with(self, other: Caller) -> bool:
        """Whether it is such a loop, too."""
        return isinstance(other, OwnLoop)

    def unconditional(self, samples: int) -> Tensor | None:
        """The empty prompt, if there is something to encode it with."""
        if self.target.denoiser is not None:
            return self.target.denoiser.condition("").embeddings
        return _encoded(self.target.pipeline, [""])

    def prompts(self, samples: int) -> tuple[str, ...]:
        """Not known."""
        return ("",) * samples

    def tokens(self, samples: int, length: int, guided: bool) -> None:
        """Not known."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A call of `Denoiser.predict`."""

    model: Denoiser
    condition: Condition

    @property
    def source(self) -> str:
        """The model's name."""
        return self.model.name

    @property
    def key(self) -> object:
        """What the predictions are conditioned on."""
        condition = self.condition
        texts = condition.prompt, condition.described
        return texts, condition.guidance, len(condition.embeddings)

    def guidance(self, latents: Tensor) -> tuple[str, ...]:
        """Both halves where the condition has them."""
        return HALVES if self.condition.halves == 2 else ()

    def alternates_with(self, other: Caller) -> bool:
        """Whether one of them is a prediction without a prompt, and the other is not."""
        if not isinstance(other, Prediction):
            return False
        return bool(self.condition.prompt) != bool(other.condition.prompt)

    def unconditional(self, samples: int) -> Tensor:
        """The empty prompt."""
        return self.model.condition("").embeddings

    def prompts(self, samples: int) -> tuple[str, ...]:
        """The condition's; not known where it joins those of several samples."""
        return (self.condition.prompt if self._is_one else "",) * samples

    def tokens(self, samples: int, length: int, guided: bool) -> NDArray[np.str_] | None:
        """The condition's, beside those of the negative prompt where there is guidance."""
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
        pipeline: It.
        prompt: What it was called with.
        negative_prompt: The same.
        embedded: Whether it was called with texts that were encoded before.
        guidance_scale: What it was called with; None where it knows no such argument.
        length: How many tokens a prompt may have, if it was called with that.
    """

    pipeline: Any
    prompt: Any
    negative_prompt: Any
    embedded: bool
    guidance_scale: float | None = None
    length: int | None = None

    @classmethod
    def of(cls, pipeline: Any, arguments: Mapping[str, Any]) -> PipelineCall:
        """Reads a call by the names of its arguments."""
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
        """The pipeline's kind."""
        return type(self.pipeline).__name__

    @property
    def key(self) -> object:
        """This call."""
        return id(self)

    def guidance(self, latents: Tensor) -> tuple[str, ...] | None:
        """What the pipeline says while it runs.

        Believed of pipelines that say it, and that give both halves, and no others, the same
        latents. Those with more than two parts (perturbed attention, guidance by a picture) do not
        say what they are. Pipelines that call once for each text, or know no guidance, have samples
        alone in a call.
        """
        way = layout_of(network_of(self.pipeline)).guidance
        if way != "halves":
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
        return HALVES if same else None

    def alternates_with(self, other: Caller) -> bool:
        """Whether it is the same call of the pipeline."""
        return other is self

    def unconditional(self, samples: int) -> Tensor | None:
        """The negative prompts."""
        if self.embedded:
            return None
        negative = _spread(self.negative_prompt or "", samples)
        if negative is None:
            return None
        return _encoded(self.pipeline, list(negative), self.length)

    def _contradicts(self, latents: Tensor) -> bool:
        """Whether a pipeline that says there is no guidance gives every latent twice.

        That of panoramas does, each view beside itself; those of latent consistency models say so
        too, and mean it.
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
        """The texts that it was called with, each as often as there are pictures of it."""
        return _spread(self.prompt, samples) or ("",) * samples

    def tokens(self, samples: int, length: int, guided: bool) -> NDArray[np.str_] | None:
        """Of the prompts, beside those of the negative prompts where there is guidance."""
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
    """Texts as a pipeline's network reads them, or None where the pipeline cannot say."""
    if getattr(pipeline, "text_encoder", None) is None:
        return None
    try:
        with torch.no_grad():
            known = inspect.signature(pipeline.encode_prompt).parameters
            asked = {
                "device": pipeline._execution_device,
                "num_images_per_prompt": 1,
                "do_classifier_free_guidance": False,
                # The other encoders read the same.
                "prompt_2": None,
                "prompt_3": None,
                **({} if length is None else {"max_sequence_length": length}),
            }
            asked = {name: value for name, value in asked.items() if name in known}
            return pipeline.encode_prompt(prompt=texts, **asked)[0]
    except Exception:  # every pipeline has arguments and errors of its own
        return None


def _spread(given: Any, samples: int) -> tuple[str, ...] | None:
    """One text or several, each for its share of the samples."""
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or samples % len(texts):
        return None
    return tuple(text for text in texts for _ in range(samples // len(texts)))
