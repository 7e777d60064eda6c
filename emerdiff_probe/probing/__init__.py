"""Looking into a running model: taps, sampling and inversion."""

from emerdiff_probe.probing.inversion import Inversion, Trajectory, invert
from emerdiff_probe.probing.sampling import Step, denoise, sample
from emerdiff_probe.probing.taps import Capture, attentions, capture, hooked, processed

__all__ = [
    "Capture",
    "Inversion",
    "Step",
    "Trajectory",
    "attentions",
    "capture",
    "denoise",
    "hooked",
    "invert",
    "processed",
    "sample",
]
