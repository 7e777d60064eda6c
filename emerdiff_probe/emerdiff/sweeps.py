"""Sweep over settings: segment one run with its masks under every combination."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from emerdiff_probe import schema
from emerdiff_probe.emerdiff.asking import settled
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.engines import ENGINES, engine_of, prepared
from emerdiff_probe.emerdiff.literal import Modulated
from emerdiff_probe.emerdiff.masks import Masks, low_resolution_masks
from emerdiff_probe.emerdiff.provenance import attributes, request
from emerdiff_probe.emerdiff.segmentation import difference_maps
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.models.identity import identity
from emerdiff_probe.runs import Run
from emerdiff_probe.segments import assign, balanced, smooth
from emerdiff_probe.store import ResponseStore, open_responses

__all__ = ["sweep_run"]

_WATCHED: Final = ("modulation_site", "modulation_timestep", "injection", "short_steps")
"""Settings that determine what is kept of the unmodulated run."""

_MODULATED: Final = ("strength", "sides")
"""Settings that determine the modulated runs besides those."""

_MAPPED: Final = ("space", "sigma", "balance", "elsewhere", "batch")
"""Settings that determine the maps made from modulated runs, without calling the network."""

Index = tuple[int, ...]


def sweep_run(
    run: Run,
    masks: Masks = 20,
    *,
    engine: str | None = None,
    config: EmerDiffConfig | None = None,
    store: str | os.PathLike[str] | None = None,
    progress: bool = True,
    **over: Any,
) -> xr.Dataset:
    """Segment a run under every combination of settings; see `emerdiff_probe.runs.Run.sweep`."""
    values = {name: list(each) for name, each in over.items() if _is_many(each)}
    base = settled(run, config, {name: each for name, each in over.items() if name not in values})
    engine = engine_of(run, engine, base)
    _check(values)
    # Use the values as the settings hold them: there NumPy numbers are Python's own.
    values = {
        name: [getattr(base.replace(**{name: each}), name) for each in many]
        for name, many in values.items()
    }
    configs = {
        index: base.replace(**dict(zip(values, combination, strict=True)))
        for index, combination in zip(
            np.ndindex(*map(len, values.values())),
            itertools.product(*values.values()),
            strict=True,
        )
    }
    for each in configs.values():
        settled(run, each, {})
    kept = None
    if store is not None:
        asked = request(run, masks, engine, base, "float32")
        asked["over"] = {name: list(map(str, each)) for name, each in values.items()}
        kept = ResponseStore(store, identity(run.model), asked, "difference", schema.SWEEP)
    features = run.features(base.feature_site, base.feature_timestep)
    weights = low_resolution_masks(features, masks, base)
    rest = _rest(run, weights, engine, base).assign_coords(values)
    dims = (*values, schema.MASK, schema.MODEL_Y, schema.MODEL_X)
    shape = (*map(len, values.values()), len(weights), *run.model_size)
    maps = np.zeros(shape, np.float32) if kept is None else np.broadcast_to(np.float32(0), shape)
    done: set[Index] = set()
    if kept is not None:
        kept.begin(rest, xr.DataArray(maps, dims=dims))
        done = kept.committed
    left = {index: each for index, each in configs.items() if index not in done}
    with kept or nullcontext(), tqdm(total=len(left), desc="sweep", disable=not progress) as bar:
        for index, found in _maps(run, weights, engine, left):
            if kept is None:
                maps[index] = found
            else:
                kept.write(index, found)
            bar.update()
    if kept is None:
        rest["difference"] = (dims, maps)
    else:
        rest = open_responses(kept.path, schema.SWEEP)
    swept = rest.assign(labels=_labels(rest, configs, tuple(values)))
    schema.check(swept)
    return swept


def _is_many(value: Any) -> bool:
    return isinstance(value, list | tuple | range) or (
        isinstance(value, np.ndarray | xr.DataArray) and value.ndim == 1
    )


def _check(values: Mapping[str, list[Any]]) -> None:
    if not values or not all(values.values()):
        raise ConfigError(
            f"a sweep takes lists of values, and was given {dict(values) or 'none'}; give at "
            "least one value of one setting, as in run.sweep(sigma=[0, 1, 2])"
        )
    known = (*_WATCHED, *_MODULATED, *_MAPPED)
    if others := [name for name in values if name in EmerDiffConfig.names() and name not in known]:
        raise ConfigError(
            f"{others[0]} changes the masks, which a sweep clusters once; give one value, and "
            f"sweep over {', '.join(known)}"
        )


def _maps(
    run: Run, weights: xr.DataArray, engine: str, configs: Mapping[Index, EmerDiffConfig]
) -> Iterator[tuple[Index, NDArray[np.float32]]]:
    """Yield the filtered difference maps of each combination; nothing is computed twice."""
    masks = torch.from_numpy(weights.values)
    for watched in _grouped(configs, _WATCHED):
        first = next(iter(watched.values()))
        groups = list(_grouped(watched, _MODULATED))
        modulate = _engine(run, engine, first, many=len(groups) > 1)
        for modulated_alike in groups:
            config = next(iter(modulated_alike.values()))
            with run.intervened(run.trajectory.timesteps):
                modulated = modulate(masks, config)
            for mapped_alike in _grouped(modulated_alike, ("space",)):
                raw = difference_maps(run, modulated, next(iter(mapped_alike.values())))
                for index, each in mapped_alike.items():
                    yield index, smooth(raw, each.sigma).values


def _engine(
    run: Run, engine: str, config: EmerDiffConfig, *, many: bool
) -> Callable[[torch.Tensor, EmerDiffConfig], Modulated]:
    """Return an engine; for many calls, it keeps what they share of the unmodulated run."""
    trajectory = run.trajectory.since(config.modulation_timestep)
    if many:
        with run.intervened(run.trajectory.timesteps), torch.inference_mode():
            kept = prepared(engine, run.model, trajectory, config)
        return lambda masks, each: kept(masks, config=each)
    modulate = ENGINES[engine]
    return lambda masks, each: modulate(run.model, trajectory, masks, each)


def _grouped(
    configs: Mapping[Index, EmerDiffConfig], names: tuple[str, ...]
) -> Iterator[dict[Index, EmerDiffConfig]]:
    """Yield combinations that agree in some settings, together."""
    groups: dict[tuple[Any, ...], dict[Index, EmerDiffConfig]] = {}
    for index, config in configs.items():
        key = tuple(getattr(config, name) for name in names)
        groups.setdefault(key, {})[index] = config
    yield from groups.values()


def _rest(run: Run, weights: xr.DataArray, engine: str, config: EmerDiffConfig) -> xr.Dataset:
    (height, width), (rows, columns) = run.size, run.model_size
    ds = weights.to_dataset(name="masks")
    ds["low_res"] = weights.argmax(schema.MASK).astype(np.int16)
    ds["picture"] = ((schema.Y, schema.X, schema.RGB), run.picture)
    return ds.assign_coords(
        {
            schema.Y: schema.pixel_centres(height, height),
            schema.X: schema.pixel_centres(width, width),
            schema.MODEL_Y: schema.pixel_centres(rows, height),
            schema.MODEL_X: schema.pixel_centres(columns, width),
            schema.RGB: ["r", "g", "b"],
        }
    ).assign_attrs(attributes(run, schema.SWEEP, engine, config))


def _labels(
    ds: xr.Dataset, configs: Mapping[Index, EmerDiffConfig], names: tuple[str, ...]
) -> xr.DataArray:
    shape = (*(ds.sizes[name] for name in names), ds.sizes[schema.Y], ds.sizes[schema.X])
    labels = np.zeros(shape, np.int16)
    for index, config in configs.items():
        chosen = ds["difference"].isel(dict(zip(names, index, strict=True)))
        difference = chosen.reset_coords(names, drop=True).load()
        fair = balanced(difference, ds["masks"], config.balance, config.elsewhere)
        labels[index] = assign(fair, ds[schema.Y], ds[schema.X])["labels"].values
    return xr.DataArray(labels, dims=(*names, schema.Y, schema.X))
