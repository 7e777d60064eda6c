"""What an explorer of segments computes: other masks, filters, merges and baselines, at any pixels.

All of it comes from what a segmentation and responses hold; no model runs.
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
"""Ways from low-resolution masks to pixels that need no model; see `emerdiff_probe.segments`."""

_FINE: Final = 16
"""Points along each side of a latent location, by which a drawn mask covers a share of it."""


class Segmenter:
    """Segments one picture anew.

    Args:
        result: A segmentation, as `emerdiff_probe.segment` makes it.
        responses: Of the same picture's single locations, whole or compressed; or none.

    Attributes:
        count: Masks of the result.
        sigma: Of the filter that the result's difference maps went through.

    Raises:
        InputError: Responses of an image of another size, or of other latent locations.
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
        """``low_res``, ``masks``, ``embeddings`` and ``difference`` of so many masks.

        Raises:
            InputError: A number other than the result's, without responses; or one out of range.
        """
        if masks == self.count:
            return self._result[["low_res", "masks", "embeddings", "difference"]]
        self.check_responses(masks)
        return self._remembered("low_resolution", masks, lambda: self._clustered(masks))

    def check_responses(self, masks: int) -> None:
        """See that there is something to make another number of masks from.

        Raises:
            InputError: There is not.
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
        # Not filtered yet: `_filtered` does that, with the sigma that is chosen.
        found = segment_from(self._responses, masks, **how, sigma=0)
        weights = found["masks"]
        found["embeddings"] = embeddings(self._responses["features"], weights)
        return found[["low_res", "masks", "embeddings", "difference"]]

    def _filtered(self, masks: int, sigma: float) -> xr.Dataset:
        base = self.low_resolution(masks)
        # One Gaussian after another is a Gaussian whose variances add up.
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
        """Segments at the pixels asked for.

        Args:
            masks: How many low-resolution masks.
            merged: How many segments are to be left.
            sigma: Of the Gaussian filter on difference maps.
            y, x: Rows and columns, in pixels of the photograph.

        Returns:
            ``labels``, ``margin`` and ``strength`` (y, x); ``low_res``; and ``difference`` maps, of
            merged masks their largest.
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
        # Less than a segmentation has, and not what its settings alone would give.
        about = {name: each for name, each in self._result.attrs.items() if name != "schema"}
        found.attrs = about | {"masks": masks, "merged": merged, "sigma": sigma}
        return found

    def baseline(
        self, name: str, masks: int, merged: int, picture: xr.DataArray
    ) -> NDArray[np.integer]:
        """Labels (y, x) of one of `BASELINES` from the same low-resolution masks.

        Args:
            name: Which.
            masks, merged: As for `segments`.
            picture: (y, x, rgb), uint8, with coordinates: the pixels asked for.
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
            # A window as wide as one latent location on each side.
            radius = max(1, round(picture.sizes[Y] / self.grid[0]))
            labels = guided_filter(base["masks"], picture, radius=radius)
        found = self._merged(base.assign(labels=labels), merged)
        return found["labels"].transpose(Y, X).values

    def _merged(self, found: xr.Dataset, count: int) -> xr.Dataset:
        if count >= found.sizes[MASK]:
            return found
        # Which masks are joined depends on their embeddings alone, so it is the same everywhere.
        joined = merge(found, count=count)
        maps = found["difference"].transpose(MASK, MODEL_Y, MODEL_X)
        # Where several distances are the same, fewer may be left.
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
        """How much a drawn mask moves each pixel, (y, x) of the responses; None without those."""
        if self._responses is None:
            return None
        (weights,) = self.weights([polygon]).values
        response = response_of(self._responses, weights)
        norms: NDArray[np.float32] = np.linalg.norm(response.transpose(RGB, Y, X).values, axis=0)
        return norms

    def weights(self, polygons: Sequence[Sequence[Sequence[float]]]) -> xr.DataArray:
        """Shares of latent locations that polygons cover, (mask, source_y, source_x).

        Raises:
            InputError: One covers nothing.
        """
        fine = self.grid[0] * _FINE, self.grid[1] * _FINE
        stack = [covered(each, self.extent, fine) for each in polygons]
        return as_masks(np.array(stack, np.bool_), self.grid)

    def _remembered(self, what: str, key: Any, compute: Any) -> xr.Dataset:
        if what not in self._kept or self._kept[what][0] != key:
            self._kept[what] = key, compute()
        return self._kept[what][1]


def _check_pair(result: xr.Dataset, responses: xr.Dataset) -> None:
    """See that a result and responses lie on the same pixels and locations."""
    expect(responses, RESPONSES)
    images = [tuple(round(extent(each[dim])) for dim in (Y, X)) for each in (responses, result)]
    grids = [latent_grid(responses), (result.sizes[SOURCE_Y], result.sizes[SOURCE_X])]
    for words, (of_responses, of_result) in (
        ("an image of {} x {} pixels", images),
        ("{} x {} latent locations", grids),
    ):
        if of_responses != of_result:
            raise InputError(
                f"the responses are of {words.format(*of_responses)}, the result of "
                f"{words.format(*of_result)}; give those of one run"
            )


def covered(
    polygon: Sequence[Sequence[float]], extent: tuple[int, int], shape: tuple[int, int]
) -> NDArray[np.bool_]:
    """Which cells of a grid over the picture have their centre inside a polygon.

    Of a line that crosses itself, what is enclosed an odd number of times is inside (the even-odd
    rule: Foley et al., Computer Graphics, 1990).

    Args:
        polygon: Corners, (y, x) in pixels of the picture.
        extent: Of the picture.
        shape: Rows and columns of cells.

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
