"""Define `emerdiff-probe map`: what other commands do, for many inputs on many workers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer
from rich.console import Console

from emerdiff_probe.cli.datasets import DatasetName, dataset_of
from emerdiff_probe.cli.options import MODELS, Device, Guidance, RunDtype, Seed, Steps
from emerdiff_probe.cli.report import reported, say
from emerdiff_probe.cli.settings import with_settings

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
        help="A folder of images; a table ([b].csv[/b], [b].tsv[/b], [b].parquet[/b]) with a "
        "column [b]prompt[/b] or [b]image[/b]; tars; or [b]scenes-parts[/b].",
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

Out: TypeAlias = Annotated[
    Path, typer.Option(help="Folder of the results; what is there already is kept.")
]
Engine: TypeAlias = Annotated[
    Literal["shared", "literal", "short", "jump"] | None,
    typer.Option(
        help="As [b]emerdiff-probe segment[/b] has them.",
        show_default="shared; literal where that cannot be",
    ),
]

_FIRST = 1_100_000
_SCENES = ("scenes-parts", "scenes-objects")


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


@many.command(no_args_is_help=True)
@with_settings
def segment(
    inputs: InputsGiven,
    out: Out = Path("segments"),
    masks: Annotated[int, typer.Option(min=1, help="Number of low-resolution masks.")] = 12,
    engine: Engine = None,
    model: Annotated[str, typer.Option(help=MODELS)] = "playground",
    seed: Seed = 0,
    first_seed: FirstSeed = _FIRST,
    count: Count = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    shard: ShardGiven = None,
    device: Device = None,
    dtype: RunDtype = None,
    *,
    settings: dict[str, Any],
) -> None:
    """Segment many inputs, as [b]emerdiff-probe segment[/b] does, into a folder with all of them.

    For example:

      emerdiff-probe map segment --inputs my-pictures --out segments --workers 2
    """
    _mapped(
        "segment",
        inputs,
        out,
        first_seed,
        count,
        {"device": device, "dtype": dtype},
        model=model,
        workers=workers,
        scheduler=scheduler,
        shard=shard,
        masks=masks,
        engine=engine,
        seed=seed,
        **settings,
    )
    typer.echo(f"Open in a browser: {out / 'contact-sheet.html'}")


@many.command(no_args_is_help=True)
@with_settings
def respond(
    inputs: InputsGiven,
    store: Annotated[Path, typer.Option(help="Folder with a store for each input.")] = Path(
        "responses"
    ),
    masks: Annotated[
        int | None,
        typer.Option(min=1, help="Number of masks.", show_default="every latent location"),
    ] = None,
    engine: Engine = None,
    model: Annotated[str, typer.Option(help=MODELS)] = "playground",
    seed: Seed = 0,
    first_seed: FirstSeed = _FIRST,
    count: Count = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    shard: ShardGiven = None,
    device: Device = None,
    dtype: RunDtype = None,
    *,
    settings: dict[str, Any],
) -> None:
    """Shift every latent location, or masks, of many inputs, and keep what their images answer.

    Read one with [b]emerdiff_probe.open_responses[/b].

    For example:

      emerdiff-probe map respond --inputs my-pictures --store responses --engine jump --workers 2
    """
    _mapped(
        "respond",
        inputs,
        store,
        first_seed,
        count,
        {"device": device, "dtype": dtype},
        model=model,
        workers=workers,
        scheduler=scheduler,
        shard=shard,
        masks="locations" if masks is None else masks,
        engine=engine,
        seed=seed,
        **settings,
    )
    typer.echo(f"Table: {store / 'table.csv'}")


@many.command(no_args_is_help=True)
@with_settings
def evaluate(
    inputs: Annotated[
        str,
        typer.Option(
            help="[b]scenes-parts[/b], [b]scenes-objects[/b], or a folder with [b]images/[/b], "
            "[b]labels/[/b] and [b]classes.csv[/b].",
            show_default=False,
        ),
    ],
    out: Out = Path("evaluation"),
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="Name of a protocol. Can be repeated.", show_default="the usual ones"),
    ] = None,
    masks: Annotated[int, typer.Option(min=1, help="Number of low-resolution masks.")] = 12,
    model: Annotated[str, typer.Option(help=MODELS)] = "playground",
    seed: Seed = 0,
    first_seed: FirstSeed = _FIRST,
    count: Count = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    shard: ShardGiven = None,
    device: Device = None,
    dtype: RunDtype = None,
    *,
    settings: dict[str, Any],
) -> None:
    """Score EmerDiff and its baselines on many pictures with known truth.

    For example:

      emerdiff-probe map evaluate --inputs scenes-parts --count 100 --out scores --workers 2
    """
    with reported():
        scenes = DatasetName(inputs) if inputs in _SCENES else DatasetName.folder
        root = None if inputs in _SCENES else Path(inputs).absolute()
        dataset = dataset_of(scenes, root, None, first_seed, count)
    _mapped(
        "evaluate",
        dataset,
        out,
        first_seed,
        count,
        {"device": device, "dtype": dtype},
        model=model,
        workers=workers,
        scheduler=scheduler,
        shard=shard,
        protocols=protocol or (),
        masks=masks,
        seed=seed,
        **settings,
    )
    typer.echo(f"Tables: {out / 'summary.csv'}, {out / 'pictures.csv'}")


def _mapped(
    task: Any,
    inputs: Any,
    out: Path,
    first_seed: int,
    count: int | None,
    load: dict[str, Any],
    **further: Any,
) -> None:
    """Do the work, and say what failed."""
    with reported() as console:
        import emerdiff_probe as ep

        if isinstance(inputs, str):
            inputs = ep.distributed.inputs_of(inputs, first_seed=first_seed, count=count)
        chosen = {name: getattr(each, "value", each) for name, each in load.items() if each}
        mapped = ep.map(task, inputs, out, load=chosen, **further)
        for _, row in mapped.failed.iterrows():
            say(console, f"failed: '{row['key']}': {row['reason']}", style="red")
        say(Console(), f"{len(mapped.table) - len(mapped.failed)} of {len(mapped.table)} inputs")
        if len(mapped.failed):
            say(console, "The same command tries again what failed.", style="red")
            raise typer.Exit(1)
