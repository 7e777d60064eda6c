"""`respond()`: which pixels move, and how, when latent locations or masks are shifted."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import nullcontext
from typing import Any, Final, Literal

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from tqdm.auto import tqdm

from emerdiff_probe import schema
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.engines import decoded, engine_named
from emerdiff_probe.emerdiff.features import (
    Observation,
    described,
    low_resolution_masks,
    observe,
)
from emerdiff_probe.errors import CaptureError, ConfigError, InputError, SiteError
from emerdiff_probe.inputs import Photo, Prompt
from emerdiff_probe.models import Denoiser, Model, as_model
from emerdiff_probe.store import ResponseStore, open_responses

__all__ = ["Dtype", "cast", "frame", "identity", "located", "respond"]

Dtype = Literal["float16", "float32"]

_GROUP: Final = 64
"""Masks that share one unmodulated run: enough that it costs little."""


def respond(
    model: Model,
    source: Prompt | Photo,
    to: Literal["locations"] | int | ArrayLike = "locations",
    *,
    engine: str = "shared",
    config: EmerDiffConfig | None = None,
    dtype: Dtype = "float16",
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Shifts latent locations or masks one by one and keeps what the picture answers.

    A response is I+ minus I-, the difference of the images of the two modulated runs (Namekata et
    al. 2024, section 3.2), signed and in RGB: responses can be added, their norms cannot.

    Args:
        model: From `emerdiff_probe.load`, or a diffusers pipeline.
        source: A photograph, or a prompt, whose picture is generated first.
        to: "locations", every latent location of the modulated site by itself; or masks, as
            `emerdiff_probe.segment` takes them: how many, or an array.
        engine: How modulated runs are computed; see `emerdiff_probe.emerdiff.ENGINES`.
        config: Settings; by default those chosen for the model.
        dtype: What responses are cast to.
        store: A folder to stream to, one chunk a location or mask. The same call continues one
            that was interrupted. Without it all is kept in memory.
        progress: Shows a bar with the time left.

    Returns:
        A dataset, described in `emerdiff_probe.schema`: ``response (source_y, source_x, rgb, y,
        x)`` or ``(mask, rgb, y, x)``; y and x are pixel centres of the picture as the model sees
        it, source_y and source_x of latent locations in the same pixels. Beside it ``picture`` and
        ``reconstruction``, the image of the unmodulated run; ``features``, where they lie on the
        same locations; of masks also ``masks`` and ``low_res``.

    Raises:
        InputError: The source or the masks cannot be used.
        ConfigError: Settings that do not go together, other ones than the store was begun with, or
            no such engine.
        CaptureError: Responses do not fit the dtype.
        SiteError: Masks and the modulated site lie on different grids.
        StoreError: The folder is something else, or the disk has too little room.
    """
    model = as_model(model)
    config = config or EmerDiffConfig.for_model(model)
    modulate = engine_named(engine)
    if config.space != "picture":
        raise ConfigError("responses are of pictures, and space is 'latent'; choose 'picture'")
    if dtype not in ("float16", "float32"):
        raise ConfigError(f"dtype is {dtype!r}; choose float16 or float32")
    if isinstance(to, str) and to != "locations":
        raise InputError(f"to is {to!r}; give 'locations', a number of masks, or an array of masks")
    kept = None
    if store is not None:
        kept = ResponseStore(store, identity(model, source, to, engine, config, dtype))
    observation = observe(model, source, config, progress=progress)
    rest = frame(model, source, observation, engine, config)
    grid = rest.attrs.pop("grid")
    if isinstance(to, str):
        shape: tuple[int, ...] = grid
        dims: tuple[str, ...] = (schema.SOURCE_Y, schema.SOURCE_X)
        weights = torch.eye(grid[0] * grid[1]).reshape(-1, *grid)
    else:
        masks = low_resolution_masks(observation.features, to, config)
        if masks.shape[1:] != grid:
            raise SiteError(
                f"masks have {masks.shape[1:]} locations, '{config.modulation_site}' has {grid}; "
                "choose a feature site and a modulation site of one level"
            )
        low_res = masks.values.argmax(0).astype(np.int16)
        rest = rest.assign_coords({schema.MASK: np.arange(len(masks))}).assign(
            masks=(masks.dims, masks.values), low_res=(masks.dims[1:], low_res)
        )
        shape, dims = (len(masks),), (schema.MASK,)
        weights = torch.from_numpy(masks.values)
    picture = observation.pixels.shape[:2]
    # Not filled yet: with a store it never is.
    empty: NDArray[Any] = np.zeros((), dtype)
    response = xr.DataArray(
        np.broadcast_to(empty, (*shape, 3, *picture)), dims=(*dims, schema.RGB, schema.Y, schema.X)
    )
    values = np.empty(response.shape, dtype) if kept is None else None
    done: set[tuple[int, ...]] = set()
    if kept is not None:
        kept.begin(rest, response)
        done = kept.committed
    left = [index for index in np.ndindex(shape) if index not in done]
    with (
        kept or nullcontext(),
        tqdm(total=len(left), desc="responses", unit="shift", disable=not progress) as bar,
    ):
        for first in range(0, len(left), _GROUP):
            group = left[first : first + _GROUP]
            flat = [int(np.ravel_multi_index(index, shape)) for index in group]
            modulated = modulate(model, observation.trajectory, weights[flat], config)
            found = (each for batch in decoded(model, modulated, config) for each in batch)
            for index, each in zip(group, found, strict=True):
                if kept is None:
                    assert values is not None
                    values[index] = cast(each, dtype)
                else:
                    kept.write(index, cast(each, dtype))
                bar.update()
    if kept is not None:
        return open_responses(kept.path)
    result = rest.assign(response=(response.dims, values))
    schema.check(result)
    return result


def frame(
    model: Denoiser,
    source: Prompt | Photo,
    observation: Observation,
    engine: str,
    config: EmerDiffConfig,
) -> xr.Dataset:
    """All of a dataset of responses but these: pictures, features, coordinates and provenance.

    The attribute ``grid``, rows and columns of the modulated site, is for the caller to take out.
    """
    height, width = observation.pixels.shape[:2]
    table = model.sites(config.modulation_site, height=height, width=width)
    rows, columns = table["shape"].iloc[0][:2]
    with torch.inference_mode():
        rebuilt = model.decode(observation.trajectory.passed(model)[-1]).clamp(0, 1)
    coords = {
        schema.Y: schema.pixel_centres(height, height),
        schema.X: schema.pixel_centres(width, width),
        schema.SOURCE_Y: schema.pixel_centres(rows, height),
        schema.SOURCE_X: schema.pixel_centres(columns, width),
        schema.RGB: ["r", "g", "b"],
    }
    dims = (schema.Y, schema.X, schema.RGB)
    rest = xr.Dataset(
        {
            "picture": (dims, np.round(observation.pixels * 255).astype(np.uint8)),
            "reconstruction": (dims, rearrange(rebuilt, "1 rgb y x -> y x rgb").cpu().numpy()),
        },
        coords=coords,
        attrs={
            "schema": schema.RESPONSES,
            "model": model.name,
            "weights": model.weights,
            "engine": engine,
            "source": described(source),
            "file": getattr(source, "file", ""),
            "fit": observation.fit,
            "config": config.to_json(),
            "model_description": json.dumps(dict(model.description)),
            "inversion": json.dumps(observation.diagnostics),
            "versions": json.dumps(schema.package_versions()),
            "grid": (rows, columns),
        },
    )
    features = observation.features
    if features.shape[:2] == (rows, columns):
        rest["features"] = (features.dims, features.values)
    return rest


def located(response: NDArray[Any], like: xr.Dataset) -> xr.DataArray:
    """One response with its labels.

    Args:
        response: Shape (rgb, y, x).
        like: From `frame`.
    """
    dims = (schema.RGB, schema.Y, schema.X)
    return xr.DataArray(
        response, dims=dims, coords={dim: like[dim] for dim in dims}, name="response"
    )


def cast(response: Tensor, dtype: Dtype) -> NDArray[Any]:
    """A response as an array.

    Raises:
        CaptureError: Its values do not fit.
    """
    array = response.float().cpu().numpy()
    with np.errstate(over="ignore"):
        narrow = array.astype(dtype)
    if not np.isfinite(narrow).all():
        raise CaptureError(
            f"responses reach {np.abs(array).max():g}, which {dtype} cannot hold; choose "
            "dtype='float32', or a smaller strength"
        )
    return narrow


def identity(
    model: Denoiser,
    source: Prompt | Photo,
    to: str | int | ArrayLike,
    engine: str,
    config: EmerDiffConfig,
    dtype: str,
) -> dict[str, Any]:
    """All that decides the values of responses."""
    about = described(source)
    if isinstance(source, Photo):
        about = f"{about} {_digest(source.rgb())}"
    settings = json.loads(config.to_json())
    del settings["batch"]
    return {
        "weights": model.weights,
        "source": about,
        "to": to if isinstance(to, str | int) else _identified(to),
        "engine": engine,
        "config": settings,
        "dtype": dtype,
    }


def _identified(masks: Any) -> int | str:
    return int(masks) if isinstance(masks, np.integer) else _digest(np.asarray(masks))


def _digest(array: NDArray[Any]) -> str:
    about = f"{array.shape} {array.dtype}".encode()
    return hashlib.blake2b(about + array.tobytes(), digest_size=8).hexdigest()
