"""Measure what a layer knows: principal colours, clusters, rank, linear probes, matches and more.

All functions take features of locations: arrays with y, x, channel, and perhaps sample and
timestep, as `features` reads them from a recording. `atlas` measures a whole recording in one call.
"""

from emerdiff_probe.layers.atlas import atlas
from emerdiff_probe.layers.cka import CKA, cka
from emerdiff_probe.layers.clusters import Normalisation, agreement, cluster, normalised
from emerdiff_probe.layers.components import (
    Components,
    effective_rank,
    joined,
    principal_colours,
    principal_components,
)
from emerdiff_probe.layers.correspondence import PCK, average_draws, match_points, mutual_matches
from emerdiff_probe.layers.dictionary import Dictionary, DictionaryFit
from emerdiff_probe.layers.explained import SHARES, explained
from emerdiff_probe.layers.features import features, labels_on, resized
from emerdiff_probe.layers.linear_probes import Classifier, ProbeScores, linear_probe
from emerdiff_probe.layers.measures import (
    MEASURES,
    CKABetween,
    ClustersAndLabels,
    ClustersBetween,
    EffectiveRank,
    Explained,
    LayerMeasure,
    LinearProbe,
    Massive,
    Measure,
    PairMeasure,
    Principal,
    Similarity,
    Surroundings,
)
from emerdiff_probe.layers.probabilities import attention_probabilities
from emerdiff_probe.layers.samples import Samples, samples
from emerdiff_probe.layers.similarity import cosine_similarity, similarity_to_point

__all__ = [
    "CKA",
    "CKABetween",
    "Classifier",
    "ClustersAndLabels",
    "ClustersBetween",
    "Components",
    "Dictionary",
    "DictionaryFit",
    "EffectiveRank",
    "Explained",
    "LayerMeasure",
    "LinearProbe",
    "MEASURES",
    "Massive",
    "Measure",
    "Normalisation",
    "PCK",
    "PairMeasure",
    "Principal",
    "ProbeScores",
    "SHARES",
    "Samples",
    "Similarity",
    "Surroundings",
    "agreement",
    "atlas",
    "attention_probabilities",
    "average_draws",
    "cka",
    "cluster",
    "cosine_similarity",
    "effective_rank",
    "explained",
    "features",
    "joined",
    "labels_on",
    "linear_probe",
    "match_points",
    "mutual_matches",
    "normalised",
    "principal_colours",
    "principal_components",
    "resized",
    "samples",
    "similarity_to_point",
]
