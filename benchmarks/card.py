"""The bundled model's card: how it was made, what it draws, what it can't do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from numpy.typing import NDArray
from PIL import Image
from plotly.subplots import make_subplots

from benchmarks import captions
from benchmarks.task import QUALITY_SEEDS, WORLD_SEEDS, Task
from emerdiff_probe import scenes
from emerdiff_probe.emerdiff import EmerDiffConfig
from emerdiff_probe.evaluation import reports
from emerdiff_probe.evaluation.scoring import mean_with_interval
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.playground import folder
from emerdiff_probe.scenes import TRAIN

__all__ = ["autoencoder_psnr", "benchmark", "curves", "sample_sheet", "write_card"]

LIMITS: Final = """\
- It knows the small world of its scenes and nothing else: photographs come back through its
  autoencoder, but their features mean little.
- It knows the words of the scenes' captions; other words are spelt in letters that mean nothing
  to it.
- It was trained for little more than an hour on two cores. What it draws from noise are patches in
  the prompt's colours, seldom a thing that a person would recognise; the table above counts them.
  Denoising a scene from t = 800 or less, which is what inversion and modulation do, it predicts
  sensible pictures.
- Its features say more of the place in the picture than of what is there: clusters of them match
  the scenes' parts poorly (`docs/results/settings.md`). Its correspondences between latent
  locations and pixels are sharp (`docs/results/quality.md`, "true masks")."""

SHEET_COLOURS: Final = ("red", "yellow", "blue", "white")


def autoencoder_psnr(model: StableDiffusion, seeds: range) -> NDArray[np.float64]:
    """How well the autoencoder rebuilds scenes, in decibels, one value a scene."""
    values = []
    for seed in seeds:
        image = torch.from_numpy(scenes.scene(seed).image / 255.0).float().permute(2, 0, 1)[None]
        error = (model.decode(model.encode(image)).clamp(0, 1).cpu() - image).square().mean()
        values.append(-10 * float(error.log10()))
    return np.array(values)


def curves(record: dict[str, Any]) -> go.Figure:
    """Loss by time of both trainings, of a model's ``training.json``."""
    parts = ("autoencoder", "denoiser")
    figure = make_subplots(1, 2, subplot_titles=parts)
    for column, part in enumerate(parts, start=1):
        points = pd.DataFrame(record[part]["curve"])
        for name, colour in (("training_loss", "#999999"), ("validation_loss", "#0072B2")):
            figure.add_scatter(
                x=points["seconds"] / 60,
                y=points[name],
                name=name.replace("_", " "),
                line={"color": colour},
                showlegend=column == 1,
                row=1,
                col=column,
            )
        figure.update_xaxes(title="minutes", row=1, col=column)
        figure.update_yaxes(type="log", row=1, col=column)
    return figure.update_layout(width=1000, height=360, template="plotly_white")


def sample_sheet(model: StableDiffusion, guidance: float) -> Image.Image:
    """What the model draws, unchosen: a row for each colour, a column for each kind; seed 0."""
    rows = []
    for colour in SHEET_COLOURS:
        pictures = [
            captions.draw(model, f"a {colour} {kind}", seed=0, guidance=guidance)[0]
            for kind in scenes.KINDS
        ]
        rows.append(torch.cat(pictures, dim=2))
    return Image.fromarray(torch.cat(rows, dim=1).permute(1, 2, 0).numpy())


def write_card(
    folder: Path,
    model: StableDiffusion,
    *,
    guidance: float,
    followed: pd.DataFrame,
    reference: dict[str, float],
    psnr: NDArray[np.float64],
) -> None:
    """Writes ``README.md``, ``curves.png`` and ``samples.png`` into a model's folder.

    Args:
        folder: With the model's ``training.json``.
        model: The model of that folder.
        guidance: Of the samples.
        followed: From `captions.follow`.
        reference: From `captions.judge`.
        psnr: From `autoencoder_psnr` on test scenes.
    """
    record = json.loads((folder / "training.json").read_text())
    reports.draw(folder / "curves.png", curves(record))
    sample_sheet(model, guidance).save(folder / "samples.png")
    (folder / "README.md").write_text(_text(record, model, guidance, followed, reference, psnr))


def _text(
    record: dict[str, Any],
    model: StableDiffusion,
    guidance: float,
    followed: pd.DataFrame,
    reference: dict[str, float],
    psnr: NDArray[np.float64],
) -> str:
    seen = ["kind seen", "colour seen", "both seen"]
    by_kind = followed.groupby("kind", sort=False)[seen].mean()
    by_kind.loc["**all**"] = followed[seen].mean()
    by_kind.loc["scenes not learnt from"] = [reference[name] for name in seen]
    mean, low, high = mean_with_interval(psnr)
    runs = [("autoencoder", record["autoencoder"])]
    runs += [("UNet, an earlier run", part) for part in record.get("earlier", [])]
    runs += [("UNet, the last run", record["denoiser"])]
    parts = "\n".join(
        f"| {name} | {part['parameters'] / 1e6:.2f} M | {part['updates']:,} | {part['samples']:,} "
        f"| {part['seconds'] / 60:.0f} |"
        for name, part in runs
    )
    return f"""# The bundled model

A latent diffusion model of {model.image_size} x {model.image_size} pictures, laid out as Stable
Diffusion v1 is, trained on procedural scenes. It exists so that everything in `emerdiff_probe`
can be run and scored without downloads. Weights {model.weights} (UNet, float32).

## Data

{record["pictures"]["train"]:,} scenes of `emerdiff_probe.scenes` (training seeds, each with its
caption; {record["pictures"]["validation"]} validation seeds). Labels were not used.

## Training

| part | parameters | updates | samples | minutes |
| --- | --- | --- | --- | --- |
{parts}

Each run of the UNet began with the weights of the one before. The text encoder was drawn at random
and not trained. Settings, curves and versions: `training.json`. The weights are those with the
lowest validation loss of the last run, whose curve is on the right.

![Loss by time](curves.png)

## What it draws

Unchosen: seed 0, guidance {guidance:g}, {captions.STEPS} steps. Rows:
{", ".join(SHEET_COLOURS)}; columns: {", ".join(scenes.KINDS)}.

![Samples](samples.png)

A classifier trained on scenes (seen through this autoencoder) says how often
{len(followed)} pictures, {followed["seed"].nunique()} of each kind in each colour, show what was
asked for. The last row is what it finds of the things in scenes that it has not learnt from; it
claims {reference["seen without being there"]:.0%} of the kinds that are not named there.

{reports.to_markdown((by_kind * 100).round(0).astype(int).astype(str) + " %")}

The autoencoder rebuilds {len(psnr)} test scenes with {mean:.2f} [{low:.2f}, {high:.2f}] dB.

## What it can't do

{LIMITS}
"""


def benchmark(task: Task) -> None:
    """The bundled model's card, in its own folder."""
    guidance = EmerDiffConfig.for_model(task.model).guidance
    known = captions.examples(task.model, TRAIN[500_000 : 500_000 + 60 * task.scenes])
    classifier = captions.train_classifier(known)
    unseen = captions.examples(task.model, WORLD_SEEDS[: task.scenes])
    write_card(
        folder(),
        task.model,
        guidance=guidance,
        followed=captions.follow(classifier, task.model, seeds=(0, 1), guidance=guidance),
        reference=captions.judge(classifier, unseen),
        psnr=autoencoder_psnr(task.model, QUALITY_SEEDS[: task.scenes]),
    )
