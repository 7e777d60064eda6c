"""Score segmentations against ground truth; each number carries its protocol's name.

Labels and truth are integer arrays of the same size: NumPy arrays (y, x) or DataArrays.
"""

from emerdiff_probe.metrics.boundaries import boundary_f, boundary_iou
from emerdiff_probe.metrics.confusion import Confusion
from emerdiff_probe.metrics.edges import EdgeCounts, edge_counts, edges_of
from emerdiff_probe.metrics.miou import (
    ClassMeans,
    class_mean_miou,
    dataset_hungarian_classes,
    dataset_hungarian_miou,
    image_hungarian_classes,
    image_hungarian_miou,
    majority_class_miou,
    majority_classes,
    miou,
    pixel_accuracy,
    present_miou,
)
from emerdiff_probe.metrics.partitions import (
    achievable_accuracy,
    adjusted_mutual_information,
    adjusted_rand,
    foreground_adjusted_rand,
    mean_best_overlap,
    normalised_mutual_information,
)
from emerdiff_probe.metrics.scores import Labels, Score

__all__ = [
    "ClassMeans",
    "Confusion",
    "EdgeCounts",
    "Labels",
    "Score",
    "achievable_accuracy",
    "adjusted_mutual_information",
    "adjusted_rand",
    "boundary_f",
    "boundary_iou",
    "class_mean_miou",
    "dataset_hungarian_classes",
    "dataset_hungarian_miou",
    "edge_counts",
    "edges_of",
    "foreground_adjusted_rand",
    "image_hungarian_classes",
    "image_hungarian_miou",
    "majority_class_miou",
    "majority_classes",
    "mean_best_overlap",
    "miou",
    "normalised_mutual_information",
    "pixel_accuracy",
    "present_miou",
]
