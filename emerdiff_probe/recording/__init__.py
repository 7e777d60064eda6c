"""Record tensors at sites: `record` runs the model itself, `probe` watches any pipeline call."""

from emerdiff_probe.recording import reducers
from emerdiff_probe.recording.probes import Recorder, probe
from emerdiff_probe.recording.recording import record

__all__ = [
    "Recorder",
    "probe",
    "record",
    "reducers",
]
