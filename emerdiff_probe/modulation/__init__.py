"""Modulated denoising: interventions, engines, and segmentation from their responses."""

from emerdiff_probe.modulation.config import EmerDiffConfig
from emerdiff_probe.modulation.interventions import injected, products_captured, shifted
from emerdiff_probe.modulation.literal import Modulated, modulate
from emerdiff_probe.modulation.observation import Observation, observe, read_features
from emerdiff_probe.modulation.segmentation import ENGINES, segment

__all__ = [
    "ENGINES",
    "EmerDiffConfig",
    "Modulated",
    "Observation",
    "injected",
    "modulate",
    "observe",
    "products_captured",
    "read_features",
    "segment",
    "shifted",
]
