"""Define `emerdiff-probe map`: what other commands do, for many inputs on many workers."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import typer
from rich.console import Console

from emerdiff_probe.cli.datasets import FIRST_SEED, SCENES, DatasetName, dataset_of
from emerdiff_probe.cli.grouped import with_options
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


def _shared(
    *,
    model: Annotated[str, typer.Option(help=MODELS)] = "playground",
    seed: Seed = 0,
    first_seed: Annotated[int, typer.Option(min=0, help="Seed of the first scene.")] = FIRST_SEED,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Number of inputs.", show_default="all; 100 scenes"),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of processes to start here.",
            show_default="none; this process works",
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a scheduler of Dask, whose workers work.", show_default="none"
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Do only this part of all inputs, as [b]3/16[/b].",
            show_default="that of a SLURM array or of RANK and WORLD_SIZE, else all",
        ),
    ] = None,
    device: Device = None,
    dtype: RunDtype = None,
) -> None:
    """Declare the options that all these commands have."""


with_shared = with_options(
    "shared", list(inspect.signature(_shared, eval_str=True).parameters.values())
)


@many.command(no_args_is_help=True)
@with_shared
def record(
    inputs: InputsGiven,
    store: Annotated[
        Path, typer.Option(help="Folder of the recording; what is there already is kept.")
    ] = Path("many.zarr"),
    sites: Annotated[
        str, typer.Option(help="As [b]emerdiff-probe record[/b] takes them.")
    ] = "blocks",
    steps: Steps = None,
    timestep: Annotated[
        list[int] | None,
        typer.Option(help="Only this timestep. Can be repeated.", show_default="all"),
    ] = None,
    guidance: Guidance = None,
    full: Annotated[
        bool, typer.Option("--float32", help="Keep float32 in place of float16.")
    ] = False,
    *,
    shared: dict[str, Any],
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
        shared,
        sites=sites,
        timesteps=timestep or None,
        dtype="float32" if full else "float16",
        **{
            name: value
            for name, value in {"steps": steps, "guidance": guidance}.items()
            if value is not None
        },
    )
    typer.echo(f"emerdiff_probe.open({str(store)!r})")


@many.command(no_args_is_help=True)
@with_shared
@with_settings
def segment(
    inputs: InputsGiven,
    out: Out = Path("segments"),
    masks: Annotated[int, typer.Option(min=1, help="Number of low-resolution masks.")] = 12,
    engine: Engine = None,
    *,
    settings: dict[str, Any],
    shared: dict[str, Any],
) -> None:
    """Segment many inputs, as [b]emerdiff-probe segment[/b] does, into a folder with all of them.

    For example:

      emerdiff-probe map segment --inputs my-pictures --out segments --workers 2
    """
    _mapped(
        "segment",
        inputs,
        out,
        shared,
        masks=masks,
        engine=engine,
        **settings,
    )
    typer.echo(f"Open in a browser: {out / 'contact-sheet.html'}")


@many.command(no_args_is_help=True)
@with_shared
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
    *,
    settings: dict[str, Any],
    shared: dict[str, Any],
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
        shared,
        masks="locations" if masks is None else masks,
        engine=engine,
        **settings,
    )
    typer.echo(f"Table: {store / 'table.csv'}")


@many.command(no_args_is_help=True)
@with_shared
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
    *,
    settings: dict[str, Any],
    shared: dict[str, Any],
) -> None:
    """Score EmerDiff and its baselines on many pictures with known truth.

    For example:

      emerdiff-probe map evaluate --inputs scenes-parts --count 100 --out scores --workers 2
    """
    with reported():
        scenes = DatasetName(inputs) if inputs in SCENES else DatasetName.folder
        root = None if inputs in SCENES else Path(inputs).absolute()
        dataset = dataset_of(scenes, root, None, shared["first_seed"], shared.get("count"))
    _mapped(
        "evaluate",
        dataset,
        out,
        shared,
        protocols=protocol or (),
        masks=masks,
        **settings,
    )
    typer.echo(f"Tables: {out / 'summary.csv'}, {out / 'pictures.csv'}")


def _mapped(task: Any, inputs: Any, out: Path, shared: dict[str, Any], **further: Any) -> None:
    """Do the work, and say what failed."""
    with reported() as console:
        import emerdiff_probe as ep

        first_seed, count = shared.pop("first_seed"), shared.pop("count", None)
        if isinstance(inputs, str):
            inputs = ep.distributed.inputs_of(inputs, first_seed=first_seed, count=count)
        given = {name: shared.pop(name) for name in ("device", "dtype") if name in shared}
        load: dict[str, Any] = {name: getattr(each, "value", each) for name, each in given.items()}
        mapped = ep.map(task, inputs, out, load=load, **shared, **further)
        for _, row in mapped.failed.iterrows():
            say(console, f"failed: '{row['key']}': {row['reason']}", style="red")
        say(Console(), f"{len(mapped.table) - len(mapped.failed)} of {len(mapped.table)} inputs")
        if len(mapped.failed):
            say(console, "The same command tries again what failed.", style="red")
            raise typer.Exit(1)
