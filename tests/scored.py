"""Scenes, and segments of them whose scores are known."""

import numpy as np
import xarray as xr

from emerdiff_probe.evaluation import Segments
from emerdiff_probe.scenes import PARTS

SCENES = [(1_000_000, False), (1_000_001, False), (1_000_001, True)]
"""Seeds, and whether they are of the dissociation subset."""


def truth_and_chance(subject):
    chance = np.random.RandomState(subject.seed % 1000).randint(0, 12, subject.parts.shape)
    parts = np.arange(len(PARTS), dtype=np.float32)
    embeddings = xr.DataArray(parts[:, None] * [1, 0], dims=("mask", "channel"))
    return {
        "truth": Segments(subject.parts.astype(np.int16), embeddings),
        "chance": Segments(chance.astype(np.int16)),
    }
