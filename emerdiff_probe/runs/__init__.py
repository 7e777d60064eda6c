"""One picture in one model: sampling, inversion, and the trajectories they give."""

from emerdiff_probe.runs.inversion import Inversion, invert, through
from emerdiff_probe.runs.sampling import Step, denoise
from emerdiff_probe.runs.trajectory import Trajectory, prompted, sample

__all__ = [
    "Inversion",
    "Step",
    "Trajectory",
    "denoise",
    "invert",
    "prompted",
    "sample",
    "through",
]
