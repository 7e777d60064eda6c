"""How hard the scenes are: what colour, position and a network without training make of them."""

from __future__ import annotations

from benchmarks import charts
from benchmarks.task import WORLD_SEEDS, Task
from emerdiff_probe.emerdiff import EmerDiffConfig, observe
from emerdiff_probe.evaluation import reports, rivals
from emerdiff_probe.evaluation.journal import SEGMENTS, Segmentor, run
from emerdiff_probe.evaluation.scoring import Segments, summary
from emerdiff_probe.inputs import Photo
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.scenes import Scene, scene
from emerdiff_probe.schema import pixel_centres
from emerdiff_probe.segments import bilinear_features, cluster, embeddings, normalised, one_hot

__all__ = ["benchmark", "world"]


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

    def segmentor(subject: Scene) -> dict[str, Segments]:
        found = {}
        for weight in (0.0, 0.5, 1.0, 2.0):
            found[f"k-means, colour + {weight:g} position"] = Segments(
                rivals.colour_and_position(subject.image, SEGMENTS, weight=weight)
            )
        for compactness in (3.0, 10.0, 30.0):
            found[f"SLIC, compactness {compactness:g}"] = Segments(
                rivals.superpixels(subject.image, SEGMENTS, compactness=compactness)
            )
        for name, network in networks.items():
            found[f"bilinear features, {name}"] = _bilinear_features(network, subject, config)
        return found

    return segmentor


def _bilinear_features(model: StableDiffusion, subject: Scene, config: EmerDiffConfig) -> Segments:
    features = observe(model, Photo(subject.image), config).features
    features = normalised(features, config.normalise)
    low_res = cluster(features, SEGMENTS, restarts=config.restarts, seed=config.seed)
    centroids = embeddings(features, one_hot(low_res, SEGMENTS))
    y, x = (pixel_centres(size, size) for size in subject.parts.shape)
    return Segments(bilinear_features(features, centroids, y, x).values, centroids)


def benchmark(task: Task) -> None:
    """How hard the scenes are."""
    seeds = WORLD_SEEDS[: task.scenes]
    both = [(seed, subset) for subset in (False, True) for seed in seeds]
    scores = run(world(task.model), both, task.journal("scenes"), processes=task.processes)
    plain, dissociation = (scores[scores["dissociation"] == subset] for subset in (False, True))
    text = f"""# What colour, position and an untrained network make of the scenes

Validation seeds {seeds[0]} to {seeds[-1]}, {SEGMENTS} segments for every method;
means over scenes with 95 % bootstrap intervals. Model weights {task.model.weights}.
Made by `make benchmark-scenes`.

{reports.to_markdown(summary(plain))}

![The table as a picture](scenes.png)

The first 24 of the scenes, and the labels of their parts:

![24 scenes and their labels](scenes-examples.png)

## The dissociation subset

{reports.to_markdown(summary(dissociation))}

![24 scenes of the dissociation subset](scenes-dissociation.png)
"""
    figure = charts.chart(plain, f"{len(seeds)} validation scenes, {SEGMENTS} segments")
    reports.write(task.out, "scenes", text, scores, figure)
    for name, subset in (("examples", False), ("dissociation", True)):
        pictures = [scene(seed, dissociation=subset) for seed in seeds[:24]]
        charts.contact_sheet(pictures).save(task.out / f"scenes-{name}.png")
