"""Define `emerdiff-probe info`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from emerdiff_probe.cli.report import plain, reported

__all__ = ["info"]

_NAMED = 10
"""Samples that are named, and not only counted."""


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
    with reported():
        from emerdiff_probe.store import info as look
        from emerdiff_probe.store import size_text

        found = look(store)
        state = "complete" if found.finished else f"{found.committed:.0%} of it is there"
        rows = {
            "model": ", ".join(_facts(found.model)),
            "samples": _named(found.samples),
            "timesteps": f"{len(found.timesteps)}, {found.timesteps[0]} to {found.timesteps[-1]}",
            "sites": f"{len(found.sites)}, {found.sites[0]} to {found.sites[-1]}",
            "values": found.config["dtype"],
            "guidance": found.config.get("guidance", "as it was called"),
            "state": f"{state}, {size_text(found.nbytes)} on disk, cut by {found.layout}",
            "versions": ", ".join(" ".join(each) for each in found.versions.items()),
        }
        if reducers := found.config.get("reduce"):
            rows["reduced"] = ", ".join(map(_described, reducers))
        if found.missing:
            count = f"{len(found.missing)} of {len(found.samples)} samples"
            rows["missing"] = f"{count}: {_named(found.missing)}"
        if found.lost:
            rows["lost"] = f"chunks of {', '.join(found.lost)}"
        for name, text in rows.items():
            typer.echo(plain(f"{name:>9}  {text}"))


def _named(names: Sequence[str]) -> str:
    more = f"; and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return "; ".join(names[:_NAMED]) + more


def _facts(model: dict[str, Any]) -> list[str]:
    """Return what is known of a model; the weights of a probed one may be unknown."""
    weights = [f"weights {model['weights']['unet']}"] if "weights" in model else []
    return [
        model["name"] or model.get("pipeline", "a UNet"),
        *weights,
        f"{model['dtype']} on {model['device']}",
    ]


def _described(reducer: dict[str, Any]) -> str:
    settings = (f"{name}={value}" for name, value in reducer.items() if name != "kind")
    return f"{reducer['kind']}({', '.join(settings)})"
