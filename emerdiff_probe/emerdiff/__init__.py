"""The method: modulated denoising, and segmentation from its responses."""

from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.engines import ENGINES, Engine
from emerdiff_probe.emerdiff.features import Observation, observe, read_features
from emerdiff_probe.emerdiff.literal import Modulated, modulate
from emerdiff_probe.emerdiff.responder import Responder
from emerdiff_probe.emerdiff.responses import respond
from emerdiff_probe.emerdiff.segmentation import segment
from emerdiff_probe.emerdiff.sensitivities import sensitivity
from emerdiff_probe.emerdiff.sweeps import sweep

__all__ = [
    "ENGINES",
    "EmerDiffConfig",
    "Engine",
    "Modulated",
    "Observation",
    "Responder",
    "modulate",
    "observe",
    "read_features",
    "respond",
    "segment",
    "sensitivity",
    "sweep",
]
