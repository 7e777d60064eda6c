"""The `emerdiff-probe` command: thin, and light until a model is needed."""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console

from emerdiff_probe.errors import InputError, ProbeError
from emerdiff_probe.sources import Photo, Prompt

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


class Dtype(StrEnum):
    """Types that a model can run in."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class DatasetName(StrEnum):
    """Data sets with the class of every pixel."""

    scenes_parts = "scenes-parts"
    scenes_objects = "scenes-objects"
    folder = "folder"
    ade20k = "ade20k"
    coco_stuff_27 = "coco-stuff-27"
    coco_stuff_171 = "coco-stuff-171"


MODELS = "[b]playground[/b], a folder of a diffusers pipeline, a .safetensors file, or a hub id."

# Options that several commands have.
Seed: TypeAlias = Annotated[
    int, typer.Option(min=0, max=2**32 - 1, help="Start of all random numbers.")
]
Device: TypeAlias = Annotated[
    str | None, typer.Option(help="Where to run.", show_default="cuda if there is one, else cpu")
]
RunDtype: TypeAlias = Annotated[
    Dtype | None,
    typer.Option(help="Type to run in.", show_default="float16 on cuda, else float32"),
]


def main() -> None:
    """Runs the command."""
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


@app.command(no_args_is_help=True)
def segment(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE", help="Pictures to segment.", show_default=False),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", help="Text to draw and segment. Can be repeated.", show_default=False
        ),
    ] = None,
    seed: Seed = 0,
    model: Annotated[str, typer.Option(help=MODELS)] = "playground",
    masks: Annotated[int, typer.Option(min=1, help="Number of low-resolution masks.")] = 12,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("segments"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace older results.", show_default=False)
    ] = False,
    device: Device = None,
    dtype: RunDtype = None,
) -> None:
    """Segment pictures, or what a model draws from prompts, as EmerDiff does.

    Each input gets a folder in [b]--out[/b] with [b]index.html[/b] (open it in a browser),
    [b]overlay.png[/b], [b]labels.png[/b] (a pixel's value is its segment) and
    [b]dataset.zarr[/b] (for [b]xarray.open_zarr[/b]).

    For example:

      emerdiff-probe segment --prompt "a red house"

      emerdiff-probe segment cat.jpg dog.png --masks 20 --out animals
    """
    sources = _sources(prompt, images, seed)
    with _reported() as console:
        from emerdiff_probe import results

        folders = [out / name for name in results.names(_title(source) for source in sources)]
        _check(sources, folders, out, overwrite)
        import emerdiff_probe as ep

        loaded = ep.load(model, device=device, dtype=dtype.value if dtype else None)
        config = ep.EmerDiffConfig.for_model(loaded).replace(seed=seed)
        written, failed = [], 0
        for number, (source, folder) in enumerate(zip(sources, folders, strict=True), start=1):
            text = textwrap.shorten(_described(source), 70, placeholder=" ...")
            _say(console, f"{number} of {len(sources)}: {text}")
            try:
                ds = ep.segment(loaded, source, masks=masks, config=config)
                results.write(ds, folder, overwrite=overwrite)
            except ProbeError as error:
                failed += 1
                _say(console, f"error: {_described(source)}: {error}", style="red")
            else:
                written.append(folder)
        if written:
            _say(Console(), "Open in a browser:", style="bold")
        for folder in written:
            _say(Console(), f"  {folder / 'index.html'}")
        if failed:
            raise typer.Exit(1)


@app.command(no_args_is_help=True)
def train(
    out: Annotated[Path, typer.Option(help="Folder for the trained model.", show_default=False)],
    minutes: Annotated[
        float, typer.Option(min=0.001, help="Time for training; making pictures comes on top.")
    ] = 105,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of pictures, with captions in text files beside them.",
            show_default="the package's own scenes",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a model trained here, to train it further.", show_default="anew"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Start of all random numbers.")] = 0,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for what is kept between runs.", show_default="OUT.work"),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="How many make pictures at the same time.")
    ] = 2,
) -> None:
    """Train a small model like the bundled one, on scenes or pictures of your own.

    Ctrl-C saves the state and stops; the same command continues it.

    For example:

      emerdiff-probe train --minutes 105 --out my-model

      emerdiff-probe segment --model my-model --prompt "a red house"
    """
    with _reported():
        from emerdiff_probe.models.playground.train import train as train_model

        train_model(
            out,
            minutes=minutes,
            images=images,
            start=start,
            seed=seed,
            work=work,
            processes=processes,
        )


@app.command("sites", no_args_is_help=True)
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
    with _reported():
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


@app.command(no_args_is_help=True)
def record(
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="IMAGE", help="Pictures to record.", show_default=False),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", help="Text to draw and record. Can be repeated.", show_default=False
        ),
    ] = None,
    store: Annotated[
        Path, typer.Option(help="Folder to stream to; one begun before is continued.")
    ] = Path("run.zarr"),
    sites: Annotated[
        str,
        typer.Option(
            help="Names with [b]*[/b], separated by commas, or [b]blocks[/b], [b]semantic[/b], "
            "[b]attention[/b]; see [b]emerdiff-probe sites[/b]."
        ),
    ] = "blocks",
    model: Annotated[str, typer.Option(help=MODELS)] = "playground",
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampling grid.")] = 50,
    timestep: Annotated[
        list[int] | None,
        typer.Option(help="Only this timestep. Can be repeated.", show_default="all"),
    ] = None,
    guidance: Annotated[
        float, typer.Option(min=1, help="Classifier-free guidance; above 1, both halves.")
    ] = 1.0,
    seed: Seed = 0,
    batch: Annotated[int, typer.Option(min=1, help="Samples in one call of the model.")] = 1,
    full: Annotated[
        bool, typer.Option("--float32", help="Keep float32 in place of float16.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only say how large it would be.", show_default=False)
    ] = False,
    device: Device = None,
    dtype: RunDtype = None,
) -> None:
    """Record what happens inside a model while it draws prompts or denoises pictures.

    Ctrl-C keeps what is there; the same command continues it. Read it with
    [b]emerdiff_probe.open[/b].

    For example:

      emerdiff-probe record --prompt "a red house" --sites "*attn2:query" --store house.zarr
    """
    sources = _sources(prompt, images, seed)
    with _reported():
        import emerdiff_probe as ep

        made = ep.record(
            ep.load(model, device=device, dtype=dtype.value if dtype else None),
            sources,
            sites,
            steps=steps,
            timesteps=timestep or None,
            guidance=guidance,
            seed=seed,
            batch=batch,
            dtype="float32" if full else "float16",
            store=store,
            plan=plan,
        )
        typer.echo(repr(made) if plan else f"emerdiff_probe.open({str(store)!r})")


@app.command(no_args_is_help=True)
def evaluate(
    dataset: Annotated[
        DatasetName, typer.Option(help="What to score on; see below.", show_default=False)
    ],
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the data set.", show_default="none, as scenes have none"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(help="Part of ADE20K or COCO-Stuff.", show_default="the validation part"),
    ] = None,
    first_seed: Annotated[
        int, typer.Option(min=0, help="First of the scenes; the default begins the test split.")
    ] = 1_100_000,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Only so many pictures.", show_default="all; of scenes 100"),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="Name of a protocol. Can be repeated.", show_default="the usual ones"),
    ] = None,
    masks: Annotated[int, typer.Option(min=1, help="Low-resolution masks of a picture.")] = 12,
    model: Annotated[str, typer.Option(help=MODELS)] = "playground",
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for tables; an evaluation begun before is continued.")
    ] = Path("evaluation"),
    skip: Annotated[
        bool,
        typer.Option(
            "--skip", help="Leave out pictures without usable labels.", show_default=False
        ),
    ] = False,
    device: Device = None,
    dtype: RunDtype = None,
) -> None:
    """Score EmerDiff, and four ways to enlarge the same masks without a model, on a data set.

    [b]scenes-parts[/b], [b]scenes-objects[/b]: the package's own.
    [b]folder[/b]: [b]images/[/b], [b]labels/[/b] with a PNG for each, and [b]classes.csv[/b] with
    name,index or name,red,green,blue. [b]ade20k[/b], [b]coco-stuff-27[/b], [b]coco-stuff-171[/b]:
    as published, downloaded by you.

    For example:

      emerdiff-probe evaluate --dataset scenes-parts --count 20

      emerdiff-probe evaluate --dataset ade20k --root ADEChallengeData2016 --masks 20
    """
    with _reported() as console:
        import dataclasses

        import emerdiff_probe as ep
        from emerdiff_probe import evaluation
        from emerdiff_probe.evaluation.methods import emerdiff_and_baselines

        chosen = _dataset(dataset, root, split, first_seed, count)
        loaded = ep.load(model, device=device, dtype=dtype.value if dtype else None)
        config = ep.EmerDiffConfig.for_model(loaded).replace(seed=seed)
        found = evaluation.evaluate(
            emerdiff_and_baselines(loaded, masks, config),
            chosen,
            *([protocol] if protocol else []),
            kept=out,
            identity={
                "model": loaded.weights,
                "dtype": str(loaded.dtype),
                "masks": masks,
                "config": dataclasses.asdict(config),
            },
            skip=skip,
        )
        for key, text in found.skipped.items():
            _say(console, f"left out '{key}': {text}", style="yellow")
        found.pictures.to_csv(out / "pictures.csv", index=False)
        summary = found.summary()
        summary.to_csv(out / "summary.csv")
        typer.echo(f"{chosen.name}, {found.pictures['picture'].nunique()} pictures, {masks} masks")
        typer.echo(summary.T.to_string())
        typer.echo(f"Tables: {out / 'summary.csv'}, {out / 'pictures.csv'}")


def _dataset(
    name: DatasetName, root: Path | None, split: str | None, first_seed: int, count: int | None
) -> Any:
    from emerdiff_probe import evaluation

    if name in (DatasetName.scenes_parts, DatasetName.scenes_objects):
        level: Any = name.value.removeprefix("scenes-")
        return evaluation.scene_dataset(range(first_seed, first_seed + (count or 100)), level)
    if root is None:
        raise InputError(f"--dataset {name} is read from a folder; give it with --root")
    if name is DatasetName.folder:
        whole = evaluation.plain_folder(root)
    elif name is DatasetName.ade20k:
        whole = evaluation.ade20k(root, split or "validation")
    else:
        classes: Any = int(name.value.rpartition("-")[2])
        whole = evaluation.coco_stuff(root, classes, split or "val2017")
    return whole.first(count) if count else whole


@app.command()
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
) -> None:
    """Test what the paper says of its settings on scenes, with the bundled model and others.

    Writes [b]claims.md[/b] with its pictures and [b]claims.csv[/b]: which claim holds, which does
    not, and which is undecided, with intervals over scenes and over models. It takes hours.

    For example:

      emerdiff-probe claims --count 40 --model seed1 --model seed2 --model seed3
    """
    with _reported():
        import emerdiff_probe as ep
        from emerdiff_probe.evaluation.claims_table import benchmark

        others = [ep.load(str(folder)) for folder in model or []]
        benchmark([ep.load("playground"), *others], out, kept, count, processes)
        typer.echo(f"Table: {out / 'claims.md'}")


@app.command(no_args_is_help=True)
def info(
    store: Annotated[
        str,
        typer.Argument(
            help="Folder or zip file of a recording, or an address as [b]s3://...[/b]",
            show_default=False,
        ),
    ],
) -> None:
    """Say what is in a recording, how complete and how large it is, and how it was made."""
    with _reported():
        from emerdiff_probe.store import info as look
        from emerdiff_probe.store import size_text

        found = look(store)
        state = "complete" if found.finished else f"{found.committed:.0%} of it is there"
        rows = {
            "model": f"{found.model['name']}, weights {found.model['weights']}, "
            f"{found.model['dtype']} on {found.model['device']}",
            "samples": "; ".join(found.samples),
            "timesteps": f"{len(found.timesteps)}, {found.timesteps[0]} to {found.timesteps[-1]}",
            "sites": f"{len(found.sites)}, {found.sites[0]} to {found.sites[-1]}",
            "values": found.config["dtype"],
            "guidance": found.config["guidance"],
            "state": f"{state}, {size_text(found.nbytes)} on disk, cut by {found.layout}",
            "versions": ", ".join(" ".join(each) for each in found.versions.items()),
        }
        if found.lost:
            rows["lost"] = f"chunks of {', '.join(found.lost)}"
        for name, text in rows.items():
            typer.echo(f"{name:>9}  {text}")


def _sources(
    prompts: list[str] | None, images: list[Path] | None, seed: int
) -> list[Prompt | Photo]:
    sources = [Prompt(text, seed) for text in prompts or []]
    pictures = [Photo(path) for path in images or []]
    if not sources and not pictures:
        raise typer.BadParameter("give a picture, or --prompt and a text")
    return [*sources, *pictures]


def _title(source: Prompt | Photo) -> str:
    return source.text if isinstance(source, Prompt) else source.name


def _described(source: Prompt | Photo) -> str:
    if isinstance(source, Prompt):
        return f"prompt {source.text!r}"
    return shlex.quote(str(source.image))


def _check(sources: list[Prompt | Photo], folders: list[Path], out: Path, overwrite: bool) -> None:
    """Finds out all that is wrong with inputs and outputs before a model is loaded."""
    from emerdiff_probe import results

    wrong = []
    for source, folder in zip(sources, folders, strict=True):
        try:
            if isinstance(source, Photo):
                source.rgb()
            results.check_free(folder, overwrite=overwrite)
        except ProbeError as error:
            wrong.append(str(error))
    if wrong:
        raise InputError("\n".join(wrong))
    results.check_writable(out)


@contextmanager
def _reported() -> Iterator[Console]:
    """Errors and warnings as one line each on stderr; quiets the libraries underneath."""
    for name, value in (
        ("TRANSFORMERS_VERBOSITY", "error"),
        ("DIFFUSERS_VERBOSITY", "error"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
    ):
        os.environ.setdefault(name, value)
    console = Console(stderr=True)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        _say(console, f"warning: {message}", style="yellow")

    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.filterwarnings("default", module="emerdiff_probe")
        warnings.showwarning = show
        try:
            yield console
        except ProbeError as error:
            _say(console, f"error: {error}", style="red")
            raise typer.Exit(1) from None
        except OSError as error:
            where = f"'{error.filename}': " if error.filename else ""
            _say(console, f"error: {where}{error.strerror or error}", style="red")
            raise typer.Exit(1) from None
        except KeyboardInterrupt as error:
            _say(console, f"interrupted; {str(error) or 'finished results are kept'}", style="red")
            raise typer.Exit(130) from None


def _say(console: Console, text: str, style: str | None = None) -> None:
    # Texts hold prompts, in which brackets are no markup, and names, in which bytes can be no text.
    text = text.encode("utf-8", "replace").decode("utf-8")
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
