"""Compute for an explorer of segments: other masks, filters, merges and baselines, at any pixels.

Everything is computed from a segmentation and responses; no model runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.kinds import expect
from emerdiff_probe.layers import normalised
from emerdiff_probe.responses import latent_grid, response_of, segment_from
from emerdiff_probe.schema import (
    MASK,
    MODEL_X,
    MODEL_Y,
    RESPONSES,
    RGB,
    SEGMENTATION,
    SOURCE_X,
    SOURCE_Y,
    X,
    Y,
    extent,
    pixel_centres,
)
from emerdiff_probe.segments import (
    as_masks,
    assign,
    balanced,
    bilinear_features,
    bilinear_masks,
    embeddings,
    guided_filter,
    merge,
    nearest,
    smooth,
)

__all__ = ["BASELINES", "Segmenter", "covered"]

BASELINES: Final = ("nearest", "bilinear masks", "bilinear features", "guided filter")
"""The ways from low-resolution masks to pixels that need no model; see `emerdiff_probe.segments`.
"""

_FINE: Final = 16
"""The points along each side of a latent location that determine how much a drawn mask covers."""


class Segmenter:
    """Segment one image with other settings.

    Args:
        result: A segmentation from `emerdiff_probe.segment`.
        responses: Responses of the same image's single locations, full or compressed; or None.

    Attributes:
        count: The number of masks of the result.
        sigma: The filter width of the result's difference maps.

    Raises:
        InputError: The responses belong to an image of another size, or have other latent
            locations.
    """

    def __init__(self, result: xr.Dataset, responses: xr.Dataset | None) -> None:
        expect(result, SEGMENTATION)
        if responses is not None:
            _check_pair(result, responses)
        self._result, self._responses = result, responses
        self._config = json.loads(result.attrs.get("config", "{}"))
        self.count: int = result.sizes[MASK]
        self.sigma = float(self._config.get("sigma", 0.0))
        self.extent = result.sizes[Y], result.sizes[X]
        self.grid = result.sizes[SOURCE_Y], result.sizes[SOURCE_X]
        self._kept: dict[str, tuple[Any, xr.Dataset]] = {}

    def low_resolution(self, masks: int) -> xr.Dataset:
        """Return ``low_res``, ``masks``, ``embeddings`` and ``difference`` for a number of masks.

        Raises:
            InputError: The number differs from the result's and there are no responses, or it is
                out of range.
        """
        if masks == self.count:
            return self._result[["low_res", "masks", "embeddings", "difference"]]
        self.check_responses(masks)
        return self._remembered("low_resolution", masks, lambda: self._clustered(masks))

    def check_responses(self, masks: int) -> None:
        """Check that another number of masks can be computed.

        Raises:
            InputError: There are no responses with features.
        """
        if self._responses is None or "features" not in self._responses:
            raise InputError(
                f"masks is {masks}, and the result has {self.count}; another number needs "
                "responses with features, as SegmentationExplorer(result, responses)"
            )

    def _clustered(self, masks: int) -> xr.Dataset:
        assert self._responses is not None
        names = ("normalise", "restarts", "seed")
        how = {name: self._config[name] for name in names if name in self._config}
        # Not filtered yet: `_filtered` does that, with the chosen sigma.
        found = segment_from(self._responses, masks, **how, sigma=0)
        weights = found["masks"]
        found["embeddings"] = embeddings(self._responses["features"], weights)
        return found[["low_res", "masks", "embeddings", "difference"]]

    def _filtered(self, masks: int, sigma: float) -> xr.Dataset:
        base = self.low_resolution(masks)
        # Two Gaussian filters in a row are one whose variance is the sum.
        before = self.sigma if masks == self.count else 0.0
        finer = base.sizes[MODEL_Y] / self._result.sizes[MODEL_Y]
        more = math.sqrt(max(sigma**2 - before**2, 0)) * finer
        difference = smooth(base["difference"], more)
        fair = balanced(
            difference,
            base["masks"],
            self._config.get("balance", "none"),
            self._config.get("elsewhere", 1.0),
        )
        return base.assign(difference=difference, fair=fair)

    def segments(
        self, masks: int, merged: int, sigma: float, y: ArrayLike, x: ArrayLike
    ) -> xr.Dataset:
        """Return segments at the given pixels.

        Args:
            masks: The number of low-resolution masks.
            merged: The number of segments to leave after merging.
            sigma: The standard deviation of the Gaussian filter on difference maps.
            y, x: The rows and columns, in pixels of the photograph.

        Returns:
            ``labels``, ``margin`` and ``strength`` (y, x); ``low_res``; and ``difference`` maps,
            with the maximum over merged masks.
        """
        if (masks, sigma) == (self.count, self.sigma):
            stored = self._result[["labels", "margin", "strength"]]
            assigned = stored.sel({Y: np.asarray(y), X: np.asarray(x)})
            found = self.low_resolution(masks).merge(assigned)
        else:
            base = self._remembered(
                "filtered", (masks, sigma), lambda: self._filtered(masks, sigma)
            )
            found = base.drop_vars("fair").merge(assign(base["fair"], y, x))
        found = self._merged(found, merged)
        # This is less than a segmentation has, and its settings alone would give something else.
        about = {name: each for name, each in self._result.attrs.items() if name != "schema"}
        found.attrs = about | {"masks": masks, "merged": merged, "sigma": sigma}
        return found

    def baseline(
        self, name: str, masks: int, merged: int, picture: xr.DataArray
    ) -> NDArray[np.integer]:
        """Return the labels (y, x) of one of `BASELINES` from the same low-resolution masks.

        Args:
            name: The name of the baseline.
            masks, merged: The numbers of masks and segments, as for `segments`.
            picture: The image at the given pixels, (y, x, rgb), uint8, with coordinates.
        """
        base = self.low_resolution(masks)
        at = picture[Y].values, picture[X].values
        if name == "nearest":
            labels = nearest(base["low_res"], *at)
        elif name == "bilinear masks":
            labels = bilinear_masks(base["masks"], *at)
        elif name == "bilinear features":
            features = normalised(self._result["features"], self._config.get("normalise", "none"))
            centroids = embeddings(features, base["masks"])
            labels = bilinear_features(features, centroids, *at)
        else:
            # A window that extends one latent location to each side.
            radius = max(1, round(picture.sizes[Y] / self.grid[0]))
            labels = guided_filter(base["masks"], picture, radius=radius)
        found = self._merged(base.assign(labels=labels), merged)
        return found["labels"].transpose(Y, X).values

    def _merged(self, found: xr.Dataset, count: int) -> xr.Dataset:
        if count >= found.sizes[MASK]:
            return found
        # Merging depends only on the masks' embeddings, so it is the same at all pixels.
        joined = merge(found, count=count)
        maps = found["difference"].transpose(MASK, MODEL_Y, MODEL_X)
        # If several distances are equal, fewer segments may remain.
        left = int(joined["merged"].max()) + 1
        groups = [joined["merged"].values == number for number in range(left)]
        largest = np.stack([maps.values[group].max(0) for group in groups])
        rest = found.drop_dims(MASK)
        return rest.assign(
            labels=joined["labels"],
            low_res=joined["low_res"],
            difference=maps.isel({MASK: slice(left)}).copy(data=largest),
        )

    def moved_by(self, polygon: Sequence[Sequence[float]]) -> NDArray[np.float32] | None:
        """Return how much a drawn mask changes each pixel, (y, x); None without responses."""
        if self._responses is None:
            return None
        (weights,) = self.weights([polygon]).values
        response = response_of(self._responses, weights)
        norms: NDArray[np.float32] = np.linalg.norm(response.transpose(RGB, Y, X).values, axis=0)
        return norms

    def weights(self, polygons: Sequence[Sequence[Sequence[float]]]) -> xr.DataArray:
        """Return the shares of latent locations that polygons cover, (mask, source_y, source_x).

        Raises:
            InputError: A polygon covers nothing.
        """
        fine = self.grid[0] * _FINE, self.grid[1] * _FINE
        stack = [covered(each, self.extent, fine) for each in polygons]
        return as_masks(np.array(stack, np.bool_), self.grid)

    def _remembered(self, what: str, key: Any, compute: Any) -> xr.Dataset:
        if what not in self._kept or self._kept[what][0] != key:
            self._kept[what] = key, compute()
        return self._kept[what][1]


def _check_pair(result: xr.Dataset, responses: xr.Dataset) -> None:
    """Check that a result and responses have the same pixels and locations.

    Raises:
        InputError: They differ.
    """
    expect(responses, RESPONSES)
    images = [tuple(round(extent(each[dim])) for dim in (Y, X)) for each in (responses, result)]
    grids = [latent_grid(responses), (result.sizes[SOURCE_Y], result.sizes[SOURCE_X])]
    for words, (of_responses, of_result) in (
        ("an image of {} x {} pixels", images),
        ("{} x {} latent locations", grids),
    ):
        if of_responses != of_result:
            raise InputError(
                f"the responses have {words.format(*of_responses)}, the result "
                f"{words.format(*of_result)}; pass those of one run"
            )


def covered(
    polygon: Sequence[Sequence[float]], extent: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Return which cells of a grid over the image have their centre inside a polygon.

    If the outline crosses itself, areas enclosed an odd number of times are inside (the even-odd
    rule: Foley et al., Computer Graphics, 1990).

    Args:
        polygon: The corners, (y, x) in pixels of the image.
        extent: The height and width of the image.
        shape: The number of rows and columns of cells.

    >>> covered([(0, 0), (0, 4), (4, 4), (4, 0)], (8, 8), (4, 4)).sum()
    np.int64(4)
    """
    y, x = pixel_centres(shape[0], extent[0]), pixel_centres(shape[1], extent[1])
    mask = np.zeros(shape, np.bool_)
    corners = np.asarray(polygon, np.float64).reshape(-1, 2)
    for (y0, x0), (y1, x1) in zip(corners, np.roll(corners, -1, 0), strict=True):
        rows = np.flatnonzero((y >= min(y0, y1)) & (y < max(y0, y1)))
        if len(rows):
            crossed = x0 + (y[rows] - y0) * (x1 - x0) / (y1 - y0)
            mask[rows] ^= x > crossed[:, None]
    return mask
