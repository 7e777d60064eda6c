"""Recordings: what one holds, in memory or streamed to a Zarr store, and opened again.

A recording is a tree. Its root has the samples, the timesteps and how it was made; each leaf has
one array, ``value``: the tensor of a site over all of them. Nothing here needs torch.
"""

from emerdiff_probe.store.plan import IMAGE, LATENTS, Leaf, Plan, leaf_path, size_text
from emerdiff_probe.store.reading import Info, info, open_recording, site
from emerdiff_probe.store.responses import ResponseStore, open_responses
from emerdiff_probe.store.writing import Memory, Sink, Streamed

__all__ = [
    "IMAGE",
    "LATENTS",
    "Info",
    "Leaf",
    "Memory",
    "Plan",
    "ResponseStore",
    "Sink",
    "Streamed",
    "info",
    "leaf_path",
    "open_recording",
    "open_responses",
    "site",
    "size_text",
]
