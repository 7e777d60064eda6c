"""Provide methods to evaluate on any image: EmerDiff, and baselines on the same masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.emerdiff import EmerDiffConfig, segment
from emerdiff_probe.evaluation.evaluate import Method
from emerdiff_probe.evaluation.scoring import Segments
from emerdiff_probe.inputs import Photo
from emerdiff_probe.layers import normalised
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.segments import (
    bilinear_features,
    bilinear_masks,
    embeddings,
    guided_filter,
    nearest,
)

__all__ = ["METHOD", "emerdiff_and_baselines", "from_the_same_masks"]

METHOD: Final = "EmerDiff"


def emerdiff_and_baselines(model: StableDiffusion, masks: int, config: EmerDiffConfig) -> Method:
    """Return EmerDiff, and four ways to bring the same masks to pixels without a model.

    The model runs once for all of them.

    Args:
        model: Model to read and modulate.
        masks: Number of masks of every image.
        config: Settings of the method.
    """

    def method(picture: NDArray[np.uint8]) -> Mapping[str, Segments]:
        engine = "shared" if config.injection else "literal"
        result = segment(
            model, Photo(picture), masks=masks, engine=engine, config=config, progress=False
        )
        own = Segments(result["labels"].values, result["embeddings"])
        return {METHOD: own} | from_the_same_masks(result, config)

    return method


def from_the_same_masks(result: xr.Dataset, config: EmerDiffConfig) -> dict[str, Segments]:
    """Return what the baselines make of a segmentation's low-resolution masks, by method."""
    y, x = result["y"].values, result["x"].values
    masks = result["masks"]
    features = normalised(result["features"], config.normalise)
    centroids = embeddings(features, masks)
    labels = {
        "nearest": nearest(result["low_res"], y, x),
        "bilinear masks": bilinear_masks(masks, y, x),
        "bilinear features": bilinear_features(features, centroids, y, x),
        "guided filter": guided_filter(masks, result["picture"]),
    }
    return {name: Segments(each.values, result["embeddings"]) for name, each in labels.items()}
