"""Recordings made by hand, for what only reads them."""

import numpy as np
import xarray as xr

from emerdiff_probe.schema import pixel_centres


def layer(values, size=32, **coords):
    """A labelled layer from an array (sample[, timestep], y, x, channel)."""
    values = np.asarray(values)
    dims = ("sample", "timestep", "y", "x", "channel")
    dims = dims if values.ndim == 5 else tuple(dim for dim in dims if dim != "timestep")
    rows, columns = values.shape[-3:-1]
    places = {"y": pixel_centres(rows, size), "x": pixel_centres(columns, size)}
    return xr.DataArray(values, dims=dims, coords=places | coords)


def recording(layers, pictures, timesteps):
    """A tree as `emerdiff_probe.record` makes it.

    Args:
        layers: Arrays (sample, timestep, y, x, channel) by the path of their leaf.
        pictures: uint8 (sample, y, x, rgb).
        timesteps: Of all layers.
    """
    root = xr.Dataset(coords={"timestep": list(timesteps)})
    leaves = {path: layer(values, pictures.shape[1]).to_dataset(name="value")
              for path, values in layers.items()}  # fmt: skip
    leaves["image"] = xr.Dataset({"value": (("sample", "y", "x", "rgb"), pictures)})
    return xr.DataTree.from_dict({"/": root, **leaves})


def features_of(values):
    """Features of one picture of 64 x 64 pixels, from an array (y, x, channel)."""
    height, width, _ = np.shape(values)
    return xr.DataArray(
        np.asarray(values, np.float32),
        dims=("source_y", "source_x", "channel"),
        coords={"source_y": pixel_centres(height, 64), "source_x": pixel_centres(width, 64)},
        name="value",
        attrs={"site": "somewhere"},
    )
