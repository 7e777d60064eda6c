"""Measure how hard scenes are: scores of colour, texture, position and an untrained network."""

from __future__ import annotations

from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from benchmarks import charts
from benchmarks.task import WORLD_SEEDS, Task
from emerdiff_probe.emerdiff import EmerDiffConfig
from emerdiff_probe.emerdiff.asking import made_for
from emerdiff_probe.evaluation import reports, rivals
from emerdiff_probe.evaluation.journal import SEGMENTS, Segmentor, run
from emerdiff_probe.evaluation.scoring import Segments, summary
from emerdiff_probe.inputs import Photo
from emerdiff_probe.layers import cluster, normalised
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.scenes import SIZE, Scene, scene
from emerdiff_probe.schema import SOURCE_X, SOURCE_Y, pixel_centres
from emerdiff_probe.segments import bilinear_features, bilinear_masks, embeddings, one_hot

__all__ = ["benchmark", "world"]

GRID: Final = 16
"""Number of cells along a side of the grid that the method reads features on."""

CELL: Final = SIZE // GRID
"""Number of pixels along a side of such a cell."""


def world(model: StableDiffusion) -> Segmentor:
    """Return how far colour, texture, position, superpixels and an untrained network get.

    Colour and position, and superpixels, are each tried with several weights of position, so that
    the best of them is known. What is named "16 x 16" sees the picture only through the cells of
    that grid, as the model's features do, and its masks are made bilinear. The features are those
    of `EmerDiffConfig.playground()`, interpolated bilinearly: of the model, and of the same
    network before any training.
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
        found["k-means, texture"] = Segments(rivals.texture(subject.image, SEGMENTS))
        found.update(_on_the_grid(subject))
        for name, network in networks.items():
            found[f"bilinear features, {name}"] = _bilinear_features(network, subject, config)
        return found

    return segmentor


def _on_the_grid(subject: Scene) -> dict[str, Segments]:
    """Cluster the cells of the features' grid, and take their most frequent true classes."""
    cells = (GRID, CELL, GRID, CELL)

    def averaged(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values.reshape(*cells, -1).mean((1, 3))

    rows, columns = np.mgrid[:GRID, :GRID]
    position = np.stack([rows, columns], axis=-1) / GRID
    colour = averaged(subject.image / 255)
    texture = averaged(rivals.local_statistics(subject.image, CELL))
    each = {
        "position": position,
        "mean colour": colour,
        "mean colour and position": np.concatenate([colour, position / 2], axis=-1),
        "texture": texture,
    }
    labels = {
        name: KMeans(SEGMENTS, n_init=3, random_state=0).fit_predict(
            values.reshape(GRID * GRID, -1)
        )
        for name, values in each.items()
    }
    parts = subject.parts.reshape(cells).transpose(0, 2, 1, 3).reshape(GRID * GRID, -1)
    classes = np.array([np.bincount(cell).argmax() for cell in parts])
    labels["true majority"] = np.unique(classes, return_inverse=True)[1]
    y, x = (pixel_centres(size, size) for size in subject.parts.shape)
    centres = pixel_centres(GRID, SIZE)
    return {
        f"16 x 16, {name}": Segments(
            bilinear_masks(
                one_hot(
                    xr.DataArray(
                        values.reshape(GRID, GRID),
                        dims=(SOURCE_Y, SOURCE_X),
                        coords={SOURCE_Y: centres, SOURCE_X: centres},
                    ),
                    int(values.max()) + 1,
                ),
                y,
                x,
            ).values
        )
        for name, values in labels.items()
    }


def _bilinear_features(model: StableDiffusion, subject: Scene, config: EmerDiffConfig) -> Segments:
    run, config = made_for(model, Photo(subject.image), config)
    features = run.features(config.feature_site, config.feature_timestep)
    features = normalised(features, config.normalise)
    low_res = cluster(features, SEGMENTS, restarts=config.restarts, seed=config.seed)
    centroids = embeddings(features, one_hot(low_res, SEGMENTS))
    y, x = (pixel_centres(size, size) for size in subject.parts.shape)
    return Segments(bilinear_features(features, centroids, y, x).values, centroids)


def benchmark(task: Task) -> None:
    """Measure how hard the scenes are."""
    seeds = WORLD_SEEDS[: task.scenes]
    both = [(seed, subset) for subset in (False, True) for seed in seeds]
    scores = run(world(task.model), both, task.journal("scenes"), processes=task.processes)
    plain, dissociation = (scores[scores["dissociation"] == subset] for subset in (False, True))
    text = f"""# What colour, texture, position and an untrained network make of the scenes

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
