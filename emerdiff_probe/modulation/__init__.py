"""Modulated denoising: interventions, engines, and segmentation from their responses."""

from emerdiff_probe.modulation.adjoint import sensitivity
from emerdiff_probe.modulation.config import EmerDiffConfig
from emerdiff_probe.modulation.engines import ENGINES, Engine
from emerdiff_probe.modulation.injection import (
    InjectAttention,
    attention_kept,
    products_captured,
)
from emerdiff_probe.modulation.interventions import (
    Ablate,
    Intervention,
    Noise,
    Replace,
    Scale,
    Shift,
    SiteEdit,
    Steer,
    intervene,
)
from emerdiff_probe.modulation.literal import Modulated, modulate
from emerdiff_probe.modulation.live import Responder
from emerdiff_probe.modulation.observation import Observation, observe, read_features
from emerdiff_probe.modulation.responses import respond
from emerdiff_probe.modulation.segmentation import segment
from emerdiff_probe.modulation.sweeps import sweep

__all__ = [
    "ENGINES",
    "Ablate",
    "EmerDiffConfig",
    "Engine",
    "InjectAttention",
    "Intervention",
    "Modulated",
    "Noise",
    "Observation",
    "Replace",
    "Responder",
    "Scale",
    "Shift",
    "SiteEdit",
    "Steer",
    "attention_kept",
    "intervene",
    "modulate",
    "observe",
    "products_captured",
    "read_features",
    "respond",
    "segment",
    "sensitivity",
    "sweep",
]
