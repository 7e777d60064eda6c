"""Read prompts and pictures from the command line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer

from emerdiff_probe.inputs import Photo, Prompt

__all__ = ["described", "sources_of", "title"]


def sources_of(
    prompts: list[str] | None, images: list[Path] | None, **drawn: Any
) -> list[Prompt | Photo]:
    """Return prompts, then pictures; at least one of either.

    Args:
        prompts: Texts to draw.
        images: Files of pictures.
        **drawn: Fields of every `Prompt` besides its text.
    """
    sources = [Prompt(text, **drawn) for text in prompts or []]
    pictures = [Photo(path) for path in images or []]
    if not sources and not pictures:
        raise typer.BadParameter("give a picture, or --prompt and a text")
    return [*sources, *pictures]


def title(source: Prompt | Photo) -> str:
    """Return what to name a folder after."""
    return source.text if isinstance(source, Prompt) else source.name


def described(source: Prompt | Photo) -> str:
    """Return what an input is, for a message."""
    if isinstance(source, Prompt):
        return f"prompt {source.text!r}"
    return shlex.quote(str(source.image))
