"""Show a run in words, and in a notebook with its images."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from emerdiff_probe.thumbnails import thumbnail
from emerdiff_probe.views.panels import as_bytes

if TYPE_CHECKING:
    from emerdiff_probe.runs.run import Run

__all__ = ["run_html", "run_text"]


def run_text(run: Run) -> str:
    """Return a run in one line.

    For example ``Run('a red house', seed 3, playground; 128 x 128; 25 steps from 961; drawn)``.
    """
    height, width = run.size
    timesteps = run.trajectory.timesteps
    return (
        f"Run({run.prepared.name!r}, seed {run.seed}, {run.model.name}; {height} x {width}; "
        f"{len(timesteps)} steps from {timesteps[0]}; {run.diagnostics['method']})"
    )


def run_html(run: Run) -> str:
    """Return a run as HTML: the image, its reconstruction, and how good the inversion is."""
    shown = [thumbnail(run.picture, "image")]
    if not run.prepared.drawn and not run.interventions:
        shown.append(thumbnail(as_bytes(run.reconstruction), "reconstruction"))
    rows = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in _facts(run)
    )
    return (
        "<div style='display:flex;flex-wrap:wrap;gap:14px;align-items:flex-start'>"
        f"{''.join(shown)}<table>{rows}</table></div>"
    )


def _facts(run: Run) -> Iterator[tuple[str, str]]:
    timesteps = run.trajectory.timesteps
    yield "model", run.model.name
    yield "source", run.prepared.about
    yield "fit", run.fit
    yield "run", f"{len(timesteps)} steps, t = {timesteps[0]} to {timesteps[-1]}, seed {run.seed}"
    if run.prepared.drawn:
        yield "guidance", f"{run.settings.guidance:g}"
    else:
        yield from _inversion(run)
    for each in run.interventions:
        yield "intervention", repr(each)


def _inversion(run: Run) -> Iterator[tuple[str, str]]:
    found: Any = run.diagnostics
    yield "inversion", str(found["method"])
    yield (
        "reconstruction",
        f"{found['picture_psnr']} dB (the autoencoder alone: {found['autoencoder_psnr']} dB)",
    )
    if rms := found["noise_rms"]:
        yield "noise, root mean square", f"{min(rms):.2f} to {max(rms):.2f} (true noise: 1)"
        near = found["noise_autocorrelation"]
        yield (
            "noise, correlation of neighbours",
            f"{min(near):.2f} to {max(near):.2f} (true noise: 0)",
        )
