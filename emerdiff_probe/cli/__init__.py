"""Provide the `emerdiff-probe` command: thin, and light until a model is needed.

Each command is a function in a module of its own and imports what it computes with when it runs.
"""

from __future__ import annotations

from typing import Annotated

import typer

from emerdiff_probe.cli.claims import claims
from emerdiff_probe.cli.doctor import doctor
from emerdiff_probe.cli.evaluate import evaluate
from emerdiff_probe.cli.info import info
from emerdiff_probe.cli.map import many
from emerdiff_probe.cli.record import record
from emerdiff_probe.cli.segment import segment
from emerdiff_probe.cli.sites import list_sites
from emerdiff_probe.cli.train import train

__all__ = ["app", "main"]

app = typer.Typer(
    name="emerdiff-probe",
    help="See what a diffusion model knows of each pixel.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command."""
    app()


def _show_version(wanted: bool) -> None:
    if wanted:
        from emerdiff_probe import __version__

        typer.echo(f"emerdiff-probe {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """See what a diffusion model knows of each pixel."""


# In the order of `--help`.
for _name, _command in (
    ("segment", segment),
    ("train", train),
    ("doctor", doctor),
    ("sites", list_sites),
    ("record", record),
    ("evaluate", evaluate),
    ("claims", claims),
    ("info", info),
):
    # `claims` is the only command that needs no arguments.
    app.command(_name, no_args_is_help=_command is not claims)(_command)
app.add_typer(many, name="map")
