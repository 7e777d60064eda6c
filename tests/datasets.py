"""Segmentations, recordings and responses made by hand, for what only looks at them."""

import json

import numpy as np
import pandas as pd
import xarray as xr

from emerdiff_probe.schema import RECORDING, SEGMENTATION, pixel_centres


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


def recording(timesteps=(981, 281, 1), *, guided=False, prompt="a red house", model="playground"):
    """A recording of noise: a block (4 x 8 places), an attention's queries (2 x 4), its keys."""
    rng = np.random.default_rng(0)
    attention = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
    halves = ["uncond", "cond"] if guided else []
    size, samples = (32, 64), 2
    sites = {
        f"{attention}:query": (("y", "x", "head", "channel"), (2, 4, 2, 3)),
        f"{attention}:key": (("token", "head", "channel"), (5, 2, 3)),
        "mid_block:out": (("y", "x", "channel"), (4, 8, 5)),
    }

    def leaf(dims, shape, dtype, guided, timed=True):
        dims = ("sample", *["guidance"] * guided, *["timestep"] * timed, *dims)
        shape = (samples, *[2] * guided, *[len(timesteps)] * timed, *shape)
        values = rng.normal(size=shape) if dtype != "uint8" else rng.integers(0, 256, shape)
        coords = {
            dim: pixel_centres(count, size[dim == "x"])
            for dim, count in zip(dims, shape, strict=True)
            if dim in ("y", "x")
        }
        return xr.Dataset({"value": (dims, values.astype(dtype))}, coords)

    nodes = {
        name.replace(".", "/").replace(":", "/"): leaf(*site, "float32", bool(halves))
        for name, site in sites.items()
    }
    nodes["latents"] = leaf(("y", "x", "channel"), (8, 16, 4), "float32", False)
    nodes["image"] = leaf(("y", "x", "rgb"), (*size, 3), "uint8", False, timed=False)
    words = ["<|startoftext|>", "red", "<b>", "house", "<|endoftext|>"]
    root = xr.Dataset(
        coords={
            "timestep": list(timesteps),
            "step": ("timestep", np.arange(len(timesteps))),
            "sample": np.arange(samples),
            "prompt": ("sample", [prompt] * samples),
            "seed": ("sample", np.arange(samples)),
            "source": ("sample", ["prompt"] * samples),
            "token_text": (
                ("sample", *["guidance"] * guided, "token"),
                np.broadcast_to(words, (samples, *[2] * guided, 5)),
            ),
            **({"guidance": halves} if halves else {}),
        },
        attrs={
            "schema": RECORDING,
            "config": json.dumps({"sites": list(sites)}),
            "model": json.dumps({"name": model}),
        },
    )
    return xr.DataTree.from_dict({"/": root, **nodes})


_PLAIN = json.dumps(
    {"normalise": "none", "restarts": 10, "seed": 0, "sigma": 0, "balance": "none", "elsewhere": 1}
)


def responses(height=16, width=32, grid=(2, 4), size=None, **attrs):
    """Each location moves the pixels of its own cell, and a little those of the first row.

    Positions are in pixels of an image of ``size``, by default that which the model sees.
    """
    rows, columns = grid
    tall, wide = size or (height, width)
    rng = np.random.default_rng(0)
    response = np.zeros((rows, columns, 3, height, width), np.float16)
    down, across = height // rows, width // columns
    for row, column in np.ndindex(grid):
        cell = (slice(row * down, (row + 1) * down), slice(column * across, (column + 1) * across))
        signs = rng.choice([-1, 1], size=(3, down, across))
        response[row, column][:, *cell] = signs * (1 + row * columns + column) / 8
        response[row, column, 0, 0] += 0.0625
    return xr.Dataset(
        {
            "response": (("source_y", "source_x", "rgb", "y", "x"), response),
            "picture": (
                ("y", "x", "rgb"),
                rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
            ),
            # Rows are alike, and so are, a little less, the halves of a row.
            "features": (
                ("source_y", "source_x", "channel"),
                np.stack(
                    np.broadcast_arrays(
                        np.arange(rows, dtype=np.float32)[:, None],
                        (np.arange(columns, dtype=np.float32) * 2 // columns) / 4,
                        np.float32(1),
                    ),
                    -1,
                ),
            ),
        },
        coords={
            "y": pixel_centres(height, tall),
            "x": pixel_centres(width, wide),
            "source_y": pixel_centres(rows, tall),
            "source_x": pixel_centres(columns, wide),
            "rgb": ["r", "g", "b"],
        },
        attrs={"model": "playground", "source": "photo 'cat'", "config": _PLAIN} | attrs,
    )


def sites_table():
    """Of four sites of two levels, as ``model.sites()`` gives it."""
    attention = "attentions.0.transformer_blocks.0.attn2"
    names = ["mid_block:out", f"mid_block.{attention}:out", "up_blocks.1:out"]
    return pd.DataFrame(
        {
            "kind": ["block", "attention", "block", "attention"],
            "level": [8, 8, 16, 16],
            "shape": ["(64, 8, 8)", "(64, 8, 8)", "(32, 16, 16)", "(32, 16, 16)"],
            "bytes": [2**13, 2**13, 2**14, 2**14],
        },
        index=[*names, f"up_blocks.1.{attention}:out"],
    )
