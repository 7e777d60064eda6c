"""`emerdiff-probe claims`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emerdiff_probe.cli.options import Device, Dtype
from emerdiff_probe.cli.report import reported

__all__ = ["claims"]


def claims(
    model: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of another model, trained like the bundled one from another seed. Can be "
            "repeated.",
            show_default="the bundled model alone",
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=2, max=100, help="Scenes.")] = 40,
    processes: Annotated[int, typer.Option(min=1, help="Scenes at the same time.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder for the table.")] = Path("claims"),
    kept: Annotated[
        Path, typer.Option(help="Folder for what is done so far; the same command continues it.")
    ] = Path("build/benchmarks"),
    device: Device = None,
    dtype: Annotated[Dtype, typer.Option(help="Type to run in.")] = Dtype.float32,
) -> None:
    """Test what the paper says of its settings on scenes, with the bundled model and others.

    Writes [b]claims.md[/b] with its pictures and [b]claims.csv[/b]: which claim holds, which does
    not, and which is undecided, with intervals over scenes and over models. It takes hours.

    For example:

      emerdiff-probe claims --count 40 --model seed1 --model seed2 --model seed3
    """
    with reported():
        import emerdiff_probe as ep
        from emerdiff_probe.evaluation.claims_table import benchmark
        from emerdiff_probe.evaluation.rivals import of_unet

        names = ["playground", *map(str, model or [])]
        models = [of_unet(ep.load(each, device=device, dtype=dtype.value)) for each in names]
        benchmark(models, out, kept, count, processes)
        typer.echo(f"Table: {out / 'claims.md'}")
