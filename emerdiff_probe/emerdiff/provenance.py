"""Attributes that say where a dataset of modulated runs comes from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emerdiff_probe import schema
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.features import Observation, described
from emerdiff_probe.inputs import Photo, Prompt

__all__ = ["provenance", "request"]


def provenance(
    about: Mapping[str, Any],
    source: Prompt | Photo,
    observation: Observation,
    engine: str,
    config: EmerDiffConfig,
) -> dict[str, str]:
    """Return the attributes of a dataset, beside its schema.

    Args:
        about: The model's identity, from `emerdiff_probe.models.identity`.
        source: What was observed.
        observation: Of it.
        engine: That made the runs.
        config: Settings.
    """
    return {
        "model": about["name"],
        "weights": about["weights"]["unet"],
        "engine": engine,
        "source": described(source),
        "file": getattr(source, "file", ""),
        "fit": observation.fit,
        "config": config.to_json(),
        "model_description": json.dumps(about),
        "inversion": json.dumps(observation.diagnostics),
        "versions": json.dumps(schema.package_versions()),
    }


def request(
    source: Prompt | Photo,
    to: str | int | ArrayLike,
    engine: str,
    config: EmerDiffConfig,
    dtype: str,
) -> dict[str, Any]:
    """Return all that decides the values of responses, beside the model; fit for JSON."""
    about = described(source)
    if isinstance(source, Photo):
        about = f"{about} {_digest(source.rgb())}"
    settings = json.loads(config.to_json())
    del settings["batch"]
    return {
        "source": about,
        "to": to if isinstance(to, str | int) else _identified(to),
        "engine": engine,
        "config": settings,
        "dtype": dtype,
    }


def _identified(masks: Any) -> int | str:
    return int(masks) if isinstance(masks, np.integer) else _digest(np.asarray(masks))


def _digest(array: NDArray[Any]) -> str:
    about = f"{array.shape} {array.dtype}".encode()
    return hashlib.blake2b(about + array.tobytes(), digest_size=8).hexdigest()
