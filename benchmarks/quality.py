"""Compare EmerDiff with baselines on the same masks, nulls and rivals; measure its stability."""

from __future__ import annotations

import dataclasses
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from benchmarks import charts
from benchmarks.task import QUALITY_SEEDS, Task
from emerdiff_probe.emerdiff import EmerDiffConfig, segment
from emerdiff_probe.evaluation import reports, rivals
from emerdiff_probe.evaluation.journal import SEGMENTS, Segmentor, run
from emerdiff_probe.evaluation.methods import METHOD, from_the_same_masks
from emerdiff_probe.evaluation.scoring import Segments, paired, summary, verdicts
from emerdiff_probe.inputs import Photo
from emerdiff_probe.layers import cluster
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.scenes import Scene, scene
from emerdiff_probe.segments import assign, balanced

__all__ = [
    "benchmark",
    "quality",
    "reassigned",
    "segmented",
    "stability",
    "true_masks",
]

SHOWN: Final = (
    METHOD,
    "without injection",
    "nearest",
    "bilinear masks",
    "guided filter",
    "untrained UNet, trained masks",
    "true masks",
    "k-means, colour + position",
    "k-means, local texture",
)
"""Methods in the figure of examples."""


def quality(model: StableDiffusion, config: EmerDiffConfig) -> Segmentor:
    """Return the method, its baselines on the same low-resolution masks, its nulls, and its rivals.

    - "without injection", and the baselines nearest, bilinear masks, bilinear features, guided
      filter, which use no modulation;
    - nulls: an untrained and a weight-shuffled UNet with the trained model's masks, and a shift
      of the latents before the decoder, with no denoising at all;
    - "true masks": the exact parts averaged down to latent locations in place of clusters, which
      tests the correspondence apart from the clustering (as many segments as parts);
    - rivals in the same model: DiffSeg, DiffCut and TRACE, which find their number of segments
      themselves, and Falcon;
    - rivals that see the picture alone: SLIC, and k-means on colour and position, and on local
      texture.
    """
    networks = {"untrained": rivals.untrained(model), "shuffled": rivals.shuffled(model)}

    def segmentor(subject: Scene) -> dict[str, Segments]:
        result = segmented(model, subject, SEGMENTS, config)
        exact = segmented(model, subject, true_masks(subject), config)
        masks, embeddings = result["masks"].values, result["embeddings"]
        again = {
            METHOD: result,
            "without injection": segmented(model, subject, masks, config.replace(injection=False)),
        } | {
            f"{name} UNet, trained masks": segmented(network, subject, masks, config)
            for name, network in networks.items()
        }
        # Embeddings are those of the masks, whichever network moved the pixels.
        found = {name: Segments(ds["labels"].values, embeddings) for name, ds in again.items()}
        found |= from_the_same_masks(result, config)
        alone = rivals.decoder_alone(model, subject.image, result["masks"])
        found["shift before the decoder"] = _assigned(alone, result, config)
        found["true masks"] = reassigned(exact, config)
        found |= {
            f"true masks, {name}": each
            for name, each in from_the_same_masks(exact, config).items()
            if name in ("bilinear masks", "guided filter")
        }
        found |= rivals.other_methods(model, subject.image, SEGMENTS, config)
        found["SLIC"] = Segments(rivals.superpixels(subject.image, SEGMENTS, compactness=30))
        found["k-means, colour + position"] = Segments(
            rivals.colour_and_position(subject.image, SEGMENTS, weight=0.5)
        )
        found["k-means, local texture"] = Segments(rivals.texture(subject.image, SEGMENTS))
        return found

    return segmentor


def stability(model: StableDiffusion, config: EmerDiffConfig, seeds: range) -> Segmentor:
    """Return the method with other seeds: of k-means only, and of the inversion's noise only."""

    def segmentor(subject: Scene) -> dict[str, Segments]:
        result = segmented(model, subject, SEGMENTS, config)
        found = {METHOD: reassigned(result, config)}
        for seed in seeds:
            low_res = cluster(
                result["features"],
                SEGMENTS,
                normalise=config.normalise,
                restarts=config.restarts,
                seed=seed,
            )
            clustered = segmented(model, subject, low_res.values, config)
            found[f"k-means seed {seed}"] = reassigned(clustered, config)
            inverted = segmented(model, subject, result["masks"].values, config.replace(seed=seed))
            found[f"inversion seed {seed}"] = reassigned(inverted, config)
        return found

    return segmentor


def segmented(
    model: StableDiffusion, subject: Scene, masks: int | ArrayLike, config: EmerDiffConfig
) -> xr.Dataset:
    """Segment a scene, by the faster engine where the result is the same."""
    return segment(
        model,
        Photo(subject.image),
        masks=masks,
        engine="shared" if config.injection else "literal",
        config=config,
        progress=False,
    )


def true_masks(subject: Scene) -> NDArray[np.integer]:
    """Return the exact parts of a scene (y, x), numbered from 0 without a gap."""
    return np.unique(subject.parts, return_inverse=True)[1].reshape(subject.parts.shape)


def reassigned(result: xr.Dataset, config: EmerDiffConfig) -> Segments:
    """Assign the pixels of a segmentation to its masks again, balanced as ``config`` says."""
    return _assigned(result["difference"], result, config)


def _assigned(difference: xr.DataArray, result: xr.Dataset, config: EmerDiffConfig) -> Segments:
    fair = balanced(difference, result["masks"], config.balance, config.elsewhere)
    labels = assign(fair, result["y"], result["x"])["labels"]
    return Segments(labels.values, result["embeddings"])


def benchmark(task: Task) -> None:
    """Compare the method with baselines, nulls and rivals, on test scenes."""
    config = EmerDiffConfig.for_model(task.model)
    seeds = QUALITY_SEEDS[: task.scenes]
    fewer = seeds[: max(task.scenes * 2 // 5, 1)]
    about = dataclasses.asdict(config)
    both = [(seed, False) for seed in seeds] + [(seed, True) for seed in fewer]
    segmentor = quality(task.model, config)
    scores = run(segmentor, both, task.journal("quality", config=about), processes=task.processes)
    seeded = run(
        stability(task.model, config, range(1, 4)),
        [(seed, False) for seed in seeds[: max(task.scenes // 10, 1)]],
        task.journal("stability", config=about),
        processes=task.processes,
    )
    plain, dissociation = (scores[scores["dissociation"] == subset] for subset in (False, True))
    text = f"""# EmerDiff against baselines, nulls and rivals

Test seeds {seeds[0]} to {seeds[-1]}, {SEGMENTS} segments for every method (with true masks: as
many as the scene has parts; DiffSeg, DiffCut and TRACE find their number themselves); means over
scenes with 95 % bootstrap intervals. Majority-class mIoU gives every segment the class of most of
its pixels, class-mean mIoU the class whose mean embedding is nearest, in each picture: both are
oracles, comparable at equal numbers of segments only. Model weights {task.model.weights}. Made by
`make benchmark-quality`.

{reports.to_markdown(summary(plain))}

![The table as a picture](quality.png)

## Scene by scene

{reports.to_markdown(paired(plain, METHOD))}

What of these differences is certain, in words (95 % intervals that exclude zero):

{reports.bullets(verdicts(plain, METHOD))}

The first four scenes and the first of the dissociation subset, unchosen. A segment has the colour
of the part that most of its pixels are of:

![What methods make of five scenes](quality-examples.png)

## The dissociation subset ({len(fewer)} scenes)

All surfaces of a scene share two colours, so colour says little of what is what.

{reports.to_markdown(summary(dissociation))}

{reports.to_markdown(paired(dissociation, METHOD))}

{reports.bullets(verdicts(dissociation, METHOD))}

## Other seeds ({seeded["seed"].nunique()} scenes)

{reports.to_markdown(summary(seeded))}
"""
    figure = charts.chart(plain, f"{len(seeds)} test scenes, {SEGMENTS} segments")
    reports.write(task.out, "quality", text, scores, figure)
    subjects = [scene(seed) for seed in seeds[:4]] + [scene(seeds[0], dissociation=True)]
    every = [(subject, segmentor(subject)) for subject in subjects]
    shown = [(subject, {name: found[name] for name in SHOWN}) for subject, found in every]
    reports.draw(task.out / "quality-examples.png", charts.gallery(shown))
