"""`segment()`: from a prompt or a photograph to labelled segments, as EmerDiff does it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from einops import rearrange
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from emerdiff_probe import schema
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.engines import decoded, engine_named
from emerdiff_probe.emerdiff.features import Observation, low_resolution_masks, observe
from emerdiff_probe.emerdiff.literal import Modulated
from emerdiff_probe.emerdiff.provenance import provenance
from emerdiff_probe.inputs import Photo, Prompt
from emerdiff_probe.models import Denoiser, Model, as_model
from emerdiff_probe.models.identity import identity
from emerdiff_probe.segments import assign, balanced, embeddings, smooth

__all__ = ["assigned", "segment"]


def segment(
    model: Model,
    source: Prompt | Photo,
    *,
    masks: int | ArrayLike = 20,
    engine: str = "literal",
    config: EmerDiffConfig | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Segments a picture with what a diffusion model knows of its pixels.

    Features at t_f are clustered into low-resolution masks; each mask's shift at t_m is denoised to
    two images; every pixel goes to the mask that moves it most (Namekata et al. 2024, section 3).

    Args:
        model: From `emerdiff_probe.load`, or a diffusers pipeline.
        source: A photograph, or a prompt, whose picture is generated first.
        masks: Number of low-resolution masks (the paper: 10 to 40), or masks of your own: integer
            labels (h, w) from 0 up, or a stack (mask, h, w) of weights in [0, 1], at the size of
            the latent grid or at a multiple of it.
        engine: How modulated runs are computed: "literal" is the procedure by the book, "shared"
            gives the same up to rounding, in less time, where there is injection; "short" takes
            fewer steps after t_m, "jump" none, and both are approximations.
        config: Settings; by default those chosen for the model.
        progress: Shows a bar with the time left.

    Returns:
        A dataset, described in `emerdiff_probe.schema`: ``labels(y, x)`` in the photograph's own
        size, ``strength`` and ``margin`` of each pixel's assignment, ``low_res(source_y,
        source_x)``, ``masks``, ``difference`` maps, ``embeddings`` of the masks, ``features``,
        the picture and its reconstruction by the unmodulated run. Attributes hold provenance.

    Raises:
        InputError: The source or the masks cannot be used.
        ConfigError: Settings that do not go together, or no such engine.
        SiteError: The model has no such site.
    """
    model = as_model(model)
    modulate = engine_named(engine)
    config = config or EmerDiffConfig.for_model(model)
    observation = observe(model, source, config, progress=progress)
    features = observation.features
    weights = low_resolution_masks(features, masks, config)
    modulated = modulate(
        model,
        observation.trajectory,
        torch.from_numpy(weights.values),
        config,
        progress=progress,
    )
    result = assigned(model, observation, weights, modulated, config, progress=progress)
    result["low_res"] = weights.argmax(schema.MASK).astype(np.int16)
    result["masks"] = weights
    result["embeddings"] = embeddings(features, weights).astype(np.float32)
    result["features"] = features
    result["picture"] = ((schema.Y, schema.X, schema.RGB), observation.picture)
    reconstruction = rearrange(
        model.decode(modulated.unmodulated).clamp(0, 1), "1 rgb y x -> y x rgb"
    )
    result["reconstruction"] = (
        (schema.MODEL_Y, schema.MODEL_X, schema.RGB),
        reconstruction.cpu().numpy(),
    )
    result = result.assign_coords({schema.RGB: ["r", "g", "b"]})
    result.attrs = {
        "schema": schema.SEGMENTATION,
        **provenance(identity(model), source, observation, engine, config),
        "site_rms": modulated.site_rms,
    }
    schema.check(result)
    return result


def assigned(
    model: Denoiser,
    observation: Observation,
    weights: xr.DataArray,
    modulated: Modulated,
    config: EmerDiffConfig,
    *,
    progress: bool = False,
) -> xr.Dataset:
    """Pixels given to the masks whose shift moves them most.

    Args:
        model: Its decoder is used.
        observation: Of the picture.
        weights: The low-resolution masks (mask, source_y, source_x).
        modulated: Their runs.
        config: How maps are filtered and compared.
        progress: Shows a bar with the time left.

    Returns:
        ``labels``, ``strength`` and ``margin`` (y, x), and ``difference`` (mask, model_y, model_x).
    """
    difference = smooth(
        _difference_maps(model, modulated, observation, config, progress=progress),
        config.sigma,
    )
    height, width = observation.picture.shape[:2]
    y, x = schema.pixel_centres(height, height), schema.pixel_centres(width, width)
    fair = balanced(difference, weights, config.balance, config.elsewhere)
    return assign(fair, y, x).assign(difference=difference)


def _difference_maps(
    model: Denoiser,
    modulated: Modulated,
    observation: Observation,
    config: EmerDiffConfig,
    *,
    progress: bool,
) -> xr.DataArray:
    """Euclidean distance over RGB (or latent channels) between the two ends of each mask's runs.

    Taken in floating point from images that are not clamped: eight bits wrap around, and a clamped
    white or black pixel seems not to move.
    """
    maps: list[NDArray[np.float32]] = []
    with tqdm(total=len(modulated.plus), desc="decoding", unit="mask", disable=not progress) as bar:
        for responses in decoded(model, modulated, config):
            # Latents are fewer than pixels.
            size = observation.pixels.shape[:2]
            norms = F.interpolate(responses.norm(dim=1, keepdim=True), size, mode="bilinear")
            maps.extend(norms[:, 0].cpu().numpy())
            bar.update(len(responses))
    difference = np.stack(maps)
    height, width = observation.picture.shape[:2]
    _, rows, columns = difference.shape
    return xr.DataArray(
        difference,
        dims=(schema.MASK, schema.MODEL_Y, schema.MODEL_X),
        coords={
            schema.MASK: np.arange(len(difference)),
            schema.MODEL_Y: schema.pixel_centres(rows, height),
            schema.MODEL_X: schema.pixel_centres(columns, width),
        },
        name="difference",
    )
