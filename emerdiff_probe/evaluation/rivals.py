"""Segmentors that know nothing of meaning: colour and position, superpixels, untrained networks."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from emerdiff_probe.errors import ProbeError
from emerdiff_probe.models import StableDiffusion

__all__ = ["colour_and_position", "superpixels", "untrained"]

Labels = NDArray[np.int16]


def colour_and_position(
    picture: NDArray[np.uint8], segments: int, *, weight: float, seed: int = 0
) -> Labels:
    """k-means on the colour (CIELAB) and position of each pixel.

    Args:
        picture: uint8, shape (y, x, 3).
        segments: Number of clusters.
        weight: Of position against colour: how many units of L*a*b* one side of the picture is,
            in hundreds.
        seed: Of k-means.
    """
    colour = _skimage("color").rgb2lab(picture) / 100
    height, width = picture.shape[:2]
    y, x = np.mgrid[:height, :width] / max(height, width) * weight
    points = np.concatenate([colour, y[..., None], x[..., None]], axis=-1).reshape(-1, 5)
    labels = KMeans(segments, n_init=1, random_state=seed).fit_predict(points)
    return labels.reshape(height, width).astype(np.int16)


def superpixels(picture: NDArray[np.uint8], segments: int, *, compactness: float) -> Labels:
    """SLIC superpixels (Achanta et al. 2012), as many as asked for or a few less."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        labels = _skimage("segmentation").slic(
            picture, n_segments=segments, compactness=compactness, start_label=0
        )
    return np.asarray(labels, np.int16)


def untrained(model: StableDiffusion, seed: int = 0) -> StableDiffusion:
    """The same model with the weights of its UNet drawn anew, as before any training."""
    pipeline = copy.copy(model.pipeline)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = type(model.unet).from_config(model.unet.config)
    pipeline.unet = unet.to(model.device, model.dtype)
    return StableDiffusion(pipeline, f"{model.name} (untrained UNet)")


def _skimage(module: str) -> Any:
    try:
        import skimage.color
        import skimage.segmentation
    except ImportError:
        raise ProbeError(
            "these baselines need scikit-image: pip install 'emerdiff-probe[dev]'"
        ) from None
    return getattr(skimage, module)
