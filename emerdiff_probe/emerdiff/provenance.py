"""Describe where a dataset of modulated runs comes from, and what determines its values."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.masks import Masks
from emerdiff_probe.runs import Run

__all__ = ["attributes", "request"]


def attributes(run: Run, schema: str, engine: str, config: EmerDiffConfig) -> dict[str, str]:
    """Return the attributes of a dataset: its schema and its provenance.

    Args:
        run: The run that was asked.
        schema: The schema of the dataset.
        engine: The engine that made the modulated runs.
        config: The settings.
    """
    return {"schema": schema, "engine": engine, "config": config.to_json(), **run.provenance}


def request(
    run: Run, masks: Masks, engine: str, config: EmerDiffConfig, dtype: str
) -> dict[str, Any]:
    """Return everything besides the model that determines the values of responses, fit for JSON."""
    settings = json.loads(config.to_json())
    del settings["batch"]
    about = {
        "source": run.prepared.about,
        "seed": run.seed,
        "masks": _identified(masks),
        "engine": engine,
        "config": settings,
        "dtype": dtype,
    }
    if run.interventions:
        about["replayed"] = list(map(repr, run.interventions))
    return about


def _identified(masks: Any) -> int | str:
    if isinstance(masks, str):
        return masks
    return int(masks) if isinstance(masks, int | np.integer) else _digest(np.asarray(masks))


def _digest(array: NDArray[Any]) -> str:
    about = f"{array.shape} {array.dtype}".encode()
    return hashlib.blake2b(about + array.tobytes(), digest_size=8).hexdigest()
