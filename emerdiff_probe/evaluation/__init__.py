"""Score models and methods on many images with known truth: data sets, protocols, scores."""

from emerdiff_probe.evaluation.datasets import (
    IGNORE,
    Dataset,
    Example,
    ade20k,
    coco_stuff,
    plain_folder,
    scene_dataset,
)
from emerdiff_probe.evaluation.drawings import worst_and_best
from emerdiff_probe.evaluation.evaluate import PROTOCOLS, Evaluation, Method, drawing, evaluate
from emerdiff_probe.evaluation.scoring import METRICS, Segments, paired, score, summary, verdicts

__all__ = [
    "IGNORE",
    "METRICS",
    "PROTOCOLS",
    "Dataset",
    "Evaluation",
    "Example",
    "Method",
    "Segments",
    "ade20k",
    "coco_stuff",
    "drawing",
    "evaluate",
    "paired",
    "plain_folder",
    "scene_dataset",
    "score",
    "summary",
    "verdicts",
    "worst_and_best",
]
