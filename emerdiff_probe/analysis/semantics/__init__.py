"""What a layer knows: its principal colours, clusters, rank, what can be read from it, and where.

Everything takes features of places: arrays with y, x, channel, and perhaps sample and timestep, as
`features` takes them out of a recording. `atlas` measures a whole recording in one call.
"""

from emerdiff_probe.analysis.semantics.atlas import atlas
from emerdiff_probe.analysis.semantics.cka import CKA, cka
from emerdiff_probe.analysis.semantics.clusters import agreement, cluster_layer
from emerdiff_probe.analysis.semantics.components import (
    Components,
    effective_rank,
    joined,
    principal_colours,
    principal_components,
)
from emerdiff_probe.analysis.semantics.explained import SHARES, explained
from emerdiff_probe.analysis.semantics.layers import features, labels_on, resized
from emerdiff_probe.analysis.semantics.measures import (
    MEASURES,
    CKABetween,
    ClustersAndLabels,
    ClustersBetween,
    EffectiveRank,
    Explained,
    LayerMeasure,
    LinearProbe,
    Measure,
    PairMeasure,
    Principal,
    Similarity,
    Surroundings,
)
from emerdiff_probe.analysis.semantics.probes import Classifier, ProbeScores, linear_probe
from emerdiff_probe.analysis.semantics.similarity import cosine_similarity, similarity_to_point

__all__ = [
    "CKA",
    "MEASURES",
    "SHARES",
    "CKABetween",
    "Classifier",
    "ClustersAndLabels",
    "ClustersBetween",
    "Components",
    "EffectiveRank",
    "Explained",
    "LayerMeasure",
    "LinearProbe",
    "Measure",
    "PairMeasure",
    "Principal",
    "ProbeScores",
    "Similarity",
    "Surroundings",
    "agreement",
    "atlas",
    "cka",
    "cluster_layer",
    "cosine_similarity",
    "effective_rank",
    "explained",
    "features",
    "joined",
    "labels_on",
    "linear_probe",
    "principal_colours",
    "principal_components",
    "resized",
    "similarity_to_point",
]
