"""Define `emerdiff-probe sites`."""

from __future__ import annotations

from typing import Annotated

import typer

from emerdiff_probe.cli.options import MODELS
from emerdiff_probe.cli.report import reported

__all__ = ["list_sites"]


def list_sites(
    model: Annotated[str, typer.Argument(help=MODELS, show_default=False)],
    pattern: Annotated[
        str, typer.Argument(help="Names with [b]*[/b], separated by commas; after [b]![/b]: not.")
    ] = "*",
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Only this kind. Can be repeated.", show_default="every kind"),
    ] = None,
    level: Annotated[
        list[int] | None,
        typer.Option(help="Only grids of so many rows. Can be repeated.", show_default="all"),
    ] = None,
) -> None:
    """List the tensors inside a model that can be recorded, and how large they are.

    For example:

      emerdiff-probe sites playground "*attn2:query" --level 16
    """
    with reported():
        import emerdiff_probe as ep
        from emerdiff_probe.store import size_text

        table = ep.load(model).sites(pattern, kind=kind or None, level=level or None)
        lines = table.assign(
            dims=table["dims"].map(" ".join),
            shape=table["shape"].map(lambda shape: " x ".join(map(str, shape))),
            bytes=table["bytes"].map("{:,}".format),
        )
        typer.echo(lines.rename_axis(None).to_string())
        typer.echo(f"{len(table)} sites, {size_text(table['bytes'].sum())} a timestep")
