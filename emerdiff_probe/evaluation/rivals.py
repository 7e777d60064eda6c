"""Provide rivals: other methods in the same model, colour alone, untrained networks."""

from __future__ import annotations

import copy
import warnings
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from sklearn.cluster import KMeans

from emerdiff_probe.emerdiff import EmerDiffConfig
from emerdiff_probe.errors import ModelError, ProbeError
from emerdiff_probe.evaluation.scoring import Segments
from emerdiff_probe.layers import normalised
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.models.pipeline_model import PipelineModel
from emerdiff_probe.playground.padding import pad_as_configured
from emerdiff_probe.runs import invert
from emerdiff_probe.schema import MASK, MODEL_X, MODEL_Y, pixel_centres
from emerdiff_probe.segments import (
    bilinear_features,
    diffcut,
    diffseg_recorded,
    embeddings,
    falcon,
    one_hot,
    trace_recorded,
)

__all__ = ["colour_and_position", "decoder_alone", "local_statistics", "of_unet", "other_methods"]
__all__ += ["shuffled", "superpixels", "texture", "untrained"]

Labels = NDArray[np.int16]

_STRIDE: Final = 100
"""Distance of the timesteps that TRACE compares, as in its paper."""

_DIFFSEG: Final = 300
"""Timestep that DiffSeg's paper reads; the nearest recorded one is taken."""


def other_methods(
    model: StableDiffusion, picture: NDArray[np.uint8], segments: int, config: EmerDiffConfig
) -> dict[str, Segments]:
    """Segment a picture by DiffSeg, DiffCut, TRACE and Falcon, in the run that EmerDiff inverts.

    DiffSeg merges self-attention maps and TRACE finds edges in them; DiffCut and Falcon cut the
    graph of EmerDiff's features, whose masks are brought to pixels as bilinear features. All but
    Falcon find the number of segments themselves.

    Args:
        model: Model to read.
        picture: Image, uint8 (y, x, rgb).
        segments: Number of segments, for Falcon.
        config: Settings of the run, and the site and timestep of features.
    """
    made_as = {"steps": config.steps, "inversion": config.inversion}
    run = invert(model, picture, seed=config.seed, progress=False, **made_as)

    def nearest(goal: int) -> int:
        return min(run.trajectory.timesteps, key=lambda each: abs(each - goal))

    wanted = sorted({nearest(goal) for goal in range(1, 1001, _STRIDE)}, reverse=True)
    recording = run.record("*attn1:query, *attn1:key", timesteps=wanted, progress=False)
    assert isinstance(recording, xr.DataTree)
    traced = trace_recorded(recording)
    features = run.features(config.feature_site, config.feature_timestep)
    units = normalised(features, "l2")
    y, x = traced["y"].values, traced["x"].values
    found = {
        "DiffSeg": diffseg_recorded(recording, min(wanted, key=lambda each: abs(each - _DIFFSEG))),
        "TRACE, regions": traced["labels"],
    }
    for name, low_res in (
        ("DiffCut", diffcut(features)),
        ("Falcon", falcon(features, segments)),
    ):
        centroids = embeddings(units, one_hot(low_res, int(low_res.max()) + 1))
        found[name] = bilinear_features(units, centroids, y, x)
    return {name: Segments(labels.values) for name, labels in found.items()}


def colour_and_position(
    picture: NDArray[np.uint8], segments: int, *, weight: float, seed: int = 0
) -> Labels:
    """Cluster the colour (CIELAB) and position of each pixel by k-means.

    Args:
        picture: Image, uint8 (y, x, rgb).
        segments: Number of clusters.
        weight: Weight of position against colour: length of a side of the picture in hundreds of
            units of L*a*b*.
        seed: Seed of k-means.
    """
    colour = _skimage("color").rgb2lab(picture) / 100
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width] / max(height, width) * weight
    points = np.concatenate([colour, y[..., None], x[..., None]], axis=-1).reshape(-1, 5)
    labels = KMeans(segments, n_init=1, random_state=seed).fit_predict(points)
    return labels.reshape(height, width).astype(np.int16)


def superpixels(picture: NDArray[np.uint8], segments: int, *, compactness: float) -> Labels:
    """Return SLIC superpixels (Achanta et al. 2012), as many as asked for or a few fewer."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = _skimage("segmentation").slic(
            picture, n_segments=segments, compactness=compactness, start_label=0
        )
    return np.asarray(labels, np.int16)


def texture(picture: NDArray[np.uint8], segments: int, *, window: int = 9, seed: int = 0) -> Labels:
    """Cluster the local statistics of each pixel's surroundings by k-means.

    Args:
        picture: Image, uint8 (y, x, rgb).
        segments: Number of clusters.
        window: Side of the square of surroundings in pixels.
        seed: Seed of k-means.
    """
    values = local_statistics(picture, window)
    points = values.reshape(-1, values.shape[-1])
    labels = KMeans(segments, n_init=1, random_state=seed).fit_predict(points)
    return labels.reshape(picture.shape[:2]).astype(np.int16)


def local_statistics(picture: NDArray[np.uint8], window: int) -> NDArray[np.float64]:
    """Return what a window around each pixel looks like, in units of the full range of a colour.

    Args:
        picture: Image, uint8 (y, x, rgb).
        window: Side of the square window in pixels.

    Returns:
        Statistics (y, x, 12): for each colour the mean, twice the standard deviation, and three
        times the mean absolute difference to the next pixel across and down.
    """
    values = picture / 255
    across = np.abs(np.diff(values, axis=1, append=values[:, -1:]))
    down = np.abs(np.diff(values, axis=0, append=values[-1:]))
    size = (window, window, 1)
    mean, square, *steps = (
        uniform_filter(each, size, mode="reflect") for each in (values, values**2, across, down)
    )
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return np.concatenate([mean, 2 * deviation, 3 * steps[0], 3 * steps[1]], axis=-1)


def of_unet(model: PipelineModel) -> StableDiffusion:
    """Return a model as it is if it has a UNet, which baselines and claims are about.

    Raises:
        ModelError: It has a transformer.
    """
    if not isinstance(model, StableDiffusion):
        raise ModelError(
            f"{model.name} is a transformer, and baselines and claims are about the layers of "
            "UNets; segment pictures with it by ep.segment()"
        )
    return model


def untrained(model: StableDiffusion, seed: int = 0) -> StableDiffusion:
    """Return the same model with the weights of its UNet drawn again, as before any training."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = type(model.unet).from_config(model.unet.config)
    pad_as_configured(unet)
    # diffusers' own `to` warns about what it keeps in float32, even where that is nothing.
    torch.nn.Module.to(unet, model.device, model.dtype)
    return _with_unet(model, unet, "untrained")


def _with_unet(model: StableDiffusion, unet: Any, what: str) -> StableDiffusion:
    pipeline = copy.copy(model.pipeline)
    pipeline.unet = unet
    return StableDiffusion(pipeline, f"{model.name} ({what} UNet)")


def shuffled(model: StableDiffusion, seed: int = 0) -> StableDiffusion:
    """Return the same model with the values of each of its UNet's tensors in random order.

    Unlike an untrained network it keeps the size and the spread of every trained tensor.
    """
    unet = copy.deepcopy(model.unet)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return _with_unet(model, unet, "shuffled")


def decoder_alone(
    model: StableDiffusion, picture: NDArray[np.uint8], masks: xr.DataArray, strength: float = 1.0
) -> xr.DataArray:
    """Return difference maps of masks added to clean latents: the decoder, without denoising.

    Args:
        model: Model whose autoencoder is used.
        picture: Image of the model's own size, uint8 (y, x, rgb).
        masks: Weights (mask, source_y, source_x).
        strength: Amount added to, and subtracted from, every channel of a masked latent, in units
            of the latents' standard deviation.

    Returns:
        ``difference`` (mask, model_y, model_x), >= 0: the Euclidean distance over RGB.
    """
    image = torch.from_numpy(picture / 255.0).float().permute(2, 0, 1)[None]
    latents = model.encode(image)
    shift = F.interpolate(
        torch.from_numpy(masks.values)[:, None].to(latents), latents.shape[-2:], mode="nearest"
    )
    moved = [
        (model.decode(latents + strength * each) - model.decode(latents - strength * each)).norm(
            dim=1
        )
        for each in shift[:, None]
    ]
    height, width = picture.shape[:2]
    return xr.DataArray(
        torch.cat(moved).cpu().numpy(),
        dims=(MASK, MODEL_Y, MODEL_X),
        coords={MODEL_Y: pixel_centres(height, height), MODEL_X: pixel_centres(width, width)},
        name="difference",
    )


def _skimage(module: str) -> Any:
    try:
        import skimage.color
        import skimage.segmentation
    except ImportError:
        raise ProbeError(
            "these baselines need scikit-image; run pip install 'emerdiff-probe[test]'"
        ) from None
    return getattr(skimage, module)
