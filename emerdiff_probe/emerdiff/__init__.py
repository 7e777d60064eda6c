"""Implement EmerDiff: modulated denoising, and segmentation from its responses."""

from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.engines import ENGINES, Engine
from emerdiff_probe.emerdiff.literal import Modulated, modulate
from emerdiff_probe.emerdiff.masks import low_resolution_masks
from emerdiff_probe.emerdiff.responder import Responder
from emerdiff_probe.emerdiff.responses import respond
from emerdiff_probe.emerdiff.segmentation import segment

__all__ = [
    "ENGINES",
    "EmerDiffConfig",
    "Engine",
    "Modulated",
    "Responder",
    "low_resolution_masks",
    "modulate",
    "respond",
    "segment",
]
