"""Define `emerdiff-probe segment`."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

from emerdiff_probe.cli.inputs import described, sources_of, title
from emerdiff_probe.cli.options import (
    MODELS,
    ClipSkip,
    Device,
    NegativePrompt,
    RunDtype,
    Seed,
    Side,
)
from emerdiff_probe.cli.report import reported, say
from emerdiff_probe.cli.settings import with_settings
from emerdiff_probe.errors import InputError, ProbeError
from emerdiff_probe.inputs import Photo, Prompt

__all__ = ["segment"]


@with_settings
def segment(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE|FOLDER", help="Images, or folders of images.", show_default=False
        ),
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
    negative_prompt: NegativePrompt = "",
    height: Side = None,
    width: Side = None,
    clip_skip: ClipSkip = None,
    engine: Annotated[
        Literal["shared", "literal", "short", "jump"] | None,
        typer.Option(
            help="[b]literal[/b], the paper's loop; [b]shared[/b], the same in less time; "
            "[b]short[/b] or [b]jump[/b], fewer steps and approximate.",
            show_default="shared; literal where that cannot be",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("segments"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace older results.", show_default=False)
    ] = False,
    device: Device = None,
    dtype: RunDtype = None,
    *,
    settings: dict[str, Any],
) -> None:
    """Segment images, or what a model draws from prompts, as EmerDiff does.

    Each input gets a folder in [b]--out[/b] with [b]index.html[/b] (open it in a browser),
    [b]overlay.png[/b], [b]labels.png[/b] (a pixel's value is its segment) and
    [b]dataset.zarr[/b] (for [b]xarray.open_zarr[/b]). Where there are several results,
    [b]contact-sheet.html[/b] and [b]contact-sheet.png[/b] show all of them.

    For example:

      emerdiff-probe segment --prompt "a red house"

      emerdiff-probe segment cat.jpg dog.png --masks 20 --out animals

      emerdiff-probe segment holiday/ --engine jump --sigma 0.5
    """
    with reported() as console:
        sources = sources_of(
            prompt,
            images,
            seed=seed,
            negative_prompt=negative_prompt,
            height=height,
            width=width,
            clip_skip=clip_skip,
        )
        from emerdiff_probe import exports as results

        folders = [out / name for name in results.names(title(source) for source in sources)]
        _check(sources, folders, out, overwrite)
        import emerdiff_probe as ep

        loaded = ep.load(model, device=device, dtype=dtype.value if dtype else None)
        config = ep.EmerDiffConfig.for_model(loaded).replace(seed=seed, **settings)
        written, failed = [], 0
        for number, (source, folder) in enumerate(zip(sources, folders, strict=True), start=1):
            text = textwrap.shorten(described(source), 70, placeholder=" ...")
            say(console, f"{number} of {len(sources)}: {text}")
            try:
                ds = ep.segment(loaded, source, masks=masks, config=config, engine=engine)
                results.write(ds, folder, overwrite=overwrite)
            except ProbeError as error:
                failed += 1
                say(console, f"error: {described(source)}: {error}", style="red")
            else:
                written.append(folder)
        if written:
            say(Console(), "Open in a browser:", style="bold")
        for folder in written:
            say(Console(), f"  {folder / 'index.html'}")
        if written and (sheet := results.write_sheets(out)):
            say(Console(), f"All together: {sheet}", style="bold")
        if failed:
            raise typer.Exit(1)


def _check(sources: list[Prompt | Photo], folders: list[Path], out: Path, overwrite: bool) -> None:
    """Collect all that is wrong with inputs and outputs, before a model is loaded."""
    from emerdiff_probe import exports as results

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
