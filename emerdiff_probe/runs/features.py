"""Features: one site's tensor at one timestep, laid out over the image."""

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

    The catalogue tells, never the number of locations: 64 tokens of a text are no 8 x 8 grid.

    Args:
        model: Whose site it is; it is not run.
        site: The site.
        size: Height and width in pixels, as the model sees the image.

    Raises:
        SiteError: There is no such site, or it is not laid out over the image.
    """
    height, width = size
    row = model.sites(str(site), height=height, width=width).iloc[0]
    if TOKEN in row["dims"]:
        raise SiteError(
            f"'{site}' has dims {' x '.join(row['dims'])}: it is of a text, not laid out over the "
            "image; choose queries or an output as the feature site"
        )
    rows, columns = row["shape"][:2]
    return rows, columns


def labelled_features(
    tensor: Tensor, site: Site, grid: tuple[int, int], size: tuple[int, int]
) -> xr.DataArray:
    """Return a site's tensor as features of the image.

    Args:
        tensor: Tokens (row, location, channel) or maps (row, channel, y, x). The last row counts,
            which of two guidance halves is the conditional one.
        site: The site it is of.
        grid: From `feature_grid`.
        size: Height and width of the image, whose pixels the coordinates are in.

    Returns:
        (source_y, source_x, channel), float32.

    Raises:
        SiteError: The site gave a tensor of another grid than the catalogue says.
    """
    rows, columns = grid
    found = tensor[-1].float().cpu()
    if tensor.ndim == 4:
        found = rearrange(found, "c y x -> (y x) c")
    if len(found) != rows * columns:
        raise SiteError(
            f"'{site}' gave a tensor of shape {tuple(tensor.shape)} where {rows} x {columns} "
            "locations were expected: the UNet works on another grid than its configuration says, "
            "as token merging does; take that away"
        )
    height, width = size
    return xr.DataArray(
        rearrange(found.numpy(), "(y x) c -> y x c", y=rows),
        dims=(SOURCE_Y, SOURCE_X, CHANNEL),
        coords={SOURCE_Y: pixel_centres(rows, height), SOURCE_X: pixel_centres(columns, width)},
        name="features",
    )
