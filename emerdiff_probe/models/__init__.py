"""Latent diffusion models as the rest of the package sees them."""

from emerdiff_probe.models.denoiser import Condition, Denoiser
from emerdiff_probe.models.loading import Model, as_model, load
from emerdiff_probe.models.schedule import Schedule
from emerdiff_probe.models.stable_diffusion import StableDiffusion
from emerdiff_probe.models.transformer import Transformer

__all__ = [
    "Condition",
    "Denoiser",
    "Model",
    "Schedule",
    "StableDiffusion",
    "Transformer",
    "as_model",
    "load",
]
