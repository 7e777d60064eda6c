"""Change what a model computes while it runs: tensors at sites, and attention."""

from emerdiff_probe.interventions.edits import Ablate, Noise, Replace, Scale, Shift, Steer
from emerdiff_probe.interventions.features import EditFeature
from emerdiff_probe.interventions.injection import (
    InjectAttention,
    attention_kept,
    products_captured,
)
from emerdiff_probe.interventions.intervening import Intervention, acting_at, intervene, intervened
from emerdiff_probe.interventions.site_edits import SiteEdit

__all__ = [
    "Ablate",
    "EditFeature",
    "InjectAttention",
    "Intervention",
    "Noise",
    "Replace",
    "Scale",
    "Shift",
    "SiteEdit",
    "Steer",
    "acting_at",
    "attention_kept",
    "intervene",
    "intervened",
    "products_captured",
]
