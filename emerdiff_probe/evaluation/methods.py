"""The method and its rivals on one scene: name to labels at image resolution."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe import analysis
from emerdiff_probe.analysis import Normalisation

__all__ = ["from_the_same_masks"]

Labels = NDArray[np.int16]


def from_the_same_masks(
    segmented: xr.Dataset, normalise: Normalisation = "none"
) -> dict[str, Labels]:
    """What the baselines make of the low-resolution masks of a segmentation.

    Args:
        segmented: From `emerdiff_probe.segment`.
        normalise: As in its settings: how features were normalised for clustering.

    Returns:
        Labels (y, x) by method: nearest, bilinear masks, bilinear features, guided filter.
    """
    y, x = segmented["y"].values, segmented["x"].values
    masks, features = segmented["masks"], analysis.normalised(segmented["features"], normalise)
    centroids = analysis.embeddings(features, masks)
    labels = {
        "nearest": analysis.nearest(segmented["low_res"], y, x),
        "bilinear masks": analysis.bilinear_masks(masks, y, x),
        "bilinear features": analysis.bilinear_features(features, centroids, y, x),
        "guided filter": analysis.guided_filter(masks, segmented["picture"]),
    }
    return {name: array.values for name, array in labels.items()}
