"""`sweep()`: one picture and its masks under every combination of some settings."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from tqdm.auto import tqdm

from emerdiff_probe import schema
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.features import Observation, low_resolution_masks, observe
from emerdiff_probe.emerdiff.provenance import provenance, request
from emerdiff_probe.emerdiff.segmentation import segment
from emerdiff_probe.errors import CaptureError, ConfigError
from emerdiff_probe.inputs import Photo, Prompt
from emerdiff_probe.models import Model, as_model
from emerdiff_probe.models.identity import identity
from emerdiff_probe.segments import assign, balanced
from emerdiff_probe.store import ResponseStore, open_responses

__all__ = ["sweep"]


def sweep(
    model: Model,
    source: Prompt | Photo,
    over: Mapping[str, Sequence[Any]],
    *,
    masks: int | ArrayLike = 12,
    engine: str = "shared",
    config: EmerDiffConfig | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Segments a picture under every combination of settings, from the same masks.

    Args:
        model: From `emerdiff_probe.load`, or a diffusers pipeline.
        source: A photograph, or a prompt, whose picture is generated first.
        over: Values by setting, as ``{"strength": [5, 10, 20], "modulation_timestep": [281]}``.
        masks: As `emerdiff_probe.segment` takes them; clustered once, with ``config`` as it is.
        engine: How modulated runs are computed; see `emerdiff_probe.emerdiff.ENGINES`.
        config: The other settings; by default those chosen for the model.
        store: A folder to stream difference maps to. The same call continues one that was
            interrupted.
        progress: Shows a bar with the time left.

    Returns:
        A dataset with a dimension for each setting: ``difference`` (settings, mask, model_y,
        model_x), float16; ``labels`` (settings, y, x), int16, in the photograph's own size; and
        ``masks``, ``low_res`` and ``picture``. Scores are a line:
        ``ds.labels.groupby(["strength"]).map(...)``.

    Raises:
        ConfigError: No such setting, a value that it cannot have, or other settings or another
            model than the store was begun with.
        CaptureError: Difference maps that float16 cannot hold.
    """
    model = as_model(model)
    config = config or EmerDiffConfig.for_model(model)
    names = list(over)
    # As the settings have them: numbers of NumPy are Python's own there.
    values = [
        [getattr(config.replace(**{name: each}), name) for each in over[name]] for name in names
    ]
    if not names or not all(values):
        raise ConfigError(f"over is {dict(over)}; give at least one value of one setting")
    configs = {
        index: config.replace(**dict(zip(names, combination, strict=True)))
        for index, combination in zip(
            np.ndindex(*map(len, values)), itertools.product(*values), strict=True
        )
    }
    about, kept = identity(model), None
    if store is not None:
        asked = request(source, masks, engine, config, "float16")
        asked["over"] = {
            name: list(map(str, each)) for name, each in zip(names, values, strict=True)
        }
        kept = ResponseStore(store, about, asked, "difference", schema.SWEEP)
    observation = observe(model, source, config, progress=progress)
    weights = low_resolution_masks(observation.features, masks, config)
    rest = _rest(observation, weights).assign_attrs(
        schema=schema.SWEEP, **provenance(about, source, observation, engine, config)
    )
    rest = rest.assign_coords(dict(zip(names, values, strict=True)))
    height, width = observation.pixels.shape[:2]
    places = {
        schema.MODEL_Y: schema.pixel_centres(height, rest.sizes[schema.Y]),
        schema.MODEL_X: schema.pixel_centres(width, rest.sizes[schema.X]),
    }
    rest = rest.assign_coords(places)
    dims = (*names, schema.MASK, schema.MODEL_Y, schema.MODEL_X)
    shape = (*map(len, values), len(weights), height, width)
    maps = np.zeros(shape, np.float16) if kept is None else np.broadcast_to(np.float16(0), shape)
    done: set[tuple[int, ...]] = set()
    if kept is not None:
        kept.begin(rest, xr.DataArray(maps, dims=dims))
        done = kept.committed
    with kept or nullcontext():
        for index in tqdm(
            [each for each in configs if each not in done], "sweep", disable=not progress
        ):
            result = segment(
                model,
                source,
                masks=weights.values,
                engine=engine,
                config=configs[index],
                progress=False,
            )
            found = result["difference"].values.astype(np.float16)
            if not np.isfinite(found).all():
                raise CaptureError(
                    f"difference maps of {configs[index]} reach "
                    f"{float(result['difference'].max()):g}, which float16 cannot "
                    "hold; choose a smaller strength"
                )
            if kept is None:
                maps[index] = found
            else:
                kept.write(index, found)
    if kept is None:
        rest["difference"] = (dims, maps)
    else:
        rest = open_responses(kept.path, schema.SWEEP)
    swept = rest.assign(labels=_labels(rest, configs, tuple(names)))
    schema.check(swept)
    return swept


def _rest(observation: Observation, weights: xr.DataArray) -> xr.Dataset:
    picture = observation.picture
    height, width = picture.shape[:2]
    ds = weights.to_dataset(name="masks")
    ds["low_res"] = weights.argmax(schema.MASK).astype(np.int16)
    ds["picture"] = ((schema.Y, schema.X, schema.RGB), picture)
    return ds.assign_coords(
        {
            schema.Y: schema.pixel_centres(height, height),
            schema.X: schema.pixel_centres(width, width),
            schema.RGB: ["r", "g", "b"],
        }
    )


def _labels(
    ds: xr.Dataset, configs: Mapping[tuple[int, ...], EmerDiffConfig], names: tuple[str, ...]
) -> xr.DataArray:
    shape = (*(ds.sizes[name] for name in names), ds.sizes[schema.Y], ds.sizes[schema.X])
    labels = np.zeros(shape, np.int16)
    for index, config in configs.items():
        chosen = ds["difference"].isel(dict(zip(names, index, strict=True)))
        difference = chosen.astype(np.float32).reset_coords(names, drop=True).load()
        fair = balanced(difference, ds["masks"], config.balance, config.elsewhere)
        labels[index] = assign(fair, ds[schema.Y], ds[schema.X])["labels"].values
    return xr.DataArray(labels, dims=(*names, schema.Y, schema.X))
