"""Define `emerdiff-probe doctor`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from emerdiff_probe.cli.options import MODELS, Device, RunDtype
from emerdiff_probe.cli.report import reported, say

__all__ = ["doctor"]

_SHOWN = 5


def doctor(
    model: Annotated[str, typer.Argument(help=MODELS, show_default=False)],
    steps: Annotated[int, typer.Option(min=2, help="Sampling steps of each image.")] = 4,
    device: Device = None,
    dtype: RunDtype = None,
) -> None:
    """Report what can be recorded of a model, what that costs, and whether it changes images.

    Draws one small image four times, in [b]--steps[/b] steps each. Ends with exit code 1 if
    recording changes the image, or if nothing can be recorded.

    For example:

      emerdiff-probe doctor playground

      emerdiff-probe doctor CompVis/stable-diffusion-v1-4 --device cuda
    """
    with reported() as console:
        import emerdiff_probe as ep
        from emerdiff_probe.doctor import examine

        loaded = ep.load(model, device=device, dtype=dtype.value if dtype else None)
        found = examine(loaded, steps=steps)
        for name, text in _rows(loaded, found):
            typer.echo(f"{name:>10}  {text}")
        verdict, fine = _verdict(found)
        if not fine:
            say(console, verdict, style="red")
            raise typer.Exit(1)
        typer.echo(verdict)


def _rows(model: Any, found: Any) -> list[tuple[str, str]]:
    from emerdiff_probe.store import size_text

    sites, seconds = found.sites, found.seconds
    recordable = sites[sites["why_not"] == ""]
    sizes = ", ".join(
        f"{name} {sum(each.numel() for each in part.parameters()) / 1e6:.1f} M"
        for name, part in model.parts.items()
    )
    rows = [
        ("model", f"{model.name}, {type(model.pipeline).__name__}, {model.image_size} pixels"),
        ("computes in", f"{str(model.dtype).removeprefix('torch.')} on {model.device}"),
        ("parameters", sizes),
        ("sites", f"{len(recordable)} of {len(sites)} can be recorded"),
    ]
    for reason, names in (
        sites[sites["why_not"] != ""].groupby("why_not", sort=False).groups.items()
    ):
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        rows.append(("not", f"{', '.join(names[:_SHOWN])}{more}: {reason}"))
    every = size_text(int(recordable["recorded"].sum()))
    blocks = size_text(int(recordable.loc[recordable["kind"] == "block", "recorded"].sum()))
    rows += [
        ("bytes", f"{blocks} a step for blocks, {every} for all sites, in float16"),
        (
            "seconds",
            f"{seconds['bare']:.3f} a step, {seconds['blocks']:.3f} with blocks recorded, "
            f"{seconds['all']:.3f} with all sites",
        ),
        ("image", _image(found)),
    ]
    if (config := found.method.config) is not None:
        rows += [
            ("features", f"{config.feature_site} at t = {config.feature_timestep}"),
            (
                "modulation",
                f"{config.modulation_site} at t = {config.modulation_timestep}, "
                f"strength {config.strength:g}",
            ),
            ("steps", f"{config.steps}, guidance {config.guidance:g} for prompts"),
        ]
    return rows + [("method", text) for text in found.method.troubles]


def _image(found: Any) -> str:
    if not found.repeats:
        return "differs between two equal calls of the bare pipeline, so nothing can be compared"
    changed = [name for name, same in found.unchanged.items() if not same]
    if changed:
        return f"changed by recording {' and '.join(changed)}"
    return "the same to the last bit with and without recording"


def _verdict(found: Any) -> tuple[str, bool]:
    """Return the last line of the report, and whether it is good."""
    failing = int((found.sites["why_not"] != "").sum())
    if failing == len(found.sites):
        return "Nothing can be recorded of this model; the reason is above.", False
    if found.repeats and not found.harmless:
        return "Recording changes the images of this model. Do not trust what it records.", False
    ready = (
        "segmentation has settings to start from"
        if not found.method.troubles
        else "segmentation needs settings of your own"
    )
    if not found.repeats:
        return f"Sites can be recorded, and {ready}; equal calls give unequal images.", True
    if failing:
        return f"Well but for {failing} sites: recording changes nothing, and {ready}.", True
    return f"All is well: every site can be recorded, recording changes nothing, {ready}.", True
