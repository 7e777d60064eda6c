"""`respond()`: which pixels move, and how, when latent locations or masks are shifted."""

from __future__ import annotations

import os
from collections.abc import Mapping
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
from emerdiff_probe.emerdiff.features import Observation, low_resolution_masks, observe
from emerdiff_probe.emerdiff.provenance import provenance, request
from emerdiff_probe.errors import CaptureError, ConfigError, InputError, SiteError
from emerdiff_probe.inputs import Photo, Prompt
from emerdiff_probe.models import Denoiser, Model, as_model
from emerdiff_probe.models.identity import identity
from emerdiff_probe.store import ResponseStore, open_responses

__all__ = ["Dtype", "cast", "frame", "located", "respond"]

Dtype = Literal["float16", "float32"]

_GROUP: Final = 64
"""Masks that share one unmodulated run: enough that it costs little. They are resumed together."""


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
        ConfigError: Settings that do not go together, no such engine, or other settings or another
            model than the store was begun with.
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
    about, kept = identity(model), None
    if store is not None:
        kept = ResponseStore(store, about, request(source, to, engine, config, dtype))
    observation = observe(model, source, config, progress=progress)
    rest = frame(model, observation, config, provenance(about, source, observation, engine, config))
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
    every = list(np.ndindex(shape))
    # Shifts that are computed together round together, so what is lost of a group is made by all.
    groups = [every[first : first + _GROUP] for first in range(0, len(every), _GROUP)]
    left = [group for group in groups if not done.issuperset(group)]
    with (
        kept or nullcontext(),
        tqdm(
            total=sum(map(len, left)), desc="responses", unit="shift", disable=not progress
        ) as bar,
    ):
        for group in left:
            flat = [int(np.ravel_multi_index(index, shape)) for index in group]
            modulated = modulate(model, observation.trajectory, weights[flat], config)
            found = (each for batch in decoded(model, modulated, config) for each in batch)
            for index, each in zip(group, found, strict=True):
                if kept is None:
                    assert values is not None
                    values[index] = cast(each, dtype)
                elif index not in done:
                    kept.write(index, cast(each, dtype))
                bar.update()
    if kept is not None:
        return open_responses(kept.path)
    result = rest.assign(response=(response.dims, values))
    schema.check(result)
    return result


def frame(
    model: Denoiser,
    observation: Observation,
    config: EmerDiffConfig,
    attributes: Mapping[str, str],
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
            **attributes,
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
