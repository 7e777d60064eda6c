"""Define `emerdiff-probe record`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emerdiff_probe.cli.inputs import sources_of
from emerdiff_probe.cli.options import (
    MODELS,
    ClipSkip,
    Device,
    Guidance,
    NegativePrompt,
    RunDtype,
    Seed,
    Side,
    Steps,
)
from emerdiff_probe.cli.report import reported

__all__ = ["record"]


def record(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE|FOLDER", help="Images, or folders of images.", show_default=False
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            "--prompt", "-p", help="Text to draw and record. Can be repeated.", show_default=False
        ),
    ] = None,
    store: Annotated[
        Path, typer.Option(help="Folder to stream to; an interrupted recording in it is resumed.")
    ] = Path("run.zarr"),
    sites: Annotated[
        str,
        typer.Option(
            help="Names with [b]*[/b], separated by commas, or [b]blocks[/b], [b]semantic[/b], "
            "[b]attention[/b]; see [b]emerdiff-probe sites[/b]."
        ),
    ] = "blocks",
    model: Annotated[str, typer.Option(help=MODELS)] = "playground",
    steps: Steps = None,
    timestep: Annotated[
        list[int] | None,
        typer.Option(help="Only this timestep. Can be repeated.", show_default="all"),
    ] = None,
    guidance: Guidance = None,
    negative_prompt: NegativePrompt = "",
    height: Side = None,
    width: Side = None,
    clip_skip: ClipSkip = None,
    seed: Seed = 0,
    batch: Annotated[
        int, typer.Option(min=1, help="Number of samples in a call of the model.")
    ] = 1,
    full: Annotated[
        bool, typer.Option("--float32", help="Keep float32 in place of float16.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show how large it would be.", show_default=False)
    ] = False,
    device: Device = None,
    dtype: RunDtype = None,
) -> None:
    """Record what happens inside a model while it draws prompts or denoises pictures.

    Ctrl-C keeps what is done; the same command resumes it. Read it with
    [b]emerdiff_probe.open[/b].

    For example:

      emerdiff-probe record --prompt "a red house" --sites "*attn2:query" --store house.zarr
    """
    with reported():
        sources = sources_of(
            prompt,
            images,
            seed=seed,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            clip_skip=clip_skip,
        )
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
