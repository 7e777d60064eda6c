"""Define `emerdiff-probe map`: what other commands do, for many inputs on many workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console

from emerdiff_probe.cli.options import MODELS, Device, Guidance, RunDtype, Seed, Steps
from emerdiff_probe.cli.report import reported, say

__all__ = ["many"]

many = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Do for many inputs, on several processes or machines, what other commands do for few.",
)

InputsGiven: TypeAlias = Annotated[
    str,
    typer.Option(
        "--inputs",
        help="A folder of images, or [b]scenes-parts[/b].",
        show_default=False,
    ),
]
Count: TypeAlias = Annotated[
    int | None,
    typer.Option(min=1, help="Number of inputs.", show_default="all; 100 scenes"),
]
FirstSeed: TypeAlias = Annotated[int, typer.Option(min=0, help="Seed of the first scene.")]
Workers: TypeAlias = Annotated[
    int | None,
    typer.Option(
        min=1, help="Number of processes to start here.", show_default="none; this process works"
    ),
]
Scheduler: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Address of a scheduler of Dask, whose workers work.", show_default="none"),
]
ShardGiven: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        help="Do only this part of all inputs, as [b]3/16[/b].",
        show_default="that of a SLURM array or of RANK and WORLD_SIZE, else all",
    ),
]

_FIRST = 1_100_000


@many.command(no_args_is_help=True)
def record(
    inputs: InputsGiven,
    store: Annotated[
        Path, typer.Option(help="Folder of the recording; what is there already is kept.")
    ] = Path("many.zarr"),
    sites: Annotated[
        str, typer.Option(help="As [b]emerdiff-probe record[/b] takes them.")
    ] = "blocks",
    model: Annotated[str, typer.Option(help=MODELS)] = "playground",
    steps: Steps = None,
    timestep: Annotated[
        list[int] | None,
        typer.Option(help="Only this timestep. Can be repeated.", show_default="all"),
    ] = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    full: Annotated[
        bool, typer.Option("--float32", help="Keep float32 in place of float16.")
    ] = False,
    first_seed: FirstSeed = _FIRST,
    count: Count = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    shard: ShardGiven = None,
    device: Device = None,
    dtype: RunDtype = None,
) -> None:
    """Record what happens inside a model for many inputs, into one store.

    The same command does what is left. Read it with [b]emerdiff_probe.open[/b].

    For example:

      emerdiff-probe map record --inputs my-pictures --store many.zarr --sites mid_block --workers 2
    """
    _mapped(
        "record",
        inputs,
        store,
        first_seed,
        count,
        {"device": device, "dtype": dtype},
        model=model,
        workers=workers,
        scheduler=scheduler,
        shard=shard,
        sites=sites,
        timesteps=timestep or None,
        seed=seed,
        dtype="float32" if full else "float16",
        **{
            name: value
            for name, value in {"steps": steps, "guidance": guidance}.items()
            if value is not None
        },
    )
    typer.echo(f"emerdiff_probe.open({str(store)!r})")


def _mapped(
    task: Any,
    inputs: str,
    out: Path,
    first_seed: int,
    count: int | None,
    load: dict[str, Any],
    **further: Any,
) -> None:
    """Do the work, and say what failed."""
    with reported() as console:
        import emerdiff_probe as ep

        found = ep.distributed.inputs_of(inputs, first_seed=first_seed, count=count)
        chosen = {name: getattr(each, "value", each) for name, each in load.items() if each}
        mapped = ep.map(task, found, out, load=chosen, **further)
        for _, row in mapped.failed.iterrows():
            say(console, f"failed: '{row['key']}': {row['reason']}", style="red")
        say(Console(), f"{len(mapped.table) - len(mapped.failed)} of {len(mapped.table)} inputs")
        if len(mapped.failed):
            say(console, "The same command tries again what failed.", style="red")
            raise typer.Exit(1)
