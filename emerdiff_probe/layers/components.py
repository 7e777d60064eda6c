"""Principal components of features, over all places and timesteps: colours that mean the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers.features import as_points, blocks
from emerdiff_probe.locations import by_location
from emerdiff_probe.schema import CHANNEL, RGB, X, Y

__all__ = [
    "Components",
    "Moments",
    "effective_rank",
    "joined",
    "principal_colours",
    "principal_components",
]

_REACH: Final = 2.5
"""Standard deviations from the mean to full or no intensity of a colour."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Sums over points, from which mean and covariance follow, however many points there are.

    Attributes:
        count: Points.
        total: (channel,), their sum.
        outer: (channel, channel), the sum of their outer products.
    """

    count: int
    total: NDArray[np.float64]
    outer: NDArray[np.float64]

    @classmethod
    def of(cls, features: xr.DataArray) -> Moments:
        """Of all places of a layer, read block by block.

        Args:
            features: With y, x, channel, and perhaps sample and timestep.

        Raises:
            InputError: Values that are not finite, or dims that are not those of features.
        """
        values = by_location(features)
        channels = values.sizes[CHANNEL]
        moments = cls(0, np.zeros(channels), np.zeros((channels, channels)))
        for block in blocks(values):
            moments = moments.update(as_points(block)[0])
        return moments

    def update(self, points: NDArray[np.float64]) -> Moments:
        """With more points, (point, channel)."""
        return Moments(
            self.count + len(points), self.total + points.sum(0), self.outer + points.T @ points
        )

    @property
    def mean(self) -> NDArray[np.float64]:
        """(channel,)."""
        return self.total / self.count

    @property
    def covariance(self) -> NDArray[np.float64]:
        """(channel, channel), divided by the number of points."""
        return self.outer / self.count - np.outer(self.mean, self.mean)

    def spectrum(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Variances along the principal directions, largest first, and those as columns."""
        variances, vectors = np.linalg.eigh(self.covariance)
        return np.clip(variances[::-1], 0, None), vectors[:, ::-1]


@dataclass(frozen=True, eq=False)
class Components:
    """Principal directions of features.

    Attributes:
        mean: (channel,).
        vectors: (component, channel), of length 1, by falling variance. The entry of each that is
            largest in absolute value is positive, so that the same features give the same colours.
        variance: (component,).
        share: (component,), of all variance.
    """

    mean: NDArray[np.float64]
    vectors: NDArray[np.float64]
    variance: NDArray[np.float64]
    share: NDArray[np.float64]

    def project(self, features: xr.DataArray) -> xr.DataArray:
        """Features in these directions: the same dims, with ``component`` in place of channel."""
        values = by_location(features).drop_vars(CHANNEL, errors="ignore")
        directions = xr.DataArray(self.vectors.astype(np.float32), dims=("component", CHANNEL))
        origin = xr.DataArray(self.mean.astype(np.float32), dims=CHANNEL)
        return xr.dot(values.astype(np.float32) - origin, directions, dim=CHANNEL)

    def colours(self, features: xr.DataArray) -> xr.DataArray:
        """The first three components as red, green and blue.

        Returns:
            The same dims, with ``rgb`` in place of channel; float32 in [0, 1], 0.5 at the mean, and
            0 and 1 at 2.5 standard deviations from it. All places and timesteps share this scale.
        """
        spread = np.sqrt(np.where(self.variance > 0, self.variance, 1))[:3]
        scale = xr.DataArray((2 * _REACH * spread).astype(np.float32), dims="component")
        scores = self.project(features).isel(component=slice(3))
        colours = (0.5 + scores / scale).clip(0, 1).rename(component=RGB)
        return colours.assign_coords({RGB: ["r", "g", "b"]}).rename("colours").load()


def principal_components(features: xr.DataArray, count: int = 3) -> Components:
    """The directions in which features differ most, over all places, samples and timesteps.

    Read block by block: a recording need not fit in memory.

    Args:
        features: With y, x, channel, and perhaps sample and timestep.
        count: How many directions, 1 to the number of channels.

    Raises:
        InputError: A number out of range, or unusable features.

    Source: Hotelling, Journal of Educational Psychology 24, 1933.
    """
    moments = Moments.of(features)
    if not 1 <= count <= len(moments.total):
        raise InputError(f"{count} components of {len(moments.total)} channels; choose 1 or more")
    variances, columns = moments.spectrum()
    vectors = columns.T[:count]
    largest = np.abs(vectors).argmax(1)
    signs = np.sign(vectors[np.arange(count), largest])
    whole = variances.sum() or 1.0
    return Components(
        moments.mean, vectors * signs[:, None], variances[:count], variances[:count] / whole
    )


def principal_colours(features: xr.DataArray | Mapping[str, xr.DataArray]) -> xr.DataArray:
    """Features as colours, which mean the same at every place, sample and timestep.

    Args:
        features: With y, x, channel (at least 3), and perhaps sample and timestep; or several
            layers by name, which are then joined as :func:`joined` does.

    Returns:
        ``colours`` (sample[, timestep], y, x, rgb); see `Components.colours`. Attribute ``share``:
        of all variance that each of the three colours shows.
    """
    values = features if isinstance(features, xr.DataArray) else joined(features)
    components = principal_components(values)
    return components.colours(values).assign_attrs(share=components.share.tolist())


def joined(layers: Mapping[str, xr.DataArray]) -> xr.DataArray:
    """Several layers as one, on the finest of their grids, each with the same total variance.

    Args:
        layers: Of the same samples and timesteps, with coordinates y and x; by name.

    Returns:
        The channels of all layers beside each other; coarser layers by nearest neighbour.

    Raises:
        InputError: No layer, or other samples or timesteps.
    """
    values = [by_location(each) for each in layers.values()]
    if len({(each.dims, *each.shape[:-3]) for each in values}) != 1:
        raise InputError(f"layers {list(layers)} are not of the same samples and timesteps")
    finest = max(values, key=lambda each: each.sizes[Y] * each.sizes[X])
    places = {Y: finest[Y], X: finest[X]}
    scaled = []
    for each in values:
        total = float(np.trace(Moments.of(each).covariance))
        fine = each.sel(places, method="nearest").assign_coords(places)
        fine = fine.drop_vars(CHANNEL, errors="ignore")
        scaled.append(fine.astype(np.float32) / np.float32(np.sqrt(total) if total > 0 else 1))
    return xr.concat(scaled, CHANNEL, coords="minimal", compat="override", join="exact")


def effective_rank(features: xr.DataArray) -> float:
    """How many directions features effectively spread over: e to the entropy of singular values.

    Singular values are those of the centred matrix (point, channel), divided by their sum.

    Args:
        features: With y, x, channel, and perhaps sample and timestep.

    Returns:
        From 1 to the number of channels; 0 where all features are the same.

    Source: Roy and Vetterli, EUSIPCO 2007, definition 1.
    """
    singular = np.sqrt(Moments.of(features).spectrum()[0])
    if not singular.any():
        return 0.0
    shares = singular[singular > 0] / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
