"""Define `emerdiff-probe claims`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emerdiff_probe.cli.datasets import DatasetName, dataset_of
from emerdiff_probe.cli.options import Device, Dtype, Root, Split
from emerdiff_probe.cli.report import reported
from emerdiff_probe.errors import InputError
from emerdiff_probe.paths import local

__all__ = ["claims"]

_SCENES = 40
_MOST_SCENES = 100
_FIRST_SEED = 1_300_000


def claims(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder, file or hub id of a model. Of scenes: one more, trained like the bundled "
            "one from another seed. Can be repeated.",
            show_default="of scenes the bundled model alone",
        ),
    ] = None,
    dataset: Annotated[
        DatasetName | None,
        typer.Option(help="Images to test on.", show_default="scenes that nothing else used"),
    ] = None,
    root: Root = None,
    split: Split = None,
    count: Annotated[
        int | None,
        typer.Option(min=2, help="Only so many images.", show_default="all; 40 scenes"),
    ] = None,
    masks: Annotated[
        int,
        typer.Option(min=2, help="Low-resolution masks of an image of a data set."),
    ] = 20,
    skip: Annotated[
        bool,
        typer.Option("--skip", help="Leave out images without usable labels.", show_default=False),
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Images at the same time.", show_default="1; 2 scenes"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the table.")] = Path("claims"),
    kept: Annotated[
        Path, typer.Option(help="Folder for finished parts; the same command resumes from it.")
    ] = Path("build/benchmarks"),
    device: Device = None,
    dtype: Annotated[Dtype, typer.Option(help="Type to run in.")] = Dtype.float32,
) -> None:
    """Test what the paper says of its settings, on scenes or on a data set with a model of yours.

    Writes [b]claims.md[/b] with its pictures and [b]claims.csv[/b]: which claim holds, which does
    not, and which is undecided, with intervals over images and over models. It takes hours.

    For example:

      emerdiff-probe claims --count 40 --model seed1 --model seed2 --model seed3

      emerdiff-probe claims --model CompVis/stable-diffusion-v1-4 --dataset ade20k
      --root ADEChallengeData2016 --dtype float16
    """
    with reported():
        if dataset is None and (given := _of_images(root, split, skip)):
            raise InputError(
                f"--{given[0]} is for a data set; name one with --dataset, as in --dataset ade20k"
            )
        if dataset is not None and not model:
            raise InputError(f"--dataset {dataset} is for a model of yours; give it with --model")
        if dataset is None and (count or 0) > _MOST_SCENES:
            raise InputError(f"--count is {count}; there are {_MOST_SCENES} scenes for claims")
        import emerdiff_probe as ep
        from emerdiff_probe.evaluation.rivals import of_unet

        out, kept = local(out), local(kept)
        # Read before the models, which take longer.
        chosen = None if dataset is None else dataset_of(dataset, root, split, _FIRST_SEED, count)
        names = [*(["playground"] if chosen is None else []), *(model or [])]
        models = [of_unet(ep.load(each, device=device, dtype=dtype.value)) for each in names]
        if chosen is None:
            from emerdiff_probe.evaluation.claims_table import benchmark

            benchmark(models, out, kept, count or _SCENES, processes or 2)
        else:
            from emerdiff_probe.evaluation.claims_on_images import benchmark_images, operations

            config = ep.EmerDiffConfig.for_model(models[0])
            rows, decodings = operations(models[0], config, masks)
            typer.echo(
                f"{len(chosen.keys)} images, {rows:,} rows of UNet calls and {decodings:,} "
                "decodings each; the same command continues what is stopped"
            )
            benchmark_images(
                models, chosen, out, kept, masks=masks, processes=processes or 1, skip=skip
            )
        typer.echo(f"Table: {out / 'claims.md'}")


def _of_images(root: Path | None, split: str | None, skip: bool) -> list[str]:
    """Return the given options that only data sets have."""
    given = {"root": root, "split": split, "skip": skip}
    return [name for name, value in given.items() if value]
