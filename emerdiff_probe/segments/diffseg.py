"""Segment by merging similar self-attention maps (DiffSeg), a rival method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe import checks
from emerdiff_probe.errors import InputError
from emerdiff_probe.layers.attention import attention
from emerdiff_probe.layers.probabilities import KEY_X, KEY_Y
from emerdiff_probe.locations import linear_weights
from emerdiff_probe.schema import GUIDANCE, HEAD, SAMPLE, TIMESTEP, X, Y, extent, pixel_centres
from emerdiff_probe.sites import Site
from emerdiff_probe.store import IMAGE, site, sites_of, with_samples
from emerdiff_probe.timesteps import one_position

__all__ = ["DiffSegConfig", "aggregate_attention", "attention_maps", "diffseg"]
__all__ += ["diffseg_recorded", "merge_attention", "picture_size", "self_attentions"]

_Maps = NDArray[np.float32]

_TINY: Final = 1e-12


@dataclass(frozen=True)
class DiffSegConfig:
    """Hold the settings of DiffSeg.

    Attributes:
        anchors: Number of rows and of columns of the grid of anchors (M; 16 in the paper); at most
            one anchor for each location.
        threshold: Distance below which two maps are merged (tau; 0.7 to 1.1 in the paper, depending
            on the data set).
        iterations: Number of iterations of merging, the first of them with the anchors (N; 3 in the
            paper).
    """

    anchors: int = 16
    threshold: float = 1.0
    iterations: int = 3

    def __post_init__(self) -> None:
        for name, value in (
            ("anchors", checks.integer("anchors", self.anchors, 1, error=InputError)),
            ("threshold", checks.number("threshold", self.threshold, error=InputError)),
            ("iterations", checks.integer("iterations", self.iterations, 1, error=InputError)),
        ):
            object.__setattr__(self, name, value)


def aggregate_attention(layers: Sequence[NDArray[Any]]) -> _Maps:
    """Combine the self-attention maps of all layers on the largest grid.

    Each layer's maps are interpolated bilinearly over the attended locations, repeated over the
    attending ones, and weighted by the side of its grid.

    Args:
        layers: Maps of each layer (y, x, attended y, attended x), averaged over heads; each map
            sums to 1.

    Returns:
        Maps Maps (y, x, attended y, attended x), float32; each map sums to 1.

    Raises:
        InputError: There is no layer, a layer's attending and attended grids differ, or a larger
            grid is not a multiple of a smaller one.

    Source: Tian et al., CVPR 2024 (arXiv 2308.12469), section 3.2 (attention aggregation).
    """
    if not layers:
        raise InputError("no attention maps; give those of at least one layer")
    rows, columns = max(each.shape[:2] for each in layers)
    total = np.zeros((rows, columns, rows, columns), np.float32)
    whole = sum(each.shape[0] for each in layers)
    for maps in layers:
        height, width = maps.shape[:2]
        if maps.shape != (height, width) * 2 or rows % height or columns % width:
            raise InputError(
                f"attention of shape {maps.shape}; expected (y, x, y, x) on a grid that divides "
                f"{rows} x {columns}"
            )
        down = linear_weights(pixel_centres(height, rows), pixel_centres(rows, rows))
        across = linear_weights(pixel_centres(width, columns), pixel_centres(columns, columns))
        large = np.einsum("ip,jq,yxpq->yxij", down, across, maps, optimize=True)
        large /= large.sum((2, 3), keepdims=True)
        weight = np.float32(height / whole)
        total += weight * large.repeat(rows // height, 0).repeat(columns // width, 1)
    return total


def merge_attention(attention: NDArray[Any], config: DiffSegConfig = DiffSegConfig()) -> _Maps:
    """Propose objects by merging the maps of anchors that are similar.

    In the first iteration every anchor becomes the mean of all maps within the threshold of it. In
    later iterations each remaining proposal, in order, is merged with all others within the
    threshold of it. The distance is the symmetric Kullback-Leibler divergence (natural logarithm).

    Args:
        attention: Maps (y, x, attended y, attended x); each map sums to 1.
        config: Settings of the merging.

    Returns:
        Maps of the proposals Maps of the proposals (proposal, attended y, attended x).

    Raises:
        InputError: A setting is out of range.

    Source: Tian et al., CVPR 2024 (arXiv 2308.12469), section 3.3 and algorithm 1 (iterative
    attention merging). The authors' code (diffseg/segmentor.py of github.com/google/diffseg) has
    the same distance but differs from the paper's algorithm: its grid of anchors begins one
    location nearer to the corner, a proposal that is already merged counts again in later means,
    and k-means can refine the result.
    """
    rows, columns = attention.shape[:2]
    maps = attention.reshape(rows * columns, -1).astype(np.float32)
    y, x = (
        ((np.arange(count) + 0.5) * size / count).astype(int)
        for size in (rows, columns)
        for count in [min(config.anchors, size)]
    )
    anchors = (y[:, None] * columns + x).ravel()
    near = _distances(maps[anchors], maps) < config.threshold
    near[np.arange(len(anchors)), anchors] = True  # whatever rounding says
    proposals = near.astype(np.float32) @ maps / near.sum(1, keepdims=True, dtype=np.float32)
    for _ in range(config.iterations - 1):
        proposals = _merged(proposals, config.threshold)
    return proposals.reshape(-1, rows, columns)


def diffseg(
    layers: Sequence[NDArray[Any]],
    size: tuple[int, int],
    config: DiffSegConfig = DiffSegConfig(),
) -> xr.DataArray:
    """Segment an image by DiffSeg: each pixel takes the proposal whose map is largest there.

    Args:
        layers: Self-attention maps (y, x, attended y, attended x), as for
            :func:`aggregate_attention`.
        size: Height and width of the image in pixels.
        config: Settings of the merging.

    Returns:
        ``labels`` (y, x), int16, numbered from 0 without a gap, with coordinates in pixels.

    Raises:
        InputError: As for :func:`aggregate_attention` and :func:`merge_attention`.

    Source: Tian et al., CVPR 2024 (arXiv 2308.12469), section 3.4 (non-maximum suppression).
    """
    proposals = merge_attention(aggregate_attention(layers), config)
    height, width = size
    y, x = pixel_centres(height, height), pixel_centres(width, width)
    down = linear_weights(pixel_centres(proposals.shape[1], height), y).astype(np.float32)
    across = linear_weights(pixel_centres(proposals.shape[2], width), x).astype(np.float32)
    best = np.full(size, -np.inf, np.float32)
    labels = np.zeros(size, np.int64)
    for number, proposal in enumerate(proposals):
        plane = down @ proposal @ across.T
        labels[plane > best] = number
        best = np.maximum(best, plane)
    numbered = np.unique(labels, return_inverse=True)[1].reshape(size).astype(np.int16)
    return xr.DataArray(numbered, dims=(Y, X), coords={Y: y, X: x}, name="labels")


def diffseg_recorded(
    run: xr.DataTree,
    timestep: float,
    *,
    step: int | None = None,
    sample: int = 0,
    attentions: Sequence[str] | None = None,
    config: DiffSegConfig = DiffSegConfig(),
) -> xr.DataArray:
    """Segment a recording by DiffSeg, from the queries and keys of its self-attentions.

    Args:
        run: Recording with ``query`` and ``key`` of self-attentions, as made with
            ``sites="*attn1:query, *attn1:key"``.
        timestep: Timestep, one of those recorded.
        step: Step of the call, where the timestep was visited more than once.
        sample: Position of the image, from 0.
        attentions: Paths of self-attentions, such as
            ``mid_block.attentions.0.transformer_blocks.0.attn1``; by default all recorded ones.
        config: Settings of the merging.

    Returns:
        ``labels`` (y, x), int16, in the image's own size. With guidance, the half of the empty
        prompt is used, as in the paper.

    Raises:
        SiteError: The recording lacks the queries or the keys of an attention.
        InputError: It has no self-attention, or lacks this sample or timestep; or as for
            :func:`diffseg`.
    """
    run = with_samples(run)
    paths = self_attentions(run, attentions)
    size = picture_size(run, sample)
    return diffseg(attention_maps(run, paths, timestep, step, sample), size, config)


def self_attentions(run: xr.DataTree, wanted: Sequence[str] | None = None) -> list[str]:
    """Return paths of self-attentions whose queries and keys were recorded, or those wanted."""
    paths = list(wanted or _self_attentions(run))
    if not paths:
        raise InputError(
            "this recording has no queries and keys of any self-attention; record them with "
            "sites='*attn1:query, *attn1:key'"
        )
    return paths


def picture_size(run: xr.DataTree, sample: int) -> tuple[int, int]:
    """Return height and width of a recording's pictures.

    Raises:
        InputError: There is no such sample.
    """
    picture = site(run, IMAGE)
    if not 0 <= sample < picture.sizes[SAMPLE]:
        raise InputError(f"sample={sample}; choose 0 to {picture.sizes[SAMPLE] - 1}")
    return round(extent(picture[Y])), round(extent(picture[X]))


def attention_maps(
    run: xr.DataTree, paths: Sequence[str], timestep: float | None, step: int | None, sample: int
) -> list[_Maps]:
    """Return self-attention maps of layers, (y, x, attended y, attended x), averaged over heads.

    Of guidance's two halves it is that of the empty prompt.
    """
    layers = []
    for path in paths:
        paid = attention(run, path).isel({SAMPLE: sample})
        if KEY_Y not in paid.dims:
            raise InputError(
                f"{path!r} is not a self-attention; choose from {_self_attentions(run)}"
            )
        paid = paid.isel({TIMESTEP: one_position(paid, timestep, step)})
        if GUIDANCE in paid.dims:
            paid = paid.sel({GUIDANCE: "uncond"})
        layers.append(paid.mean(HEAD).transpose(Y, X, KEY_Y, KEY_X).values)
    return layers


def _self_attentions(run: xr.DataTree) -> list[str]:
    """Return the paths of self-attentions whose queries and keys were recorded."""
    known = set(sites_of(run))
    keys = [each.path for each in sites_of(run) if each.port == "key"]
    return [
        path for path in keys if Site(path, "query") in known and Y in site(run, f"{path}:key").dims
    ]


def _merged(proposals: _Maps, threshold: float) -> _Maps:
    """Merge each remaining proposal, in order, with those near to it."""
    left, merged = proposals, []
    while len(left):
        near = _distances(left[:1], left)[0] < threshold
        near[0] = True
        merged.append(left[near].mean(0))
        left = left[~near]
    return np.stack(merged)


def _distances(one: _Maps, other: _Maps) -> _Maps:
    """Return the mean of both Kullback-Leibler divergences between all rows."""
    p, q = np.maximum(one, _TINY), np.maximum(other, _TINY)
    log_p, log_q = np.log(p), np.log(q)
    entropies = (p * log_p).sum(1)[:, None] + (q * log_q).sum(1)
    return (entropies - p @ log_q.T - log_p @ q.T) / 2
