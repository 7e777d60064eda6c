"""Report errors and warnings on the terminal, each as one line."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from emerdiff_probe.errors import ProbeError

__all__ = ["plain", "reported", "say"]


@contextmanager
def reported() -> Iterator[Console]:
    """Report errors and warnings on stderr, each as one line; silence the libraries underneath."""
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("DIFFUSERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
    ):
        os.environ.setdefault(name, value)
    console = Console(stderr=True)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say(console, f"warning: {message}", style="yellow")

    with warnings.catch_warnings(), _terminable():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module="emerdiff_probe")
        warnings.showwarning = show
        try:
            yield console
        except ProbeError as error:
            say(console, f"error: {error}", style="red")
            raise typer.Exit(1) from None
        except OSError as error:
            where = f"'{error.filename}': " if error.filename else ""
            say(console, f"error: {where}{error.strerror or error}", style="red")
            raise typer.Exit(1) from None
        except KeyboardInterrupt as error:
            say(console, f"interrupted; {str(error) or 'finished results are kept'}", style="red")
            raise typer.Exit(143 if isinstance(error, _Terminated) else 130) from None


class _Terminated(KeyboardInterrupt):
    """The process was asked to end, as SLURM does before it ends it."""


@contextmanager
def _terminable() -> Iterator[None]:
    """While it lasts SIGTERM ends what runs as Ctrl-C does, so that everything is tidied up."""

    def end(*_: object) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, end)
    except ValueError:  # not the main thread, where no handler can be set
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a text as it is, wrapped only by the terminal."""
    # Texts hold prompts, in which brackets are no markup.
    console.print(plain(text), style=style, markup=False, highlight=False, soft_wrap=True)


def plain(text: str) -> str:
    r"""Return a text as it can be shown: what would command the terminal is spelt out.

    Names of files and labels of stores can be anybody's, and hold bytes that are no text.

    >>> plain("caf\u00e9 \x1b[2J") == "caf\u00e9 \\x1b[2J"
    True
    """
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )
