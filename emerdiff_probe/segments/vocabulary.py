"""Segments by name: from text-aligned embeddings of pixels, or from a model's own attention."""

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
"""From a picture (y, x, rgb) to its text-aligned embeddings (y, x, channel), at any grid."""


def mask_pool(labels: Labels, embeddings: ArrayLike | xr.DataArray) -> xr.DataArray:
    """The mean embedding of each segment's pixels.

    Args:
        labels: Segments, from 0 up (y, x).
        embeddings: (y, x, channel), of the picture on any grid; between its places they are
            interpolated bilinearly.

    Returns:
        ``embeddings`` (segment, channel), float32; NaN for numbers that no pixel has.

    Raises:
        InputError: Labels that are not integers from 0 up, or embeddings of other dims.
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
    """Names each segment by the text whose embedding is nearest (cosine) to its own.

    So masks sharpen what a text-aligned model knows of pixels: the paper's open-vocabulary
    segmentation, with MaskCLIP, TCL or any other as the source of the embeddings.

    Args:
        labels: Segments, from 0 up (y, x).
        pixels: Embeddings (y, x, channel) of the picture on any grid, or a function that gives them
            for a picture.
        texts: Embeddings (name, channel), as many channels.
        names: Of the texts.
        picture: uint8 (y, x, rgb), for the function.

    Returns:
        ``classes`` (segment), int16, indices into ``names`` and -1 for numbers that no pixel has;
        ``name`` (segment), "" for those; ``similarity`` (segment, name) from -1 to 1.
        ``ds["classes"].values[labels]`` paints the picture.

    Raises:
        InputError: Numbers that do not go together, or no picture for the function.

    Source: Namekata et al., ICLR 2024 (arXiv 2401.11739), section 4.3 and table 3.
    """
    if callable(pixels):
        if picture is None:
            raise InputError("the embeddings come from a function, which needs picture=")
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
    """Names each segment by the word of the prompt that its pixels attend to most.

    Args:
        labels: Segments, from 0 up (y, x).
        attention: Cross-attention probabilities (token, y, x), averaged over layers, heads and
            timesteps as one likes, on any grid.
        words: Those to choose from.
        tokens: Positions of each word's tokens, whose maps are averaged; by default one token for
            each word, in order.
        balance: Divides every word's map by its mean over the picture. Otherwise words that all
            places attend to more, wherever they are, win everywhere.

    Returns:
        As :func:`name_segments`, with ``attention`` in place of ``similarity``: the mean over the
        segment.

    Raises:
        InputError: Numbers that do not go together, or tokens that there are not.

    Source: maps of words after Tang et al., ACL 2023 (DAAM, arXiv 2210.04885), section 2.2; giving
    each segment the strongest, and the balance, are our choice.
    """
    maps = _planes(attention, (TOKEN, Y, X)).astype(np.float64)
    positions = [[place] for place in range(len(maps))] if tokens is None else list(tokens)
    if len(positions) != len(words) or not all(positions) or not len(words):
        raise InputError(
            f"{len(words)} words and tokens for {len(positions)}; give each word its tokens"
        )
    if outside := {int(i) for each in positions for i in each if not 0 <= i < len(maps)}:
        raise InputError(f"tokens {sorted(outside)} of {len(maps)}; they count from 0")
    planes = np.stack([maps[list(each)].mean(0) for each in positions])
    if balance:
        means = planes.mean((1, 2), keepdims=True)
        planes = planes / np.where(means > 0, means, 1)
    return _named(_pooled(as_labels(labels, "labels"), planes), words, "attention")


def _named(scores: NDArray[np.float64], names: Sequence[str], what: str) -> xr.Dataset:
    missing = np.isnan(scores[:, 0])  # of all names or of none
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
    """The mean of each plane over each segment (segment, plane); one full plane at a time."""
    if labels.min() < 0:
        raise InputError(f"labels run from {labels.min()}; they go from 0 up")
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
        raise InputError(f"an array of shape {values.shape}; expected finite values {dims}")
    return values
