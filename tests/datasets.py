"""Segmentations made by hand, for what only looks at them."""

import json

import numpy as np
import xarray as xr

from emerdiff_probe.schema import SEGMENTATION, pixel_centres


def bands(height=48, width=64, masks=4, grid=(4, 8), model_grid=(32, 32), **attrs):
    """Upright bands of equal width, one a mask: segment = the band that a pixel's centre is in."""

    def band(count):
        return (np.arange(count) + 0.5) * masks // count

    rows, columns = grid
    labels = np.tile(band(width).astype(np.int16), (height, 1))
    low_res = np.tile(band(columns).astype(np.int16), (rows, 1))
    rng = np.random.default_rng(0)
    zeros = np.zeros
    return xr.Dataset(
        {
            "labels": (("y", "x"), labels),
            "strength": (("y", "x"), labels.astype(np.float32) + 0.25),
            "margin": (("y", "x"), np.full((height, width), 0.5, np.float32)),
            "low_res": (("source_y", "source_x"), low_res),
            "masks": (
                ("mask", "source_y", "source_x"),
                (low_res == np.arange(masks)[:, None, None]).astype(np.float32),
            ),
            "difference": (("mask", "model_y", "model_x"), zeros((masks, *model_grid), np.float32)),
            "embeddings": (("mask", "channel"), zeros((masks, 3), np.float32)),
            "features": (("source_y", "source_x", "channel"), zeros((*grid, 3), np.float32)),
            "picture": (
                ("y", "x", "rgb"),
                rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
            ),
            "reconstruction": (("model_y", "model_x", "rgb"), zeros((*model_grid, 3), np.float32)),
        },
        coords={
            "y": pixel_centres(height, height),
            "x": pixel_centres(width, width),
            "source_y": pixel_centres(rows, height),
            "source_x": pixel_centres(columns, width),
            "model_y": pixel_centres(model_grid[0], height),
            "model_x": pixel_centres(model_grid[1], width),
            "mask": np.arange(masks),
            "rgb": ["r", "g", "b"],
        },
        attrs={
            "schema": SEGMENTATION,
            "model": "playground",
            "weights": "0123",
            "engine": "literal",
            "source": "photo 'cat'",
            "fit": "unchanged",
            "config": json.dumps({"steps": 50}),
            "versions": json.dumps({"emerdiff-probe": "0"}),
            "inversion": json.dumps({"method": "edit_friendly"}),
        }
        | attrs,
    )
