"""Looking into a running model: taps, sampling and inversion."""

from emerdiff_probe.probing import reduce
from emerdiff_probe.probing.inversion import Inversion, invert, through
from emerdiff_probe.probing.probes import Recorder, probe
from emerdiff_probe.probing.recording import record
from emerdiff_probe.probing.sampling import Step, denoise
from emerdiff_probe.probing.taps import (
    Call,
    Capture,
    attentions,
    called,
    capture,
    hooked,
    processed,
)
from emerdiff_probe.probing.trajectory import Trajectory, prompted, sample

__all__ = [
    "Call",
    "Capture",
    "Inversion",
    "Recorder",
    "Step",
    "Trajectory",
    "attentions",
    "called",
    "capture",
    "denoise",
    "hooked",
    "invert",
    "probe",
    "processed",
    "prompted",
    "record",
    "reduce",
    "sample",
    "through",
]
