"""Lay out one site's tensor at one timestep over the image, as features."""

from __future__ import annotations

import xarray as xr
from einops import rearrange
from torch import Tensor

from emerdiff_probe.errors import SiteError
from emerdiff_probe.models import Model
from emerdiff_probe.schema import CHANNEL, SOURCE_X, SOURCE_Y, TOKEN, pixel_centres
from emerdiff_probe.sites import Site

__all__ = ["feature_grid", "labelled_features"]


def feature_grid(model: Model, site: Site, size: tuple[int, int]) -> tuple[int, int]:
    """Return the rows and columns of the locations that a site's features lie at.

    The grid comes from the catalogue, never from the number of locations: 64 tokens of a text are
    not an 8 x 8 grid.

    Args:
        model: Model with the site; it is not run.
        site: Site to look up.
        size: Height and width in pixels, as the model sees the image.

    Raises:
        SiteError: The site does not exist, or is not laid out over the image.
    """
    height, width = size
    row = model.sites(str(site), height=height, width=width).iloc[0]
    if TOKEN in row["dims"]:
        raise SiteError(
            f"'{site}' has dims {' x '.join(row['dims'])}: it belongs to a text and is not laid "
            "out over the image; choose queries or an output as the feature site"
        )
    rows, columns = row["shape"][:2]
    return rows, columns


def labelled_features(
    tensor: Tensor, site: Site, grid: tuple[int, int], size: tuple[int, int]
) -> xr.DataArray:
    """Return a site's tensor as features of the image.

    Args:
        tensor: Tokens (row, location, channel) or maps (row, channel, y, x). The last row is used,
            which is the conditional one of two guidance halves.
        site: Site of the tensor.
        grid: Grid, as `feature_grid` returns it.
        size: Height and width of the image in pixels; coordinates are in these pixels.

    Returns:
        Features (source_y, source_x, channel), float32.

    Raises:
        SiteError: The tensor has another grid than the catalogue says.
    """
    rows, columns = grid
    found = tensor[-1].float().cpu()
    if tensor.ndim == 4:
        found = rearrange(found, "c y x -> (y x) c")
    if len(found) != rows * columns:
        raise SiteError(
            f"'{site}' returned a tensor of shape {tuple(tensor.shape)} where {rows} x {columns} "
            "locations were expected: the UNet works on another grid than its configuration says, "
            "as with token merging; remove that"
        )
    height, width = size
    return xr.DataArray(
        rearrange(found.numpy(), "(y x) c -> y x c", y=rows),
        dims=(SOURCE_Y, SOURCE_X, CHANNEL),
        coords={SOURCE_Y: pixel_centres(rows, height), SOURCE_X: pixel_centres(columns, width)},
        name="features",
    )
