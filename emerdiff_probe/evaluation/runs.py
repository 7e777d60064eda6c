"""Benchmarks over many scenes: each is a generator of scores, resumed scene by scene."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from emerdiff_probe import analysis
from emerdiff_probe.errors import StoreError
from emerdiff_probe.evaluation import rivals
from emerdiff_probe.evaluation.methods import from_the_same_masks
from emerdiff_probe.evaluation.scoring import score
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.modulation import EmerDiffConfig, observe, segment
from emerdiff_probe.scenes import Scene, scene
from emerdiff_probe.schema import pixel_centres
from emerdiff_probe.sources import Photo

__all__ = ["METHOD", "SEGMENTS", "Segmentor", "quality", "run", "world"]

Labels = NDArray[np.int16]
Segmentor = Callable[[Scene], dict[str, Labels]]
"""Segments a scene in several ways: labels (128, 128) by the method's name."""

SEGMENTS: Final = 12
"""Every method gets this many segments, since the scores rise with their number."""

METHOD: Final = "EmerDiff"


def run(
    segmentor: Segmentor,
    scenes: list[tuple[int, bool]],
    kept: Path,
    identity: dict[str, object],
) -> pd.DataFrame:
    """Scores a segmentor on scenes, keeping each scene's scores at once, and resumes.

    Args:
        segmentor: What to score.
        scenes: Seeds, and whether it is the dissociation subset's scene.
        kept: A file of JSON lines; scenes that it holds are not computed again.
        identity: What the scores depend on; scores of another identity are refused.

    Returns:
        A row for each scene and method: ``seed``, ``dissociation``, ``method`` and the metrics.

    Raises:
        StoreError: The file holds scores of other settings.
    """
    wanted_head = json.dumps(identity)
    kept.parent.mkdir(parents=True, exist_ok=True)
    if not kept.exists():
        kept.write_text(f"{wanted_head}\n")
    # A line that was cut off in the writing has no end; it is computed again.
    head, *lines = kept.read_text().rpartition("\n")[0].splitlines()
    if head != wanted_head:
        raise StoreError(
            f"'{kept}' holds scores of {head}, not of {wanted_head}; delete it to begin anew"
        )
    kept.write_text("".join(f"{line}\n" for line in [head, *lines]))
    rows = [row for line in lines for row in json.loads(line)]
    done = {(row["seed"], row["dissociation"]) for row in rows}
    left = [each for each in scenes if each not in done]
    with kept.open("a") as file:
        for seed, dissociation in tqdm(left, desc="scenes", unit="scene"):
            subject = scene(seed, dissociation=dissociation)
            new = [
                {"seed": seed, "dissociation": dissociation, "method": method}
                | score(labels, subject)
                for method, labels in segmentor(subject).items()
            ]
            file.write(json.dumps(new) + "\n")
            file.flush()
            rows.extend(new)
    wanted = set(scenes)
    return pd.DataFrame([row for row in rows if (row["seed"], row["dissociation"]) in wanted])


def world(model: StableDiffusion) -> Segmentor:
    """How far colour, position, superpixels and an untrained network get.

    Colour and position, and superpixels, are each tried with several weights of position, so that
    the best of them is known. The features are those of `EmerDiffConfig.playground()`,
    interpolated bilinearly: of the model, and of the same network before any training.
    """
    config = EmerDiffConfig.playground()
    # Nothing is modulated here: the trajectory need not begin before the features' timestep.
    config = config.replace(modulation_timestep=config.feature_timestep)
    networks = {"trained": model, "untrained": rivals.untrained(model)}

    def segmentor(subject: Scene) -> dict[str, Labels]:
        labels = {}
        for weight in (0.0, 0.5, 1.0, 2.0):
            labels[f"k-means, colour + {weight:g} position"] = rivals.colour_and_position(
                subject.image, SEGMENTS, weight=weight
            )
        for compactness in (3.0, 10.0, 30.0):
            labels[f"SLIC, compactness {compactness:g}"] = rivals.superpixels(
                subject.image, SEGMENTS, compactness=compactness
            )
        for name, network in networks.items():
            labels[f"bilinear features, {name}"] = _bilinear_features(network, subject, config)
        return labels

    return segmentor


def _bilinear_features(model: StableDiffusion, subject: Scene, config: EmerDiffConfig) -> Labels:
    features = observe(model, Photo(subject.image), config).features
    features = analysis.normalised(features, config.normalise)
    low_res = analysis.cluster(features, SEGMENTS, restarts=config.restarts, seed=config.seed)
    centroids = analysis.embeddings(features, analysis.one_hot(low_res, SEGMENTS))
    y, x = (pixel_centres(size, size) for size in subject.parts.shape)
    return analysis.bilinear_features(features, centroids, y, x).values


def quality(model: StableDiffusion, config: EmerDiffConfig) -> Segmentor:
    """The method, and what others make of the same low-resolution masks or of the picture alone."""

    def segmentor(subject: Scene) -> dict[str, Labels]:
        photo = Photo(subject.image)
        result = segment(model, photo, masks=SEGMENTS, config=config, progress=False)
        without = segment(
            model,
            photo,
            masks=result["masks"].values,
            config=config.replace(injection=False),
            progress=False,
        )
        return {
            METHOD: result["labels"].values,
            f"{METHOD} without injection": without["labels"].values,
            **from_the_same_masks(result, config.normalise),
            "k-means, colour + position": rivals.colour_and_position(
                subject.image, SEGMENTS, weight=0.5
            ),
        }

    return segmentor
