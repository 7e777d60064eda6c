"""Make low-resolution masks: clusters of a run's features, or masks of your own."""

from __future__ import annotations

from typing import Any, Final, TypeAlias

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import cluster
from emerdiff_probe.schema import SOURCE_X, SOURCE_Y
from emerdiff_probe.segments import as_masks, one_hot, silhouettes

__all__ = ["AUTO", "Masks", "low_resolution_masks"]

Masks: TypeAlias = ArrayLike
"""A number of masks; "auto"; or masks of your own, labels (h, w) or weights (mask, h, w)."""

AUTO: Final = tuple(range(4, 33, 2))
"""The numbers of masks that "auto" chooses from, by the mean silhouette."""


def low_resolution_masks(
    features: xr.DataArray, masks: Masks, config: EmerDiffConfig
) -> xr.DataArray:
    """Return weights (mask, source_y, source_x).

    Args:
        features: The features of locations, (source_y, source_x, channel).
        masks: The number of masks; "auto" for the number in `AUTO` that k-means separates best; or
            an array, see `emerdiff_probe.segment`.
        config: The settings of clustering.

    Raises:
        InputError: The masks cannot be used.
    """
    if isinstance(masks, bool) or (isinstance(masks, str) and masks != "auto"):
        raise InputError(
            f"masks is {masks!r}; give a number of masks, 'auto', or an array of masks"
        )
    clustering: dict[str, Any] = {
        "normalise": config.normalise,
        "restarts": config.restarts,
        "seed": config.seed,
    }
    if isinstance(masks, str):
        locations = features.sizes[SOURCE_Y] * features.sizes[SOURCE_X]
        counts = [count for count in AUTO if count < locations]
        masks = int(silhouettes(features, counts, **clustering).idxmax())
    if isinstance(masks, int | np.integer):
        low_res = cluster(features, int(masks), **clustering)
        weights = one_hot(low_res, int(masks))
    else:
        grid = (features.sizes[SOURCE_Y], features.sizes[SOURCE_X])
        weights = as_masks(masks, grid)
    places = {name: features.coords[name] for name in (SOURCE_Y, SOURCE_X)}
    return weights.assign_coords(places).astype(np.float32)
