"""What benchmarks share: a model, where their results go, and which scenes each of them may use."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple

from emerdiff_probe.evaluation.journal import SEGMENTS, Journal
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.scenes import TEST_START, VALIDATION

__all__ = ["ATLAS_SEEDS", "ENGINE_SEEDS", "EXAMPLE_SEED", "QUALITY_SEEDS"]
__all__ += ["SETTINGS_SEEDS", "WORLD_SEEDS", "Task"]

SETTINGS_SEEDS: Final = VALIDATION[:100]
"""Settings are chosen on the first of these; no other result uses them."""

# 600 to 700 are those of `emerdiff_probe.evaluation.failures`.
ENGINE_SEEDS: Final = VALIDATION[200:300]
EXAMPLE_SEED: Final = VALIDATION[843]
"""The first with one house, one tree and nothing else, both whole and large: as in notebooks."""
ATLAS_SEEDS: Final = VALIDATION[400:500]
WORLD_SEEDS: Final = VALIDATION[1000:1100]
QUALITY_SEEDS: Final = range(TEST_START + 100_000, TEST_START + 100_100)
"""Scenes that nothing was chosen on."""


class Task(NamedTuple):
    """What a benchmark needs.

    Attributes:
        model: That is measured.
        out: Folder for tables and pictures.
        kept: Folder for rows so far.
        scenes: How many.
        processes: How many scenes at the same time.
        full_size: Whether engines are measured at Stable Diffusion v1's size too.
    """

    model: StableDiffusion
    out: Path
    kept: Path
    scenes: int
    processes: int
    full_size: bool = False

    def journal(self, name: str, **identity: object) -> Journal:
        """The rows so far of a part of a benchmark."""
        about = {"model": self.model.weights, "dtype": str(self.model.dtype), **identity}
        return Journal(self.kept / f"{name}.jsonl", {"segments": SEGMENTS, **about})
