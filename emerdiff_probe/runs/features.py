"""Features: one site's tensor at one timestep, laid out over the image."""

from __future__ import annotations

import numpy as np
import xarray as xr
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from emerdiff_probe.errors import SiteError
from emerdiff_probe.schema import CHANNEL, SOURCE_X, SOURCE_Y, pixel_centres
from emerdiff_probe.sites import Site

__all__ = ["labelled_features"]


def labelled_features(
    tensor: Tensor, latents: Tensor, site: Site, size: tuple[int, int]
) -> xr.DataArray:
    """Return a site's tensor as features of the image.

    Args:
        tensor: Tokens (row, location, channel) or maps (row, channel, y, x). The last row counts,
            which of two guidance halves is the conditional one.
        latents: That the UNet was called with, shape (sample, channel, y, x).
        site: It is of.
        size: Height and width of the image, whose pixels the coordinates are in.

    Returns:
        (source_y, source_x, channel), float32.

    Raises:
        SiteError: The tensor is not laid out over the image.
    """
    values = _on_grid(tensor, latents, site)
    rows, columns, _ = values.shape
    height, width = size
    return xr.DataArray(
        values,
        dims=(SOURCE_Y, SOURCE_X, CHANNEL),
        coords={SOURCE_Y: pixel_centres(rows, height), SOURCE_X: pixel_centres(columns, width)},
        name="features",
    )


def _on_grid(tensor: Tensor, latents: Tensor, site: Site) -> NDArray[np.float32]:
    if tensor.ndim == 4:
        return rearrange(tensor[-1].float(), "c y x -> y x c").cpu().numpy()
    height, width = latents.shape[-2:]
    locations = tensor.shape[1]
    factor = max(round((height * width / locations) ** 0.5), 1)
    if (height // factor) * (width // factor) != locations:
        raise SiteError(
            f"'{site}' gives a tensor of shape {tuple(tensor.shape)}, which is not laid out over "
            "the image; choose queries or an output as the feature site"
        )
    return tensor[-1].float().cpu().numpy().reshape(height // factor, width // factor, -1)
