"""Read prompts and pictures from the command line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from emerdiff_probe.cli.report import say
from emerdiff_probe.errors import InputError
from emerdiff_probe.inputs import ENDINGS, Photo, Prompt
from emerdiff_probe.paths import local

__all__ = ["described", "sources_of", "title"]


def sources_of(
    prompts: list[str] | None, images: list[Path] | None, **drawn: Any
) -> list[Prompt | Photo]:
    """Return prompts, then pictures; at least one of either.

    Args:
        prompts: Texts to draw.
        images: Files of pictures, or folders of such files.
        **drawn: Fields of every `Prompt` besides its text.

    Raises:
        InputError: A folder has no image.
    """
    sources = [Prompt(text, **drawn) for text in prompts or []]
    pictures = [Photo(file) for path in images or [] for file in _files(path)]
    if not sources and not pictures:
        raise typer.BadParameter("give a picture, or --prompt and a text")
    return [*sources, *pictures]


def _files(path: Path) -> list[Path]:
    """Return a file, or the images of a folder; say which of its files are left out."""
    if not local(path).is_dir():
        return [path]
    entries = [each for each in sorted(local(path).iterdir()) if not each.name.startswith(".")]
    found = [each for each in entries if each.is_file() and each.name.lower().endswith(ENDINGS)]
    others = [each.name for each in entries if each not in found]
    if not found:
        raise InputError(f"the folder '{path}' has no image; images end in {', '.join(ENDINGS)}")
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        what = f"left out of '{path}', as no images: {', '.join(others[:3])}{more}"
        say(Console(stderr=True), what, style="yellow")
    return found


def title(source: Prompt | Photo) -> str:
    """Return what to name a folder after."""
    return source.text if isinstance(source, Prompt) else source.name


def described(source: Prompt | Photo) -> str:
    """Return what an input is, for a message."""
    if isinstance(source, Prompt):
        return f"prompt {source.text!r}"
    return shlex.quote(str(source.image))
