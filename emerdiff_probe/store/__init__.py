"""Store recordings, in memory or streamed to Zarr, and open them again.

A recording is a tree. Its root has the samples, the timesteps and the provenance; each leaf has one
array, ``value``: the tensor of a site for all samples and timesteps. This room does not need torch.
"""

from emerdiff_probe.store.address import Address, local_folder, size_name
from emerdiff_probe.store.at_once import record_at_once, tree_of
from emerdiff_probe.store.copies import Layout, pack, rechunk
from emerdiff_probe.store.growing import Growing
from emerdiff_probe.store.identity import check_model, model_differences
from emerdiff_probe.store.plan import (
    IMAGE,
    LATENTS,
    MASKS,
    Leaf,
    Plan,
    block_length,
    leaf_path,
    size_text,
)
from emerdiff_probe.store.precision import single, widened
from emerdiff_probe.store.reading import at, gather, open_recording, site, sites_of
from emerdiff_probe.store.responses import ResponseStore, open_responses, responses_missing
from emerdiff_probe.store.rows import Place, Rows
from emerdiff_probe.store.summary import Info, info
from emerdiff_probe.store.whole import complete, with_samples
from emerdiff_probe.store.writing import Memory, Row, Sink, Streamed

__all__ = [
    "Address",
    "Growing",
    "IMAGE",
    "Info",
    "LATENTS",
    "Layout",
    "Leaf",
    "MASKS",
    "Memory",
    "Place",
    "Plan",
    "ResponseStore",
    "Row",
    "Rows",
    "Sink",
    "Streamed",
    "at",
    "block_length",
    "check_model",
    "complete",
    "gather",
    "info",
    "leaf_path",
    "local_folder",
    "model_differences",
    "open_recording",
    "open_responses",
    "pack",
    "rechunk",
    "record_at_once",
    "responses_missing",
    "single",
    "site",
    "sites_of",
    "size_name",
    "size_text",
    "tree_of",
    "widened",
    "with_samples",
]
