"""Segment an image as EmerDiff does, from a prompt or an image to labelled segments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from emerdiff_probe import schema
from emerdiff_probe.emerdiff.asking import made_for, settled
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.engines import ENGINES, decoded, engine_of
from emerdiff_probe.emerdiff.literal import Modulated
from emerdiff_probe.emerdiff.masks import Masks, low_resolution_masks
from emerdiff_probe.emerdiff.provenance import attributes
from emerdiff_probe.models import Model
from emerdiff_probe.runs import Run
from emerdiff_probe.segments import assign, balanced, embeddings, smooth

__all__ = ["assigned", "difference_maps", "segment", "segment_run"]


def segment(
    model: Model,
    source: Any,
    masks: Masks = 20,
    *,
    engine: str | None = None,
    seed: int | None = None,
    config: EmerDiffConfig | None = None,
    progress: bool = True,
    **settings: Any,
) -> xr.Dataset:
    """Segment an image by the knowledge that a diffusion model has of its pixels.

    Features at t_f are clustered into low-resolution masks; each mask is shifted up and down at
    t_m, which gives two images; every pixel is assigned to the mask that changes it most (Namekata
    et al. 2024, section 3).

    This is short for ``ep.invert(model, image).segment(...)``, or ``ep.generate(model, prompt)``.
    For example::

        ep.segment(model, "cat.jpg", masks=12, strength=40)

    Args:
        model: A model from `emerdiff_probe.load`, or a diffusers pipeline.
        source: A file, image or array, `emerdiff_probe.Photo`, or a prompt, whose image is
            generated.
        masks: The number of low-resolution masks (the paper: 10 to 40); "auto" for the number that
            k-means separates best; or masks of your own: integer labels (h, w) from 0 up, or
            weights (mask, h, w) in [0, 1], in the size of the latent grid or a multiple of it.
        engine: The engine of modulated runs. "literal" follows the paper step by step; "shared",
            the default, gives the same result up to rounding in less time; "short" takes fewer
            steps after t_m, and "jump" none, so both are approximations. Without injection, and for
            transformers, the default is "literal".
        seed: The seed of all noise; by default a prompt's own, else 0.
        config: All settings; by default those that fit the model.
        progress: Whether to show a progress bar.
        **settings: Single settings, as attributes of `emerdiff_probe.EmerDiffConfig`.

    Returns:
        A dataset, described in `emerdiff_probe.schema`: ``labels(y, x)`` in the image's own size,
        ``strength`` and ``margin`` of each pixel's assignment, ``low_res(source_y, source_x)``,
        ``masks``, ``difference`` maps, ``embeddings`` of the masks, ``features``, the image and its
        reconstruction by the unmodulated run. The attributes hold the provenance.

    Raises:
        InputError: The input or the masks cannot be used.
        ConfigError: Settings contradict each other, or there is no such engine.
        SiteError: The model has no such site.
    """
    run, config = made_for(model, source, config, seed=seed, progress=progress, **settings)
    return segment_run(run, masks, engine=engine, config=config, progress=progress)


def segment_run(
    run: Run,
    masks: Masks = 20,
    *,
    engine: str | None = None,
    config: EmerDiffConfig | None = None,
    progress: bool = True,
    **settings: Any,
) -> xr.Dataset:
    """Segment the image of a run; see `segment`."""
    config = settled(run, config, settings)
    engine = engine_of(run, engine, config)
    modulate = ENGINES[engine]
    features = run.features(config.feature_site, config.feature_timestep)
    weights = low_resolution_masks(features, masks, config)
    with run.intervened(run.trajectory.timesteps):
        modulated = modulate(
            run.model,
            run.trajectory.since(config.modulation_timestep),
            torch.from_numpy(weights.values),
            config,
            progress=progress,
        )
    result = assigned(run, weights, modulated, config, progress=progress)
    result["low_res"] = weights.argmax(schema.MASK).astype(np.int16)
    result["masks"] = weights
    result["embeddings"] = embeddings(features, weights).astype(np.float32)
    result["features"] = features
    result["picture"] = ((schema.Y, schema.X, schema.RGB), run.picture)
    result["reconstruction"] = (
        (schema.MODEL_Y, schema.MODEL_X, schema.RGB),
        run.reconstruction,
    )
    result = result.assign_coords({schema.RGB: ["r", "g", "b"]})
    result.attrs = {
        **attributes(run, schema.SEGMENTATION, engine, config),
        "site_rms": modulated.site_rms,
    }
    schema.check(result)
    return result


def assigned(
    run: Run,
    weights: xr.DataArray,
    modulated: Modulated,
    config: EmerDiffConfig,
    *,
    progress: bool = False,
) -> xr.Dataset:
    """Assign each pixel to the mask whose shift changes it most.

    Args:
        run: The run, whose model decodes.
        weights: The low-resolution masks (mask, source_y, source_x).
        modulated: The modulated runs of the masks.
        config: The settings for filtering and comparing maps.
        progress: Whether to show a progress bar.

    Returns:
        ``labels``, ``strength`` and ``margin`` (y, x), and ``difference`` (mask, model_y, model_x).
    """
    maps = difference_maps(run, modulated, config, progress=progress)
    return compared(run, weights, maps, config)


def compared(
    run: Run, weights: xr.DataArray, difference: xr.DataArray, config: EmerDiffConfig
) -> xr.Dataset:
    """Filter difference maps and assign each pixel to the largest; see `assigned`."""
    difference = smooth(difference, config.sigma)
    height, width = run.size
    y, x = schema.pixel_centres(height, height), schema.pixel_centres(width, width)
    fair = balanced(difference, weights, config.balance, config.elsewhere)
    return assign(fair, y, x).assign(difference=difference)


def difference_maps(
    run: Run, modulated: Modulated, config: EmerDiffConfig, *, progress: bool = False
) -> xr.DataArray:
    """Return the Euclidean distance over RGB (or latent channels) of the two ends of each mask.

    Distances are computed in floating point from images that are not clamped: eight bits would wrap
    around, and a clamped white or black pixel would seem not to change.

    Returns:
        (mask, model_y, model_x), float32, not filtered.
    """
    rows, columns = run.model_size
    height, width = run.size
    maps = list(_norms(run, modulated, config, progress=progress))
    return xr.DataArray(
        np.stack(maps),
        dims=(schema.MASK, schema.MODEL_Y, schema.MODEL_X),
        coords={
            schema.MASK: np.arange(len(maps)),
            schema.MODEL_Y: schema.pixel_centres(rows, height),
            schema.MODEL_X: schema.pixel_centres(columns, width),
        },
        name="difference",
    )


def _norms(
    run: Run, modulated: Modulated, config: EmerDiffConfig, *, progress: bool
) -> Iterator[NDArray[np.float32]]:
    with tqdm(total=len(modulated.plus), desc="decoding", unit="mask", disable=not progress) as bar:
        for responses in decoded(run.model, modulated, config):
            # There are fewer latents than pixels.
            norms = F.interpolate(
                responses.norm(dim=1, keepdim=True), run.model_size, mode="bilinear"
            )
            yield from norms[:, 0].cpu().numpy()
            bar.update(len(responses))
