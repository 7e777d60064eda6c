"""Write a trained model as a folder that diffusers can load, and read it to train further."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from emerdiff_probe.errors import ConfigError, InputError
from emerdiff_probe.playground.architecture import assemble
from emerdiff_probe.playground.clip import newer_parts
from emerdiff_probe.playground.padding import pad_as_configured

__all__ = ["RECORD", "Parts", "check_free", "read", "read_record", "write"]

RECORD = "training.json"
"""File that records how a folder was made, and marks it as made here."""


class Parts(NamedTuple):
    """Hold the parts of a model.

    Attributes:
        vae: Autoencoder.
        unet: Denoiser.
        text: Text encoder.
        words: Tokenizer of the text encoder.
    """

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text: CLIPTextModel
    words: CLIPTokenizer


def read(folder: Path) -> Parts:
    """Read the parts of a model written by :func:`write`, in float32."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, **newer_parts(folder))
    pad_as_configured(pipeline.unet)
    return Parts(pipeline.vae, pipeline.unet, pipeline.text_encoder, pipeline.tokenizer)


def read_record(folder: Path) -> dict[str, Any]:
    """Read the record of how a model was made.

    Raises:
        InputError: The folder was not written by a training of this package.
    """
    try:
        return json.loads((folder / RECORD).read_text())
    except (OSError, ValueError) as error:
        raise InputError(
            f"'{folder}' is not a model trained here (it has no readable {RECORD}: {error}); "
            "give the folder of one, as 'emerdiff-probe train --out FOLDER' writes it"
        ) from error


def check_free(out: Path) -> None:
    """Refuse to overwrite what was not made here.

    Raises:
        ConfigError: ``out`` exists and was not written by :func:`write`.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RECORD).is_file())):
        raise ConfigError(
            f"'{out}' exists and was not made by a training (it has no {RECORD}); "
            "give another place, or move it away"
        )


def write(
    out: Path,
    parts: Parts,
    record: dict[str, Any],
) -> None:
    """Write a pipeline folder and its record; an older one is replaced in one move.

    The autoencoder and the UNet are stored in float16, which halves the folder; diffusers loads
    them in float32 anyway. The text encoder is stored in float32, since transformers loads a model
    in the type in which it is stored.

    Args:
        out: Folder to write.
        parts: Trained model.
        record: JSON values for ``training.json``.

    Raises:
        ConfigError: See :func:`check_free`.
    """
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    writing, old = (out.with_name(f".{out.name}.{state}") for state in ("writing", "old"))
    for left_over in (writing, old):
        shutil.rmtree(left_over, ignore_errors=True)
    vae, unet = (copy.deepcopy(part).to(torch.float16) for part in (parts.vae, parts.unet))
    for part in (vae, unet):
        # diffusers notes where a part was read from, and would store that folder's path.
        part.register_to_config(_name_or_path="")
    pipeline = assemble(
        vae,
        unet,
        parts.text,
        parts.words,
    )
    pipeline.save_pretrained(writing, safe_serialization=True)
    (writing / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    if out.exists():
        out.rename(old)
    writing.rename(out)
    shutil.rmtree(old, ignore_errors=True)
