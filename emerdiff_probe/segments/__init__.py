"""Make segments from features and difference maps, work with them, and run rival methods."""

from emerdiff_probe.segments.assignment import Balance, assign, balanced, smooth
from emerdiff_probe.segments.diffcut import DiffCutConfig, diffcut
from emerdiff_probe.segments.diffseg import (
    DiffSegConfig,
    aggregate_attention,
    diffseg,
    diffseg_recorded,
    merge_attention,
)
from emerdiff_probe.segments.falcon import FalconConfig, falcon
from emerdiff_probe.segments.masks import as_masks, embeddings, one_hot
from emerdiff_probe.segments.merging import MergeBy, dendrogram, merge, normalised_cut, silhouettes
from emerdiff_probe.segments.trace import (
    attention_change,
    boundary_divergence,
    edge_components,
    trace_recorded,
)
from emerdiff_probe.segments.upsampling import (
    bilinear_features,
    bilinear_masks,
    guided_filter,
    nearest,
)
from emerdiff_probe.segments.vocabulary import (
    PixelEmbedder,
    mask_pool,
    name_by_attention,
    name_segments,
)

__all__ = [
    "Balance",
    "DiffCutConfig",
    "DiffSegConfig",
    "FalconConfig",
    "MergeBy",
    "PixelEmbedder",
    "aggregate_attention",
    "as_masks",
    "assign",
    "attention_change",
    "balanced",
    "bilinear_features",
    "bilinear_masks",
    "boundary_divergence",
    "dendrogram",
    "diffcut",
    "diffseg",
    "diffseg_recorded",
    "edge_components",
    "embeddings",
    "falcon",
    "guided_filter",
    "mask_pool",
    "merge",
    "merge_attention",
    "name_by_attention",
    "name_segments",
    "nearest",
    "normalised_cut",
    "one_hot",
    "silhouettes",
    "smooth",
    "trace_recorded",
]
