"""Labelled arrays in, labelled arrays out: what is computed from recordings, without a model."""

from emerdiff_probe.analysis.assignment import Balance, assign, balanced, smooth
from emerdiff_probe.analysis.attention import attention_probabilities
from emerdiff_probe.analysis.clustering import (
    Normalisation,
    as_masks,
    cluster,
    embeddings,
    normalised,
    one_hot,
)
from emerdiff_probe.analysis.metrics import (
    Labels,
    adjusted_rand,
    boundary_f,
    class_mean_miou,
    image_hungarian_miou,
    majority_class_miou,
    majority_classes,
)
from emerdiff_probe.analysis.upsampling import (
    bilinear_features,
    bilinear_masks,
    guided_filter,
    nearest,
)

__all__ = [
    "Balance",
    "Labels",
    "Normalisation",
    "adjusted_rand",
    "as_masks",
    "assign",
    "attention_probabilities",
    "balanced",
    "bilinear_features",
    "bilinear_masks",
    "boundary_f",
    "class_mean_miou",
    "cluster",
    "embeddings",
    "guided_filter",
    "image_hungarian_miou",
    "majority_class_miou",
    "majority_classes",
    "nearest",
    "normalised",
    "one_hot",
    "smooth",
]
