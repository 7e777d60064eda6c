"""Write the bundled model's card: how it was made, what it draws, what it cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
from einops import rearrange
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
- It has seen few pictures next to published models; the table above says what it draws of what it
  is asked for. README scores the segments that it gives."""

PROMPTS: Final = (
    "a red house",
    "a white house with a blue roof and a red door , green grass , a blue sky",
    "a green tree",
    "a tree with orange leaves on the left , a white house on the right",
    "a blue car",
    "a yellow car on the right , a grey road , green hills , a white sky with grey clouds",
    "a person in a red shirt",
    "two people , yellow grass , a blue pond , in the evening",
    "a brown horse",
    "a black and white cow on the left near , green grass , a brown fence",
    "a white dog",
    "a brown and white dog , a white house with a brown roof , a field , at sunrise",
    "a red boat",
    "a white boat with a yellow sail , blue water , a blue sky with white clouds",
    "an empty landscape , purple hills , green grass , at noon",
    "a house , a black sky , a yellow moon , dark green grass , at night",
)
"""Prompts: short ones as people write them, and long ones like captions."""

_COLUMNS: Final = 8

PARTS: Final = {"autoencoder": "autoencoder", "text_encoder": "text encoder", "denoiser": "UNet"}
"""Trained parts, in the order of their training."""


def autoencoder_psnr(model: StableDiffusion, seeds: range) -> NDArray[np.float64]:
    """Return how well the autoencoder rebuilds scenes, in decibels, one value for each scene."""
    values = []
    for seed in seeds:
        image = torch.from_numpy(scenes.scene(seed).image / 255.0).float().permute(2, 0, 1)[None]
        error = (model.decode(model.encode(image)).clamp(0, 1).cpu() - image).square().mean()
        values.append(-10 * float(error.log10()))
    return np.array(values)


def curves(record: dict[str, Any]) -> go.Figure:
    """Draw the loss over time of every part's training, from a model's ``training.json``."""
    figure = make_subplots(1, len(PARTS), subplot_titles=list(PARTS.values()))
    for column, part in enumerate(PARTS, start=1):
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
    return figure.update_layout(width=1200, height=360, template="plotly_white")


def sample_sheet(model: StableDiffusion, guidance: float) -> Image.Image:
    """Draw `PROMPTS` row by row, each with seeds 0 and 1, none of them chosen."""
    pictures = [
        captions.draw(model, prompt, seed=seed, guidance=guidance)[0]
        for prompt in PROMPTS
        for seed in (0, 1)
    ]
    sheet = rearrange(torch.stack(pictures), "(r n) c y x -> (r y) (n x) c", n=_COLUMNS)
    return Image.fromarray(sheet.numpy())


def write_card(
    folder: Path,
    model: StableDiffusion,
    *,
    guidance: float,
    followed: pd.DataFrame,
    reference: dict[str, float],
    psnr: NDArray[np.float64],
) -> None:
    """Write ``README.md``, ``curves.png`` and ``samples.webp`` into a model's folder.

    Args:
        folder: Folder with the model's ``training.json``.
        model: Model of that folder.
        guidance: Guidance of the samples.
        followed: Table from `captions.follow`.
        reference: Shares from `captions.judge`.
        psnr: Decibels from `autoencoder_psnr` on test scenes.
    """
    record = json.loads((folder / "training.json").read_text())
    reports.draw(folder / "curves.png", curves(record))
    sample_sheet(model, guidance).save(folder / "samples.webp", quality=90)
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
    runs = [
        ("autoencoder", record["autoencoder"]),
        ("text encoder", record["text_encoder"]),
        *(("UNet, an earlier run", part) for part in record.get("earlier", [])),
        ("UNet", record["denoiser"]),
    ]
    settings = record["settings"]
    minutes = sum(record[part]["seconds"] for part in PARTS) / 60
    prompts = "\n".join(f"{number}. {prompt}" for number, prompt in enumerate(PROMPTS, start=1))
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

The text encoder learns to tell the captions of encoded scenes from each other and from captions
with other colours, and is then left as it is. The UNet's weights are an average over its updates,
those with the lowest validation loss. Settings, curves and versions: `training.json`. Made by

    emerdiff-probe train --minutes {settings["minutes"]:g} --out FOLDER

which resumes where it was stopped. These weights were saved after {minutes:.0f} minutes of it.

![Loss by time](curves.png)

## What it draws

Unchosen: seeds 0 and 1 of each prompt, guidance {guidance:g}, {captions.STEPS} steps, row by row:

{prompts}

![Samples](samples.webp)

A classifier trained on scenes (seen through this autoencoder) says how often
{len(followed)} pictures, {followed["seed"].nunique()} of each kind in each colour, show what was
asked for. The last row is what it finds of the things in scenes that it has not learnt from; it
claims {reference["seen without being there"]:.0%} of the kinds that are not there.

{reports.to_markdown((by_kind * 100).round(0).astype(int).astype(str) + " %")}

The autoencoder rebuilds {len(psnr)} test scenes with {mean:.2f} [{low:.2f}, {high:.2f}] dB.

## What it can't do

{LIMITS}
"""


def benchmark(task: Task) -> None:
    """Write the bundled model's card into its own folder."""
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
