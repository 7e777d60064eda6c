"""Writing a trained model as a folder that diffusers can load."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from emerdiff_probe.errors import ConfigError
from emerdiff_probe.models.playground.architecture import assemble

__all__ = ["RECORD", "check_free", "write"]

RECORD = "training.json"
"""The file that tells how a folder came to be; by it the folder is known as made here."""


def check_free(out: Path) -> None:
    """Refuse to write over what was not made here.

    Raises:
        ConfigError: There is something at ``out`` that is not a folder written by :func:`write`.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RECORD).is_file())):
        raise ConfigError(
            f"'{out}' exists and was not made by a training (it has no {RECORD}); "
            "give another place, or move it away"
        )


def write(
    out: Path,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    words: CLIPTokenizer,
    record: dict[str, Any],
) -> None:
    """Write a pipeline folder and its record, in place of an older one, in one move.

    The autoencoder and the UNet are stored in float16, which halves the folder; diffusers loads
    them in float32 all the same. The text encoder is stored in float32, since transformers loads
    a model in the type in which it is stored.

    Args:
        out: The folder.
        vae: The trained autoencoder.
        unet: The trained UNet.
        text: The trained text encoder.
        words: Its tokenizer.
        record: JSON values, for ``training.json``.

    Raises:
        ConfigError: See :func:`check_free`.
    """
    check_free(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    writing, old = (out.with_name(f".{out.name}.{state}") for state in ("writing", "old"))
    for left_over in (writing, old):
        shutil.rmtree(left_over, ignore_errors=True)
    pipeline = assemble(
        copy.deepcopy(vae).to(torch.float16), copy.deepcopy(unet).to(torch.float16), text, words
    )
    pipeline.save_pretrained(writing, safe_serialization=True)
    (writing / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    if out.exists():
        out.rename(old)
    writing.rename(out)
    shutil.rmtree(old, ignore_errors=True)
