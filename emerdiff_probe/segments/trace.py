"""Find edges where the self-attention of neighbours differs (TRACE), a rival method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, label

from emerdiff_probe.errors import InputError
from emerdiff_probe.locations import linear_weights
from emerdiff_probe.schema import TIMESTEP, X, Y, pixel_centres
from emerdiff_probe.segments.diffseg import attention_maps, picture_size, self_attentions
from emerdiff_probe.store import site, with_samples
from emerdiff_probe.timesteps import positions, steps_of

__all__ = ["attention_change", "boundary_divergence", "edge_components", "mean_attention"]
__all__ += ["trace_recorded"]

_Maps = NDArray[np.float32]

_TINY: Final = 1e-12


def mean_attention(layers: Sequence[NDArray[Any]]) -> _Maps:
    """Average the self-attention maps of all layers, interpolated to the largest grid.

    Args:
        layers: Maps of each layer (y, x, attended y, attended x), averaged over heads; each map
            sums to 1.

    Returns:
        Maps (y, x, attended y, attended x), float32; each map sums to 1. Interpolation is bilinear
        over attending and attended locations (our choice).

    Raises:
        InputError: There is no layer, or a layer's attending and attended locations differ.

    Source: Jo et al., ICLR 2026 (TRACE, arXiv 2503.07982), section 3.1.
    """
    if not layers:
        raise InputError("no attention maps; give those of at least one layer")
    rows, columns = max(each.shape[:2] for each in layers)
    total = np.zeros((rows, columns, rows, columns), np.float32)
    for maps in layers:
        height, width = maps.shape[:2]
        if maps.shape != (height, width) * 2:
            raise InputError(f"attention has shape {maps.shape}; give (y, x, y, x)")
        if (height, width) != (rows, columns):
            down, across = (
                linear_weights(pixel_centres(few, many), pixel_centres(many, many))
                for few, many in ((height, rows), (width, columns))
            )
            maps = np.einsum("ay,bx,ip,jq,yxpq->abij", down, across, down, across, maps,
                             optimize=True)  # fmt: skip
            maps = maps / maps.sum((2, 3), keepdims=True)
        total += maps / np.float32(len(layers))
    return total


def attention_change(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Return the mean Kullback-Leibler divergence of attention maps over locations, in nats.

    Args:
        before: Maps at the timestep with less noise (y, x, attended y, attended x).
        after: Maps at the next timestep, with more noise.

    Source: Jo et al., ICLR 2026 (arXiv 2503.07982), eq. 1: D(SA(X_t_prev) || SA(X_t)).
    """
    return float(_divergence(before, after).mean())


def boundary_divergence(attention: NDArray[Any]) -> NDArray[np.float64]:
    """Return how differently the opposite neighbours of each location attend (ABDiv), in nats.

    It is the divergence of the lower neighbour's map from the upper one's, plus that of the right
    one's from the left one's. At the border a location stands in for its missing neighbour (our
    choice).

    Args:
        attention: Maps (y, x, attended y, attended x); each map sums to 1.

    Returns:
        Divergence (y, x), 0 or more.

    Source: Jo et al., ICLR 2026 (arXiv 2503.07982), eq. 2.
    """
    padded = np.pad(attention, ((1, 1), (1, 1), (0, 0), (0, 0)), mode="edge")
    vertical = _divergence(padded[2:, 1:-1], padded[:-2, 1:-1])
    return vertical + _divergence(padded[1:-1, 2:], padded[1:-1, :-2])


def edge_components(edges: xr.DataArray) -> xr.DataArray:
    """Return the regions that edges separate, as labels (y, x), int16 from 0.

    Pixels whose edge is more than one standard deviation above the mean separate regions. Regions
    are connected along sides, and a separating pixel joins the nearest region.

    Args:
        edges: Strength of the edge at each pixel (y, x).

    Source: Jo et al., ICLR 2026 (arXiv 2503.07982), sections 3.4 (the threshold) and 3.5 (connected
    components). The paper then merges regions with masks of another method, which is left out.
    """
    values = edges.transpose(Y, X).values
    regions, count = label(values <= values.mean() + values.std())
    if count > 1:
        nearest = distance_transform_edt(regions == 0, return_distances=False, return_indices=True)
        regions = regions[tuple(nearest)]
    numbered = np.unique(regions, return_inverse=True)[1].reshape(values.shape)
    return edges.transpose(Y, X).copy(data=numbered.astype(np.int16)).rename("labels").drop_attrs()


def trace_recorded(
    run: xr.DataTree,
    timesteps: Sequence[float] | None = None,
    *,
    sample: int = 0,
    attentions: Sequence[str] | None = None,
) -> xr.Dataset:
    """Return TRACE's edges of a recorded picture, from queries and keys of its self-attentions.

    The timestep is the one whose attention differs most from that of the preceding timestep, with
    less noise. The paper takes timesteps 100 apart of an inverted image, without a prompt. Its
    second stage, a network trained on these edges, is not included.

    Args:
        run: Recording with ``query`` and ``key`` of self-attentions, as made with
            ``sites="*attn1:query, *attn1:key"``.
        timesteps: Timesteps to choose from, at least two; by default all that were recorded.
        sample: Position of the picture, from 0.
        attentions: Paths of self-attentions; by default all that were recorded.

    Returns:
        ``edges`` (y, x), float32 from 0 to 1, in the picture's own size, interpolated bilinearly;
        ``labels`` (y, x), the regions that they separate, see `edge_components`; ``change``
        (timestep), in nats, NaN at the least noise; attribute ``timestep``, the one chosen. With
        guidance, the half of the empty prompt is used.

    Raises:
        SiteError: The recording lacks the queries or the keys of an attention.
        InputError: It has no self-attention, lacks this sample or timestep, or has fewer than two
            timesteps.

    Source: Jo et al., ICLR 2026 (TRACE, arXiv 2503.07982), sections 3.1 to 3.3.
    """
    run = with_samples(run)
    paths = self_attentions(run, attentions)
    height, width = picture_size(run, sample)
    values = site(run, f"{paths[0]}:query")
    wanted = positions(values, timesteps) if timesteps is not None else range(len(values[TIMESTEP]))
    known, steps = values[TIMESTEP].values, steps_of(values)
    rising = sorted(wanted, key=lambda each: (known[each], -steps[each]))
    if len(rising) < 2:
        raise InputError("one timestep; TRACE compares at least two, as timesteps=[101, 201, 301]")
    change, best = [np.nan], None
    before: _Maps | None = None
    for at in rising:
        maps = mean_attention(attention_maps(run, paths, known[at], steps[at], sample))
        if before is not None:
            change.append(attention_change(before, maps))
            if best is None or change[-1] > best[0]:
                best = change[-1], known[at].item(), maps
        before = maps
    assert best is not None
    _, chosen, maps = best
    strength = boundary_divergence(maps)
    y, x = pixel_centres(height, height), pixel_centres(width, width)
    down = linear_weights(pixel_centres(strength.shape[0], height), y)
    across = linear_weights(pixel_centres(strength.shape[1], width), x)
    plane = down @ strength @ across.T
    plane /= plane.max() or 1
    edges = xr.DataArray(plane.astype(np.float32), {Y: y, X: x}, (Y, X), "edges")
    return xr.Dataset(
        {
            "edges": edges,
            "labels": edge_components(edges),
            "change": (TIMESTEP, change),
        },
        coords={TIMESTEP: known[rising]},
        attrs={TIMESTEP: chosen},
    )


def _divergence(one: NDArray[Any], other: NDArray[Any]) -> NDArray[np.float64]:
    """Return the Kullback-Leibler divergence of the other maps from the first, at each location."""
    p, q = (np.maximum(each, _TINY).astype(np.float64) for each in (one, other))
    found: NDArray[np.float64] = (p * np.log(p / q)).sum((-2, -1))
    return found
