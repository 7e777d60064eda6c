"""Make the pictures of the README."""

from __future__ import annotations

import xarray as xr
from PIL import Image

from benchmarks.task import EXAMPLE_SEED, Task
from emerdiff_probe import views
from emerdiff_probe.evaluation.journal import SEGMENTS
from emerdiff_probe.inputs import Photo
from emerdiff_probe.runs import invert
from emerdiff_probe.scenes import scene

__all__ = ["benchmark"]


def benchmark(task: Task) -> None:
    """Draw a scene, its layers by timesteps, and its segments, as the README's ten lines do."""
    images = task.out.parent / "images"
    picture = scene(EXAMPLE_SEED).image
    Image.fromarray(picture).save(images / "example.png")
    run = invert(task.model, Photo(picture))
    recording = run.record("*attn1:query")
    assert isinstance(recording, xr.DataTree)  # no plan was asked for
    layers = views.layers(recording, "up_blocks.1.*:query, up_blocks.2.*:query")
    layers.write_image(images / "layers.png", scale=2)
    views.overview(run.segment(SEGMENTS)).write_image(images / "overview.png", scale=2)
