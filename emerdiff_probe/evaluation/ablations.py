"""Run the paper's ablations: change one setting at a time, all on the same inversion."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.emerdiff import ENGINES, EmerDiffConfig, low_resolution_masks
from emerdiff_probe.emerdiff.segmentation import assigned
from emerdiff_probe.emerdiff.shared import modulate, watch
from emerdiff_probe.evaluation.evaluate import Method
from emerdiff_probe.evaluation.journal import SEGMENTS
from emerdiff_probe.evaluation.methods import METHOD
from emerdiff_probe.evaluation.scoring import Segments
from emerdiff_probe.inputs import Photo
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.runs import prepare
from emerdiff_probe.runs.making import made
from emerdiff_probe.schema import pixel_centres
from emerdiff_probe.segments import bilinear_masks, embeddings
from emerdiff_probe.sites import Site

__all__ = ["BASELINES", "BILINEAR", "COUNTS", "FEATURE_TIMESTEPS", "FROZEN"]
__all__ += ["SHIFT_TIMESTEPS", "Setting"]
__all__ += ["ablated", "identity", "name", "segmented", "strengths", "tables"]

COUNTS: Final = (10, 20, 30, 40)
FEATURE_TIMESTEPS: Final = (1, 121, 281, 481, 641)
SHIFT_TIMESTEPS: Final = (81, 281, 401, 481, 641, 801)
FACTORS: Final = (1 / 16, 1 / 4, 1, 4)
"""Multiples of the frozen lambda."""

ORDINALS: Final = ("first", "second", "third")

BASELINES: Final = "Tables 1 and 2"
BILINEAR: Final = "bilinear masks"
"""Baseline of Tables 1 and 2: the same low-resolution masks, without modulation."""


@dataclass(frozen=True)
class Setting:
    """Hold one way to segment.

    Attributes:
        config: Settings of the method.
        masks: Number of masks, K.
    """

    config: EmerDiffConfig
    masks: int = SEGMENTS


def tables(
    model: StableDiffusion, config: EmerDiffConfig, masks: int = SEGMENTS
) -> dict[str, dict[str, Setting]]:
    """Return the settings that each table of the paper compares, by table and by label.

    Args:
        model: Model whose layers are compared.
        config: Frozen settings; each table changes one of them.
        masks: K, where it is not what is changed.
    """
    own = Setting(config, masks)
    level = config.modulation_site.rpartition(".attentions.")[0]
    attentions = [
        each
        for each, _ in model.unet.named_modules()
        # Of a transformer with several layers, as in XL, the first.
        if re.fullmatch(rf"{re.escape(level)}\.attentions\.\d+\.transformer_blocks\.0\.attn2", each)
    ]
    layers = dict(zip(ORDINALS, attentions, strict=False))
    return {
        BASELINES: {METHOD: own},
        "Table 4": {f"{count}": Setting(config, count) for count in COUNTS},
        "Table 5": {
            number: Setting(config.replace(feature_site=f"{layer}:query"), masks)
            for number, layer in layers.items()
        },
        "Table 6": {
            f"{t}": Setting(config.replace(feature_timestep=t), masks) for t in FEATURE_TIMESTEPS
        },
        "Table 7": {
            f"{t}": Setting(config.replace(modulation_timestep=t), masks) for t in SHIFT_TIMESTEPS
        },
        "Table 8": strengths(config, FACTORS, masks),
        "Table 9": {"with": own, "without": Setting(config.replace(injection=False), masks)},
        "Fig. 14": {
            f"{number}, {place} f": Setting(
                config.replace(modulation_site=f"{layer}:{port}"), masks
            )
            for place, port in (("after", "out"), ("before", "mix"))
            for number, layer in layers.items()
        },
    }


def strengths(
    config: EmerDiffConfig, factors: Iterable[float], masks: int = SEGMENTS
) -> dict[str, Setting]:
    """Return settings with multiples of the strength, by their lambda."""
    every = (config.replace(strength=config.strength * factor) for factor in factors)
    return {f"{each.strength:g}": Setting(each, masks) for each in every}


def name(table: str, label: str) -> str:
    """Return the name of a setting among all methods."""
    return f"{table}: {label}"


def identity(model: StableDiffusion, config: EmerDiffConfig) -> dict[str, object]:
    """Return what decides the results of a model, to tell kept results apart."""
    return {
        "weights": model.weights,
        "dtype": str(model.dtype),
        "config": dataclasses.asdict(config),
    }


FROZEN: Final = name(BASELINES, METHOD)
"""Name of the method with the frozen settings."""


def ablated(model: StableDiffusion, config: EmerDiffConfig, masks: int = SEGMENTS) -> Method:
    """Return a method that segments by every setting of every table, and by the baseline."""
    every = {
        name(table, label): setting
        for table, settings in tables(model, config, masks).items()
        for label, setting in settings.items()
    }
    return segmented(model, every, {name(BASELINES, BILINEAR): Setting(config, masks)})


def segmented(
    model: StableDiffusion,
    every: Mapping[str, Setting],
    unmodulated: Mapping[str, Setting],
) -> Method:
    """Return a method that segments an image by some settings.

    The image is inverted once, from the largest timestep that any setting needs, and features of
    all sites and timesteps are read in that pass. Settings that shift the same site at the same
    timestep share the unmodulated run, and equal settings run once.

    Args:
        model: Model that segments.
        every: Settings by name.
        unmodulated: Settings by name whose masks are enlarged bilinearly instead; their features
            are read where those of `every` are.
    """
    # Settings are grouped by the unmodulated run they share, so that memory holds one run at a
    # time.
    ordered = sorted(set(every.values()), key=_shift)
    sites = [Site.parse(each) for each in sorted({each.config.feature_site for each in ordered})]
    timesteps = sorted({each.config.feature_timestep for each in ordered})
    first = max(*timesteps, *(each.config.modulation_timestep for each in ordered))

    def method(picture: NDArray[np.uint8]) -> Mapping[str, Segments]:
        # All of them invert and cluster in the same way.
        config = ordered[0].config
        whole = made(
            prepare(model, Photo(picture), seed=config.seed, settings=config.of_run()),
            first=first,
            harvest=dict.fromkeys(timesteps, sites),
            progress=False,
        )

        @functools.cache
        def masked(site: str, timestep: int, count: int) -> tuple[xr.DataArray, xr.DataArray]:
            read = whole.features(site, timestep)
            return read, low_resolution_masks(read, count, config)

        segments = {}
        for (_, timestep), group in itertools.groupby(ordered, _shift):
            trajectory = whole.trajectory.since(timestep)
            watched = None
            for setting in group:
                read, weights = masked(*_features(setting))
                masks = torch.from_numpy(weights.values)
                if setting.config.injection:
                    watched = watched or list(watch(model, trajectory, setting.config))
                    ended = modulate(model, trajectory, masks, setting.config, watched=watched)
                else:
                    ended = ENGINES["literal"](model, trajectory, masks, setting.config)
                labels = assigned(whole, weights, ended, setting.config)["labels"]
                segments[setting] = Segments(labels.values, embeddings(read, weights))
        found = {key: segments[setting] for key, setting in every.items()}
        y, x = (pixel_centres(size, size) for size in picture.shape[:2])
        for key, setting in unmodulated.items():
            read, weights = masked(*_features(setting))
            enlarged = bilinear_masks(weights, y, x).values
            found[key] = Segments(enlarged, embeddings(read, weights))
        return found

    return method


def _features(setting: Setting) -> tuple[str, int, int]:
    return setting.config.feature_site, setting.config.feature_timestep, setting.masks


def _shift(setting: Setting) -> tuple[str, int]:
    return setting.config.modulation_site, setting.config.modulation_timestep
