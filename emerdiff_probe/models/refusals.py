"""Refuse unsupported pipelines by name, and report parts that are not used."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from diffusers import UNet2DConditionModel

from emerdiff_probe.errors import ModelError
from emerdiff_probe.models.catalogue import known_inputs, unwrapped

__all__ = ["ADDED", "check_folder", "check_parts", "say_unused"]

_COMPUTED: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_PARTS: Final = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
_TOKENIZERS: Final = ("tokenizer", "tokenizer_2")
ADDED: Final = {
    "controlnet": "ControlNet",
    "adapter": "T2I-Adapter",
    "perturbed_attention": "perturbed attention guidance",
}
"""Parts that add to a UNet's predictions and work only in calls of the pipeline."""


def check_parts(pipeline: Any, name: str) -> None:
    """Refuse pipelines unlike Stable Diffusion, and report parts that are loaded but not used.

    Raises:
        ModelError: The pipeline is not supported; the message gives the reason.
    """
    kind = type(pipeline).__name__
    config = getattr(pipeline, "config", {})
    if config.get("requires_aesthetics_score") or (
        getattr(pipeline, "text_encoder_2", None) is not None
        and getattr(pipeline, "text_encoder", None) is None
    ):
        raise ModelError(
            f"{name}: a refiner of Stable Diffusion XL works only on the last timesteps, and "
            "reads an aesthetic score and one of two texts; choose the base model, or record your "
            "own call of the refiner with ep.probe(pipe)"
        )
    missing = [part for part in _PARTS if getattr(pipeline, part, None) is None]
    if missing:
        raise ModelError(
            f"{name}: a {kind} has no {', '.join(missing)}; "
            "Stable Diffusion v1, v2 and XL pipelines have all of: " + ", ".join(_PARTS)
        )
    if getattr(pipeline, "text_encoder_3", None) is not None:
        raise ModelError(
            f"{name}: pipelines with three text encoders are not supported; choose a Stable "
            "Diffusion v1, v2 or XL checkpoint"
        )
    _check_tokenizers(pipeline, name)
    _check_unet(pipeline.unet, name)
    vae = pipeline.vae.config
    if pipeline.unet.config.in_channels != vae.latent_channels or vae.in_channels != 3:
        raise ModelError(
            f"{name}: the UNet takes {pipeline.unet.config.in_channels} channels, and the "
            f"autoencoder makes {vae.latent_channels} of {vae.in_channels} (an inpainting or depth "
            "model?); choose a text-to-image checkpoint"
        )
    unused = [part for part in ADDED if getattr(pipeline, part, None) is not None]
    if hasattr(type(pipeline), "do_perturbed_attention_guidance"):
        unused.append("perturbed_attention")
    say_unused(name, unused)


def _check_unet(unet: Any, name: str) -> None:
    """Refuse a UNet that needs more inputs than it would get, or cannot compute as it is.

    Raises:
        ModelError: It does; the message gives the reason.
    """
    own: Any = unwrapped(unet)
    if not isinstance(own, UNet2DConditionModel):
        raise ModelError(
            f"{name}: its UNet is a {type(own).__name__}, and only a UNet2DConditionModel is "
            "supported (others are for video, sound or unconditional images); choose a "
            "text-to-image checkpoint of Stable Diffusion v1, v2 or XL"
        )
    if getattr(own, "encoder_hid_proj", None) is not None:
        raise ModelError(
            f"{name}: an IP-Adapter is loaded, which needs an image in every call; call "
            "unload_ip_adapter(), or record your own call of the pipeline with ep.probe(pipe)"
        )
    known_inputs(own)
    if own.config.num_class_embeds is not None:
        raise ModelError(
            f"{name}: the UNet reads the number of a class or a noise level in every call, as "
            "upscalers do; choose a text-to-image checkpoint, or record your own call of the "
            "pipeline with ep.probe(pipe)"
        )
    if own.dtype not in _COMPUTED:
        raise ModelError(
            f"{name}: the UNet's weights are in {str(own.dtype).removeprefix('torch.')}, in which "
            "nothing can be computed; load them in float16, bfloat16 or float32, or keep them so "
            "with unet.enable_layerwise_casting(storage_dtype=..., compute_dtype=torch.bfloat16)"
        )


def check_folder(folder: Path, index: Mapping[str, Any], name: str) -> None:
    """Refuse a folder whose tokenizers have no files, which some versions make from nothing.

    Args:
        folder: The folder of a pipeline; anything else, such as a hub id, is not examined.
        index: The parts that the folder claims to have, as ``model_index.json`` names them.
        name: The name of the model, for messages.

    Raises:
        ModelError: A tokenizer has no files.
    """
    for part in _TOKENIZERS:
        place = folder / part
        said = index.get(part, (None,))[0] is not None
        if folder.is_dir() and said and not (place.is_dir() and any(place.iterdir())):
            raise _without_words(name, part)


def _check_tokenizers(pipeline: Any, name: str) -> None:
    """Refuse a tokenizer that was made from nothing, which reads every text as empty.

    Raises:
        ModelError: A tokenizer has no vocabulary.
    """
    for part in _TOKENIZERS:
        tokenizer = getattr(pipeline, part, None)
        if tokenizer is not None and len(tokenizer) <= len(tokenizer.all_special_ids):
            raise _without_words(name, part)


def _without_words(name: str, part: str) -> ModelError:
    return ModelError(
        f"{name}: the {part} knows no words, so that all prompts would be the empty one; "
        f"is its folder ('{part}', with vocab.json and merges.txt) missing? Copy it from "
        "the model that this one was made from"
    )


def say_unused(pipeline: str, parts: Iterable[str]) -> None:
    """Warn about parts that add to a UNet's predictions and are not used.

    Args:
        pipeline: The name of the pipeline.
        parts: The parts that exist; those outside `ADDED` are ignored.
    """
    names = [ADDED[part] for part in parts if part in ADDED]
    if names:
        warnings.warn(
            f"{pipeline}: the UNet is used without its {' and '.join(names)}; to record with it, "
            "call the pipeline yourself within ep.probe(pipe)",
            stacklevel=5,
        )
