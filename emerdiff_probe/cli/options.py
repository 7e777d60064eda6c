"""Define the options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

__all__ = [
    "MODELS",
    "ClipSkip",
    "Device",
    "Dtype",
    "Guidance",
    "NegativePrompt",
    "Root",
    "RunDtype",
    "Seed",
    "Side",
    "Split",
    "Steps",
]


class Dtype(StrEnum):
    """Name the types that a model can run in."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


MODELS = "[b]playground[/b], a folder of a diffusers pipeline, a .safetensors file, or a hub id."

Seed: TypeAlias = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Seed of all random numbers.")
]
Device: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Device to run on.", show_default="cuda if there is one, else cpu"),
]
RunDtype: TypeAlias = Annotated[
    Dtype | None,
    typer.Option(help="Type to run in.", show_default="float16 on cuda, else float32"),
]
Root: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="Folder of the data set.", show_default="none, as scenes have none"),
]
Split: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Part of ADE20K or COCO-Stuff.", show_default="the validation part"),
]
Steps: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, help="Steps of the sampling grid.", show_default="what fits the model"),
]
Guidance: TypeAlias = Annotated[
    float | None,
    typer.Option(
        min=1, help="Classifier-free guidance of prompts.", show_default="what fits the model"
    ),
]
NegativePrompt: TypeAlias = Annotated[
    str, typer.Option(help="Text that guidance leads away from.", show_default=False)
]
Side: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1, help="Size of drawn pictures, in pixels.", show_default="that of the model"
    ),
]
ClipSkip: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=0, help="Number of last layers of the text encoder to skip.", show_default="none"
    ),
]
