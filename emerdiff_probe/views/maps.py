"""What a figure shows of a site: lengths, one channel, principal colours, likeness to a place.

Everything takes and gives labelled arrays, so that a figure draws and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

import numpy as np
import xarray as xr
from sklearn.decomposition import PCA

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import CHANNEL, GUIDANCE, HEAD, RGB, SAMPLE, TIMESTEP, X, Y
from emerdiff_probe.sites import Site, select

__all__ = [
    "chosen_sites",
    "chosen_timesteps",
    "cosine",
    "described",
    "extent",
    "magnitude",
    "one_channel",
    "places",
    "principal_colours",
]

_REACH: Final = 2.5
"""Standard deviations from the mean to full or no intensity of a colour."""

_FEW: Final = 5


def chosen_sites(run: xr.DataTree, sites: str | Sequence[str]) -> list[str]:
    """The sites of a recording that have places, in the model's order, or in the order given.

    Args:
        run: A recording.
        sites: A pattern, as ``model.sites`` takes it, or names.

    Raises:
        SiteError: There is no such site.
    """
    recorded = json.loads(run.attrs.get("config", "{}")).get("sites", [])
    order = {name: number for number, name in enumerate(recorded)}
    known = []
    for leaf in run.leaves:
        path, _, port = leaf.path.strip("/").rpartition("/")
        if path and {Y, X, CHANNEL} <= set(leaf["value"].dims):
            known.append(Site(path.replace("/", "."), port))
    known.sort(key=lambda site: order.get(str(site), len(order)))
    patterns = [sites] if isinstance(sites, str) else sites
    found = [str(site) for pattern in patterns for site in select(known, pattern)]
    return list(dict.fromkeys(found))


def chosen_timesteps(run: xr.DataTree, timesteps: Sequence[int] | None = None) -> list[int]:
    """Timesteps of a recording: those asked for, or a few from the first to the last.

    Raises:
        InputError: One was not recorded.
    """
    recorded = [int(each) for each in run.to_dataset()[TIMESTEP].values]
    if timesteps is None:
        few = np.linspace(0, len(recorded) - 1, min(len(recorded), _FEW)).round().astype(int)
        return [recorded[position] for position in few]
    if unknown := [each for each in timesteps if int(each) not in recorded]:
        raise InputError(
            f"timesteps {unknown} were not recorded; choices: {', '.join(map(str, recorded))}"
        )
    if not len(timesteps):
        raise InputError("no timesteps; leave them out for a few from the first to the last")
    return [int(each) for each in timesteps]


def places(
    values: xr.DataArray, *, sample: int = 0, guidance: str | None = None, head: int | None = None
) -> xr.DataArray:
    """One sample of a recorded array, its heads joined to one channel axis, or one head alone.

    Args:
        values: As `emerdiff_probe.site` gives it, with y, x and channel.
        sample: Position of the sample.
        guidance: Half of a guided call; by default "cond".
        head: Of an attention port.

    Returns:
        ([timestep,] y, x, channel); read when it is needed.

    Raises:
        InputError: No such sample, half or head; or no places.
    """
    if SAMPLE in values.dims:
        values = _at(values, SAMPLE, sample)
    if GUIDANCE in values.dims:
        halves = values[GUIDANCE].values.tolist()
        half = guidance or "cond"
        if half not in halves:
            raise InputError(f"guidance is {half!r}; choose one of {', '.join(halves)}")
        values = values.sel({GUIDANCE: half})
    elif guidance is not None:
        raise InputError(f"guidance is {guidance!r}, but this was recorded without; leave it out")
    if head is not None and HEAD not in values.dims:
        raise InputError(f"head is {head}, but this site has none; leave it out")
    if HEAD in values.dims and head is not None:
        values = _at(values, HEAD, head)
    elif HEAD in values.dims:
        bare = values.drop_vars([HEAD, CHANNEL], errors="ignore")
        values = bare.stack(joined=(HEAD, CHANNEL), create_index=False).rename(joined=CHANNEL)
    dims = [dim for dim in (TIMESTEP, Y, X, CHANNEL) if dim in values.dims]
    if not {Y, X, CHANNEL} <= set(dims) or set(values.dims) != set(dims):
        raise InputError(
            f"an array with dims {values.dims} has no places to show; take one with y, x and "
            "channel, for instance the output of a block or the queries of an attention"
        )
    return values.transpose(*dims)


def _at(values: xr.DataArray, dim: str, position: int) -> xr.DataArray:
    count = values.sizes[dim]
    if not 0 <= position < count:
        raise InputError(f"{dim} is {position}; choose 0 to {count - 1}")
    return values.isel({dim: position})


def magnitude(values: xr.DataArray) -> xr.DataArray:
    """The root mean square over channels, which layers of any width share a scale of."""
    return ((values.astype(np.float32) ** 2).mean(CHANNEL) ** 0.5).rename("magnitude")


def one_channel(values: xr.DataArray, channel: int) -> xr.DataArray:
    """One channel.

    Raises:
        InputError: There is none of that number.
    """
    return _at(values, CHANNEL, channel).astype(np.float32).rename(f"channel {channel}")


def principal_colours(values: xr.DataArray, *, of: xr.DataArray | None = None) -> xr.DataArray:
    """The first three principal components as red, green and blue.

    Args:
        values: With y, x, channel.
        of: What the components are of; by default the values themselves. All that is shown with
            one basis has colours that mean the same.

    Returns:
        ``rgb`` in place of channel; float32 in [0, 1], 0.5 at the mean, 0 and 1 at 2.5 standard
        deviations from it. Attribute ``share``: of the variance that the three colours show.
    """
    basis = (values if of is None else of).transpose(..., CHANNEL)
    points = basis.values.reshape(-1, basis.sizes[CHANNEL]).astype(np.float32)
    with np.errstate(invalid="ignore"):  # the share of no variance at all
        pca = PCA(min(3, *points.shape), svd_solver="covariance_eigh").fit(points)
    # Without a rule the sign of a component is chance, and the same features change colour.
    largest = np.abs(pca.components_).argmax(1)
    signs = np.sign(pca.components_[np.arange(len(largest)), largest])
    ordered = values.transpose(..., CHANNEL)
    flat = ordered.values.reshape(-1, ordered.sizes[CHANNEL]).astype(np.float32)
    deviation = np.sqrt(np.where(pca.explained_variance_ > 0, pca.explained_variance_, 1))
    scores = pca.transform(flat) * signs / (2 * _REACH * deviation)
    colours = np.full((len(flat), 3), 0.5, np.float32)
    colours[:, : scores.shape[1]] = np.clip(0.5 + scores, 0, 1)
    dims = (*ordered.dims[:-1], RGB)
    coords = {name: each for name, each in ordered.coords.items() if CHANNEL not in each.dims}
    return xr.DataArray(
        colours.reshape(*ordered.shape[:-1], 3),
        dims=dims,
        coords={**coords, RGB: ["r", "g", "b"]},
        name="colours",
        attrs={"share": float(np.nan_to_num(pca.explained_variance_ratio_).sum())},
    )


def cosine(values: xr.DataArray, y: float, x: float) -> xr.DataArray:
    """The cosine similarity of one place to all others, from -1 to 1; 0 where a feature is 0.

    Args:
        values: (y, x, channel), with places as coordinates.
        y, x: The place in pixels of the picture; the nearest feature is taken.
    """
    features = values.astype(np.float32)
    point = features.sel({Y: y, X: x}, method="nearest", drop=True)
    lengths = ((features**2).sum(CHANNEL) * (point**2).sum(CHANNEL)) ** 0.5
    products = xr.dot(features, point, dim=CHANNEL)
    return (products / lengths.where(lengths > 0, 1)).clip(-1, 1).rename("similarity")


def extent(values: xr.DataArray) -> tuple[int, int]:
    """Height and width of the picture that an array with y and x spans, in pixels.

    Its places are centres of cells, so the first is half a cell from the edge.
    """
    return round(float(values[Y][0] + values[Y][-1])), round(float(values[X][0] + values[X][-1]))


def described(run: xr.DataTree, sample: int = 0) -> tuple[str, str]:
    """The model of a recording, and the prompt or picture of a sample, in words."""
    root = run.to_dataset()
    model = json.loads(run.attrs.get("model", "{}")).get("name", "model")
    about = {
        name: root[name].isel({SAMPLE: sample}).values.item()
        for name in ("source", "prompt", "seed")
    }
    if about["source"] != "prompt":
        return model, str(about["source"])
    return model, f"prompt {about['prompt']!r}, seed {about['seed']}"
