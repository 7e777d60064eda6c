"""Compute principal components of features over all locations and timesteps, and colours."""

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
"""Number of standard deviations from the mean to full or to no intensity of a colour."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Accumulate sums over points, however many, from which mean and covariance follow.

    Attributes:
        count: Number of points.
        total: Sum of the points (channel,).
        outer: Sum of their outer products (channel, channel).
    """

    count: int
    total: NDArray[np.float64]
    outer: NDArray[np.float64]

    @classmethod
    def of(cls, features: xr.DataArray) -> Moments:
        """Sum over all locations of a layer, read block by block.

        Args:
            features: Features with y, x, channel, and perhaps sample and timestep.

        Raises:
            InputError: Values are not finite, or the dims are not those of features.
        """
        values = by_location(features)
        channels = values.sizes[CHANNEL]
        moments = cls(0, np.zeros(channels), np.zeros((channels, channels)))
        for block in blocks(values):
            moments = moments.update(as_points(block)[0])
        return moments

    def update(self, points: NDArray[np.float64]) -> Moments:
        """Add more points (point, channel)."""
        return Moments(
            self.count + len(points), self.total + points.sum(0), self.outer + points.T @ points
        )

    @property
    def mean(self) -> NDArray[np.float64]:
        """Return the mean (channel,)."""
        return self.total / self.count

    @property
    def covariance(self) -> NDArray[np.float64]:
        """Return the covariance (channel, channel), divided by the number of points."""
        return self.outer / self.count - np.outer(self.mean, self.mean)

    def spectrum(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return variances along the principal directions, largest first, and those as columns."""
        variances, vectors = np.linalg.eigh(self.covariance)
        return np.clip(variances[::-1], 0, None), vectors[:, ::-1]


@dataclass(frozen=True, eq=False)
class Components:
    """Hold the principal directions of features.

    Attributes:
        mean: Mean of the features (channel,).
        vectors: Directions (component, channel) of length 1, largest variance first. The entry of
            each with the largest absolute value is positive, so that the same features give the
            same colours.
        variance: Variance along each direction (component,).
        share: Share of each direction in the total variance (component,), 0 to 1.
    """

    mean: NDArray[np.float64]
    vectors: NDArray[np.float64]
    variance: NDArray[np.float64]
    share: NDArray[np.float64]

    def project(self, features: xr.DataArray) -> xr.DataArray:
        """Project features on these directions; ``component`` replaces channel among the dims."""
        values = by_location(features).drop_vars(CHANNEL, errors="ignore")
        directions = xr.DataArray(self.vectors.astype(np.float32), dims=("component", CHANNEL))
        origin = xr.DataArray(self.mean.astype(np.float32), dims=CHANNEL)
        return xr.dot(values.astype(np.float32) - origin, directions, dim=CHANNEL)

    def colours(self, features: xr.DataArray) -> xr.DataArray:
        """Return the first three components as red, green and blue.

        Returns:
            Colours with the same dims, but ``rgb`` in place of channel; float32 in [0, 1], 0.5 at
            the mean, and 0 and 1 at 2.5 standard deviations from it. All locations and timesteps
            share this scale.
        """
        spread = np.sqrt(np.where(self.variance > 0, self.variance, 1))[:3]
        scale = xr.DataArray((2 * _REACH * spread).astype(np.float32), dims="component")
        scores = self.project(features).isel(component=slice(3))
        colours = (0.5 + scores / scale).clip(0, 1).rename(component=RGB)
        return colours.assign_coords({RGB: ["r", "g", "b"]}).rename("colours").load()


def principal_components(features: xr.DataArray, count: int = 3) -> Components:
    """Find the directions in which features vary most, over all locations, samples and timesteps.

    Features are read block by block, so a recording need not fit in memory.

    Args:
        features: Features with y, x, channel, and perhaps sample and timestep.
        count: Number of directions, from 1 to the number of channels.

    Raises:
        InputError: ``count`` is out of range, or the features cannot be used.

    Source: Hotelling, Journal of Educational Psychology 24, 1933.
    """
    moments = Moments.of(features)
    if not 1 <= count <= len(moments.total):
        raise InputError(f"count={count}; choose 1 to {len(moments.total)}, the number of channels")
    variances, columns = moments.spectrum()
    vectors = columns.T[:count]
    largest = np.abs(vectors).argmax(1)
    signs = np.sign(vectors[np.arange(count), largest])
    whole = variances.sum() or 1.0
    return Components(
        moments.mean, vectors * signs[:, None], variances[:count], variances[:count] / whole
    )


def principal_colours(features: xr.DataArray | Mapping[str, xr.DataArray]) -> xr.DataArray:
    """Show features as colours that mean the same at every location, sample and timestep.

    Args:
        features: Features with y, x, channel (at least 3), and perhaps sample and timestep; or
            several layers by name, which are first joined by :func:`joined`.

    Returns:
        ``colours`` (sample[, timestep], y, x, rgb); see `Components.colours`. Attribute ``share``
        is the share of the total variance that each of the three colours shows.
    """
    values = features if isinstance(features, xr.DataArray) else joined(features)
    components = principal_components(values)
    return components.colours(values).assign_attrs(share=components.share.tolist())


def joined(layers: Mapping[str, xr.DataArray]) -> xr.DataArray:
    """Join several layers on the finest of their grids, each with the same total variance.

    Args:
        layers: Features by name, of the same samples and timesteps, with coordinates y and x.

    Returns:
        Features with the channels of all layers side by side; coarser layers are enlarged by
        nearest neighbour.

    Raises:
        InputError: There is no layer, or samples or timesteps differ.
    """
    values = [by_location(each) for each in layers.values()]
    if len({(each.dims, *each.shape[:-3]) for each in values}) != 1:
        raise InputError(
            f"layers {list(layers)} differ in samples or timesteps; give the same of each"
        )
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
    """Return the effective rank: how many directions features spread over.

    It is e to the entropy of the singular values of the centred matrix (point, channel), divided by
    their sum.

    Args:
        features: Features with y, x, channel, and perhaps sample and timestep.

    Returns:
        Number from 1 to the number of channels; 0 where all features are the same.

    Source: Roy and Vetterli, EUSIPCO 2007, definition 1.
    """
    singular = np.sqrt(Moments.of(features).spectrum()[0])
    if not singular.any():
        return 0.0
    shares = singular[singular > 0] / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))
