"""Define what benchmarks share: a model, folders for results, and the scenes each may use."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from emerdiff_probe.evaluation.journal import SEGMENTS, Journal
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.scenes import TEST_START, VALIDATION

__all__ = ["ATLAS_SEEDS", "ENGINE_SEEDS", "EXAMPLE_SEED", "QUALITY_SEEDS"]
__all__ += ["SETTINGS_SEEDS", "WORLD_SEEDS", "Task"]

SETTINGS_SEEDS: Final = VALIDATION[:100]
"""Seeds of the scenes on which settings are chosen; no other result uses them."""

# 600 to 700 are those of `emerdiff_probe.evaluation.failures`.
ENGINE_SEEDS: Final = VALIDATION[200:300]
EXAMPLE_SEED: Final = VALIDATION[843]
"""Seed of the first scene with only one house and one tree, both whole and large."""
ATLAS_SEEDS: Final = VALIDATION[400:500]
WORLD_SEEDS: Final = VALIDATION[1000:1100]
QUALITY_SEEDS: Final = range(TEST_START + 100_000, TEST_START + 100_100)
"""Seeds of scenes on which nothing was chosen."""


class Task(NamedTuple):
    """Hold what a benchmark needs.

    Attributes:
        model: Model to measure.
        out: Folder for tables and pictures.
        kept: Folder for finished rows.
        scenes: Number of scenes.
        processes: Number of scenes to run at the same time.
        full_size: Whether to measure engines at Stable Diffusion v1's size, too.
    """

    model: StableDiffusion
    out: Path
    kept: Path
    scenes: int
    processes: int
    full_size: bool = False

    def journal(self, name: str, **identity: object) -> Journal:
        """Return the journal of rows so far, for a part of a benchmark."""
        about = {"model": self.model.weights, "dtype": str(self.model.dtype), **identity}
        return Journal(self.kept / f"{name}.jsonl", {"segments": SEGMENTS, **about})
