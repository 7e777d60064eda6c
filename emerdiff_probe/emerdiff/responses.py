"""Compute responses: which pixels change, and how, when latent locations or masks are shifted."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any, Final, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from emerdiff_probe import schema
from emerdiff_probe.emerdiff.asking import made_for, settled
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.engines import ENGINES, decoded, engine_of
from emerdiff_probe.emerdiff.masks import Masks, low_resolution_masks
from emerdiff_probe.emerdiff.provenance import attributes, request
from emerdiff_probe.errors import CaptureError, ConfigError, InputError, SiteError
from emerdiff_probe.models import Model
from emerdiff_probe.models.identity import identity
from emerdiff_probe.runs import Run
from emerdiff_probe.store import ResponseStore, open_responses, single

__all__ = ["Dtype", "cast", "frame", "latent_grid", "located", "respond", "respond_run"]

Dtype = Literal["float16", "float32"]

_GROUP: Final = 64
"""The number of masks that share one unmodulated run, enough to make its cost small. They are
resumed together.
"""


def respond(
    model: Model,
    source: Any,
    masks: Masks = "locations",
    *,
    engine: str | None = None,
    seed: int | None = None,
    config: EmerDiffConfig | None = None,
    dtype: Dtype = "float16",
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **settings: Any,
) -> xr.Dataset:
    """Shift latent locations or masks one by one and return the changes of the image.

    A response is I+ minus I-, the difference of the images of the two modulated runs (Namekata et
    al. 2024, section 3.2), signed and in RGB: responses can be added, their norms cannot.

    This is short for ``ep.invert(model, image).respond(...)``, or ``ep.generate(model, prompt)``.

    Args:
        model: A model from `emerdiff_probe.load`, or a diffusers pipeline.
        source: A file, image or array, `emerdiff_probe.Photo`, or a prompt, whose image is
            generated.
        masks: "locations", every latent location of the modulated site by itself; or masks, as for
            `emerdiff_probe.segment`: their number, "auto", or an array.
        engine: The engine of modulated runs; see `emerdiff_probe.emerdiff.ENGINES`.
        seed: The seed of all noise; by default a prompt's own, else 0.
        config: All settings; by default those that fit the model.
        dtype: The dtype of responses, "float16" or "float32".
        store: A folder to stream to, one chunk for each location or mask. The same call resumes an
            interrupted one. By default, responses are kept in memory.
        progress: Whether to show a progress bar.
        **settings: Single settings, as attributes of `emerdiff_probe.EmerDiffConfig`.

    Returns:
        A dataset, described in `emerdiff_probe.schema`: ``response (source_y, source_x, rgb, y,
        x)`` or ``(mask, rgb, y, x)``. Its y and x are the centres, in pixels of the image's own
        size, of the pixels that the model sees; source_y and source_x are those of latent
        locations, in the same pixels. It also has ``picture`` and ``reconstruction``, the image of
        the unmodulated run; ``features``, if they have the same locations; and, for masks,
        ``masks`` and ``low_res``.

    Raises:
        InputError: The input or the masks cannot be used.
        ConfigError: Settings contradict each other or those that the store was begun with, or there
            is no such engine.
        CaptureError: Responses do not fit the dtype.
        SiteError: Masks and the modulated site lie on different grids.
        StoreError: The folder holds something else, or the disk has too little room.
    """
    run, config = made_for(model, source, config, seed=seed, progress=progress, **settings)
    return respond_run(
        run, masks, engine=engine, config=config, dtype=dtype, store=store, progress=progress
    )


def respond_run(
    run: Run,
    masks: Masks = "locations",
    *,
    engine: str | None = None,
    config: EmerDiffConfig | None = None,
    dtype: Dtype = "float16",
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **settings: Any,
) -> xr.Dataset:
    """Shift locations or masks of a run one by one; see `respond`."""
    config = settled(run, config, settings)
    engine = engine_of(run, engine, config)
    modulate = ENGINES[engine]
    if config.space != "picture":
        raise ConfigError("responses compare images, and space is 'latent'; choose space='picture'")
    if dtype not in ("float16", "float32"):
        raise ConfigError(f"dtype is {dtype!r}; choose 'float16' or 'float32'")
    if isinstance(masks, str) and masks not in ("locations", "auto"):
        raise InputError(
            f"masks is {masks!r}; give 'locations', 'auto', a number of masks, or an array of masks"
        )
    kept = None
    if store is not None:
        kept = ResponseStore(store, identity(run.model), request(run, masks, engine, config, dtype))
    rest = frame(run, engine, config)
    grid = latent_grid(run, config)
    if isinstance(masks, str) and masks == "locations":
        shape: tuple[int, ...] = grid
        dims: tuple[str, ...] = (schema.SOURCE_Y, schema.SOURCE_X)
        weights = torch.eye(grid[0] * grid[1]).reshape(-1, *grid)
    else:
        found = _masks(run, masks, grid, config)
        low_res = found.values.argmax(0).astype(np.int16)
        rest = rest.assign_coords({schema.MASK: np.arange(len(found))}).assign(
            masks=(found.dims, found.values), low_res=(found.dims[1:], low_res)
        )
        shape, dims = (len(found),), (schema.MASK,)
        weights = torch.from_numpy(found.values)
    # Not filled yet, and with a store never filled.
    empty: NDArray[Any] = np.zeros((), dtype)
    response = xr.DataArray(
        np.broadcast_to(empty, (*shape, 3, *run.model_size)),
        dims=(*dims, schema.RGB, schema.Y, schema.X),
    )
    values = np.empty(response.shape, dtype) if kept is None else None
    done: set[tuple[int, ...]] = set()
    if kept is not None:
        kept.begin(rest, response)
        done = kept.committed
    trajectory = run.trajectory.since(config.modulation_timestep)
    every = list(np.ndindex(shape))
    # Shifts that are computed together round together, so recompute the whole group of what was
    # lost.
    groups = [every[first : first + _GROUP] for first in range(0, len(every), _GROUP)]
    left = [group for group in groups if not done.issuperset(group)]
    with (
        kept or nullcontext(),
        run.intervened(run.trajectory.timesteps),
        tqdm(
            total=sum(map(len, left)), desc="responses", unit="shift", disable=not progress
        ) as bar,
    ):
        for group in left:
            flat = [int(np.ravel_multi_index(index, shape)) for index in group]
            modulated = modulate(run.model, trajectory, weights[flat], config)
            each = (answer for batch in decoded(run.model, modulated, config) for answer in batch)
            for index, answer in zip(group, each, strict=True):
                if kept is None:
                    assert values is not None
                    values[index] = cast(answer, dtype)
                elif index not in done:
                    kept.write(index, cast(answer, dtype))
                bar.update()
    if kept is not None:
        return open_responses(kept.path)
    result = rest.assign(response=(response.dims, values))
    schema.check(result)
    return single(result)


def _masks(run: Run, masks: Masks, grid: tuple[int, int], config: EmerDiffConfig) -> xr.DataArray:
    features = run.features(config.feature_site, config.feature_timestep)
    found = low_resolution_masks(features, masks, config)
    if found.shape[1:] != grid:
        raise SiteError(
            f"masks have {found.shape[1:]} locations, '{config.modulation_site}' has {grid}; "
            "choose a feature site and a modulation site of one level"
        )
    return found


def latent_grid(run: Run, config: EmerDiffConfig) -> tuple[int, int]:
    """Return the number of rows and columns of the modulated site."""
    height, width = run.model_size
    table = run.model.sites(config.modulation_site, height=height, width=width)
    rows, columns = table["shape"].iloc[0][:2]
    return int(rows), int(columns)


def frame(run: Run, engine: str, config: EmerDiffConfig) -> xr.Dataset:
    """Return a dataset of responses without these: images, features, coordinates, provenance."""
    (height, width), (rows, columns) = run.size, run.model_size
    down, across = latent_grid(run, config)
    coords = {
        schema.Y: schema.pixel_centres(rows, height),
        schema.X: schema.pixel_centres(columns, width),
        schema.SOURCE_Y: schema.pixel_centres(down, height),
        schema.SOURCE_X: schema.pixel_centres(across, width),
        schema.RGB: ["r", "g", "b"],
    }
    dims = (schema.Y, schema.X, schema.RGB)
    rest = xr.Dataset(
        {
            "picture": (dims, np.rint(run.pixels * 255).astype(np.uint8)),
            "reconstruction": (dims, run.reconstruction),
        },
        coords=coords,
        attrs=attributes(run, schema.RESPONSES, engine, config),
    )
    features = run.features(config.feature_site, config.feature_timestep)
    if features.shape[:2] == (down, across):
        rest["features"] = (features.dims, features.values)
    return rest


def located(response: NDArray[Any], like: xr.Dataset) -> xr.DataArray:
    """Return one response with its labels.

    Args:
        response: The response, shape (rgb, y, x).
        like: A dataset from `frame`.
    """
    dims = (schema.RGB, schema.Y, schema.X)
    return xr.DataArray(
        response, dims=dims, coords={dim: like[dim] for dim in dims}, name="response"
    )


def cast(response: Tensor, dtype: Dtype) -> NDArray[Any]:
    """Return a response as an array.

    Raises:
        CaptureError: Its values exceed the range of the dtype.
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
