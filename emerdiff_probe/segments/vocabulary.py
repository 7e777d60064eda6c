"""Name segments by text-aligned embeddings of pixels or by a model's own attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.locations import linear_weights, of_one_picture
from emerdiff_probe.metrics import Labels
from emerdiff_probe.metrics.scores import as_labels
from emerdiff_probe.schema import CHANNEL, TOKEN, X, Y, pixel_centres

__all__ = ["PixelEmbedder", "mask_pool", "name_by_attention", "name_segments"]

SEGMENT: Final = "segment"

PixelEmbedder = Callable[[NDArray[np.uint8]], ArrayLike]
"""Function from a picture (y, x, rgb) to text-aligned embeddings (y, x, channel) on any grid."""


def mask_pool(labels: Labels, embeddings: ArrayLike | xr.DataArray) -> xr.DataArray:
    """Return the mean embedding of each segment's pixels.

    Args:
        labels: Segment of each pixel (y, x), numbered from 0.
        embeddings: Embeddings of the picture (y, x, channel) on any grid; they are interpolated
            bilinearly between its locations.

    Returns:
        ``embeddings`` (segment, channel), float32; NaN for numbers that no pixel has.

    Raises:
        InputError: Labels are not integers from 0 up, or the embeddings have other dims.
    """
    segments = as_labels(labels, "labels")
    planes = _planes(embeddings, (Y, X, CHANNEL))
    return xr.DataArray(
        _pooled(segments, np.moveaxis(planes, -1, 0)).astype(np.float32),
        dims=(SEGMENT, CHANNEL),
        name="embeddings",
    )


def name_segments(
    labels: Labels,
    pixels: ArrayLike | xr.DataArray | PixelEmbedder,
    texts: ArrayLike,
    names: Sequence[str],
    *,
    picture: NDArray[np.uint8] | None = None,
) -> xr.Dataset:
    """Name each segment by the text whose embedding is nearest (cosine) to its own.

    Masks so sharpen what a text-aligned model knows of pixels. This is the paper's open-vocabulary
    segmentation, with MaskCLIP, TCL or any other source of embeddings.

    Args:
        labels: Segment of each pixel (y, x), numbered from 0.
        pixels: Embeddings (y, x, channel) of the picture on any grid, or a function that returns
            them for a picture.
        texts: Embeddings of the names (name, channel), with as many channels.
        names: Names, one for each text.
        picture: Image for the function, uint8 (y, x, rgb).

    Returns:
        ``classes`` (segment), int16, indices into ``names``, -1 for numbers that no pixel has;
        ``name`` (segment), "" for those; ``similarity`` (segment, word) from -1 to 1.
        ``ds["classes"].values[labels]`` gives the class of each pixel.

    Raises:
        InputError: Shapes do not match, or ``pixels`` is a function and ``picture`` is missing.

    Source: Namekata et al., ICLR 2024 (arXiv 2401.11739), section 4.3 and table 3.
    """
    if callable(pixels):
        if picture is None:
            raise InputError(
                "picture is missing, which the function that embeds pixels needs; give it"
            )
        pixels = pixels(picture)
    wanted = np.asarray(texts, np.float64)
    pooled = mask_pool(labels, pixels).values.astype(np.float64)
    if wanted.shape != (len(names), pooled.shape[1]) or not len(names):
        raise InputError(
            f"texts of shape {wanted.shape} for {len(names)} names and pixels of "
            f"{pooled.shape[1]} channels; give (name, channel)"
        )
    lengths = np.linalg.norm(pooled, axis=1)[:, None] * np.linalg.norm(wanted, axis=1)
    with np.errstate(invalid="ignore"):
        similarity = np.where(lengths > 0, pooled @ wanted.T / np.where(lengths > 0, lengths, 1), 0)
    similarity[np.isnan(pooled).any(1)] = np.nan
    return _named(similarity, names, "similarity")


def name_by_attention(
    labels: Labels,
    attention: ArrayLike | xr.DataArray,
    words: Sequence[str],
    *,
    tokens: Sequence[Sequence[int]] | None = None,
    balance: bool = True,
) -> xr.Dataset:
    """Name each segment by the word of the prompt that its pixels attend to most.

    Args:
        labels: Segment of each pixel (y, x), numbered from 0.
        attention: Cross-attention probabilities (token, y, x) on any grid, averaged over the
            layers, heads and timesteps of your choice.
        words: Words to choose from.
        tokens: Positions of each word's tokens, from 0, whose maps are averaged; by default one
            token for each word, in order.
        balance: Whether to divide every word's map by its mean over the picture. Without it, a word
            that all locations attend to strongly wins everywhere.

    Returns:
        Dataset like that of :func:`name_segments`, with ``attention``, the mean over the segment,
        in place of ``similarity``.

    Raises:
        InputError: Shapes do not match, or a token is out of range.

    Source: maps of words follow Tang et al., ACL 2023 (DAAM, arXiv 2210.04885), section 2.2;
    assigning the strongest word to each segment, and the balance, are our choice.
    """
    maps = _planes(attention, (TOKEN, Y, X)).astype(np.float64)
    positions = [[place] for place in range(len(maps))] if tokens is None else list(tokens)
    if len(positions) != len(words) or not all(positions) or not len(words):
        raise InputError(
            f"{len(words)} words and tokens for {len(positions)}; give each word its tokens"
        )
    if outside := {int(i) for each in positions for i in each if not 0 <= i < len(maps)}:
        raise InputError(f"tokens {sorted(outside)}; choose from 0 to {len(maps) - 1}")
    planes = np.stack([maps[list(each)].mean(0) for each in positions])
    if balance:
        means = planes.mean((1, 2), keepdims=True)
        planes = planes / np.where(means > 0, means, 1)
    return _named(_pooled(as_labels(labels, "labels"), planes), words, "attention")


def _named(scores: NDArray[np.float64], names: Sequence[str], what: str) -> xr.Dataset:
    missing = np.isnan(scores[:, 0])  # NaN for all names or for none
    best = np.where(missing, -1, np.nan_to_num(scores, nan=0.0).argmax(1))
    texts = np.array([*names, ""])
    return xr.Dataset(
        {
            "classes": (SEGMENT, best.astype(np.int16)),
            "name": (SEGMENT, texts[best]),
            what: ((SEGMENT, "word"), scores.astype(np.float32)),
        },
        coords={"word": list(names)},
    )


def _pooled(labels: NDArray[np.integer], planes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the mean of each plane over each segment (segment, plane), a plane at a time."""
    if labels.min() < 0:
        raise InputError(f"labels run from {labels.min()}; number them from 0 up")
    height, width = labels.shape
    down, across = (
        linear_weights(pixel_centres(cells, size), pixel_centres(size, size))
        for cells, size in zip(planes.shape[1:], (height, width), strict=True)
    )
    flat = labels.ravel()
    counts = np.bincount(flat)
    sums = [np.bincount(flat, (down @ plane @ across.T).ravel()) for plane in planes]
    with np.errstate(invalid="ignore"):
        return np.stack(sums, axis=-1) / np.where(counts > 0, counts, np.nan)[:, None]


def _planes(array: ArrayLike | xr.DataArray, dims: tuple[str, ...]) -> NDArray[np.floating]:
    if isinstance(array, xr.DataArray) and CHANNEL in array.dims:
        array = of_one_picture(array)
    elif isinstance(array, xr.DataArray) and {Y, X} <= set(array.dims):
        array = array.transpose(..., Y, X)
    values = np.asarray(array)
    if values.ndim != 3 or not values.size or not np.isfinite(values).all():
        raise InputError(f"an array has shape {values.shape} or is not finite; give finite {dims}")
    return values
