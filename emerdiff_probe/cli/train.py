"""Define `emerdiff-probe train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emerdiff_probe.cli.options import Device
from emerdiff_probe.cli.report import reported

__all__ = ["train"]


def train(
    out: Annotated[Path, typer.Option(help="Folder for the trained model.", show_default=False)],
    minutes: Annotated[
        float, typer.Option(min=0.001, help="Minutes of training; making pictures comes on top.")
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
            help="Folder of a model trained here, to train it further.", show_default="none"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random numbers.")] = 0,
    batch: Annotated[
        int, typer.Option(min=1, help="Pictures in an update of the UNet; 512 fit a large GPU.")
    ] = 32,
    pictures: Annotated[
        int, typer.Option(min=1, help="Scenes to train on; pictures of your own are all used.")
    ] = 64_000,
    work: Annotated[
        Path | None,
        typer.Option(help="Folder for what is kept between runs.", show_default="OUT.work"),
    ] = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Number of processes that make pictures.")
    ] = 2,
    device: Device = None,
) -> None:
    """Train a small model like the bundled one, on scenes or pictures of your own.

    Ctrl-C saves the state and stops; the same command resumes it.

    For example:

      emerdiff-probe train --minutes 105 --out my-model

      emerdiff-probe segment --model my-model --prompt "a red house"
    """
    with reported():
        from emerdiff_probe.playground.settings import TrainingSettings
        from emerdiff_probe.playground.train import train as train_model

        train_model(
            out,
            minutes=minutes,
            images=images,
            start=start,
            seed=seed,
            work=work,
            processes=processes,
            device=device,
            settings=TrainingSettings(batch=batch, pictures=pictures),
        )
