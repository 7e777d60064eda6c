"""Make the pictures of the README."""

from __future__ import annotations

from PIL import Image

from benchmarks.task import EXAMPLE_SEED, Task
from emerdiff_probe import views
from emerdiff_probe.emerdiff import segment
from emerdiff_probe.evaluation.journal import SEGMENTS
from emerdiff_probe.inputs import Photo
from emerdiff_probe.scenes import scene

__all__ = ["benchmark"]


def benchmark(task: Task) -> None:
    """Draw a scene, and its segmentation as `views.overview` shows it."""
    images = task.out.parent / "images"
    picture = scene(EXAMPLE_SEED).image
    Image.fromarray(picture).save(images / "example.png")
    result = segment(task.model, Photo(picture), masks=SEGMENTS)
    views.overview(result).write_image(images / "overview.png", scale=2)
