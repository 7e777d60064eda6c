"""Define `emerdiff-probe evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emerdiff_probe.cli.datasets import FIRST_SEED, DatasetName, dataset_of
from emerdiff_probe.cli.options import MODELS, Device, Root, RunDtype, Seed, Split
from emerdiff_probe.cli.report import reported, say
from emerdiff_probe.paths import local, made_at_once

__all__ = ["evaluate"]


def evaluate(
    dataset: Annotated[
        DatasetName, typer.Option(help="What to score on; see below.", show_default=False)
    ],
    root: Root = None,
    split: Split = None,
    first_seed: Annotated[
        int, typer.Option(min=0, help="Seed of the first scene; the default starts the test split.")
    ] = FIRST_SEED,
    count: Annotated[
        int | None,
        typer.Option(min=1, help="Number of pictures.", show_default="all; 100 scenes"),
    ] = None,
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="Name of a protocol. Can be repeated.", show_default="the usual ones"),
    ] = None,
    masks: Annotated[int, typer.Option(min=1, help="Number of low-resolution masks.")] = 12,
    model: Annotated[str, typer.Option(help=MODELS)] = "playground",
    seed: Seed = 0,
    out: Annotated[
        Path, typer.Option(help="Folder for tables; an interrupted evaluation in it is resumed.")
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

    [b]scenes-parts[/b], [b]scenes-objects[/b]: the package's own. [b]folder[/b]: [b]images/[/b],
    [b]labels/[/b] with a PNG for each, and [b]classes.csv[/b] with name,index or
    name,red,green,blue. [b]ade20k[/b], [b]coco-stuff-27[/b], [b]coco-stuff-171[/b]: as published,
    downloaded by you.

    Writes tables, each picture beside its truth and its segments in [b]drawings/[/b], and those
    with the lowest and the highest scores on one sheet, [b]worst-and-best.png[/b].

    For example:

      emerdiff-probe evaluate --dataset scenes-parts --count 20

      emerdiff-probe evaluate --dataset ade20k --root ADEChallengeData2016 --masks 20
    """
    with reported() as console:
        import dataclasses
        from functools import partial

        import emerdiff_probe as ep
        from emerdiff_probe import evaluation
        from emerdiff_probe.evaluation.methods import emerdiff_and_baselines
        from emerdiff_probe.evaluation.rivals import of_unet
        from emerdiff_probe.models.identity import identity

        out = local(out)
        chosen = dataset_of(dataset, root, split, first_seed, count)
        loaded = of_unet(ep.load(model, device=device, dtype=dtype.value if dtype else None))
        config = ep.EmerDiffConfig.for_model(loaded).replace(seed=seed)
        found = evaluation.evaluate(
            emerdiff_and_baselines(loaded, masks, config),
            chosen,
            *([protocol] if protocol else []),
            kept=out,
            identity={
                "model": identity(loaded),
                "masks": masks,
                "config": dataclasses.asdict(config),
            },
            skip=skip,
            drawn=True,
        )
        for key, text in found.skipped.items():
            say(console, f"left out '{key}': {text}", style="yellow")
        summary = found.summary()
        with made_at_once(out / "pictures.csv", replace=True) as new:
            found.pictures.to_csv(new, index=False)
        with made_at_once(out / "summary.csv", replace=True) as new:
            summary.to_csv(new)
        typer.echo(f"{chosen.name}, {found.pictures['picture'].nunique()} pictures, {masks} masks")
        typer.echo(summary.T.to_string())
        typer.echo(f"Tables: {out / 'summary.csv'}, {out / 'pictures.csv'}")
        if found.protocols:
            sheet = evaluation.worst_and_best(found, partial(evaluation.drawing, out))
            with made_at_once(out / "worst-and-best.png", replace=True) as new:
                sheet.save(new)
            typer.echo(
                f"The lowest and the highest scores in pictures: {out / 'worst-and-best.png'}"
            )
        typer.echo(f"Each picture with its truth and segments: {out / 'drawings'}")
