"""Make runs, each one image in one model, and follow their trajectories."""

from emerdiff_probe.runs.inversion import Inversion, inversion_trajectory
from emerdiff_probe.runs.making import generate, invert
from emerdiff_probe.runs.preparation import Prepared, prepare
from emerdiff_probe.runs.run import Run
from emerdiff_probe.runs.sampling import Step
from emerdiff_probe.runs.settings import RunSettings
from emerdiff_probe.runs.trajectory import Trajectory, noise_trajectory, sample

__all__ = [
    "Inversion",
    "Prepared",
    "Run",
    "RunSettings",
    "Step",
    "Trajectory",
    "generate",
    "inversion_trajectory",
    "invert",
    "noise_trajectory",
    "prepare",
    "sample",
]
