"""Mend over-segmentation: merge similar masks, and choose their number.

The paper names this limit: homogeneous regions, such as sky, are split by colour and position.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, get_args

import numpy as np
import xarray as xr
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist
from sklearn.cluster import spectral_clustering
from sklearn.metrics import silhouette_score

from emerdiff_probe.errors import InputError
from emerdiff_probe.kinds import expect
from emerdiff_probe.layers.clusters import Normalisation, by_first_appearance, cluster, normalised
from emerdiff_probe.locations import on_latent_grid
from emerdiff_probe.schema import CHANNEL, MASK, SEGMENTATION

__all__ = ["MergeBy", "dendrogram", "merge", "normalised_cut", "silhouettes"]

MergeBy = Literal["embeddings", "responses"]

_VARIABLES: Final = {"embeddings": "embeddings", "responses": "difference"}


def dendrogram(result: xr.Dataset, by: MergeBy = "embeddings") -> xr.DataArray:
    """Return the order in which masks merge, and at what distance.

    Masks are joined by average linkage (Sokal and Michener 1958) of cosine distances, in [0, 2].

    Args:
        result: A segmentation.
        by: "embeddings" compares the masks' mean features; "responses" compares their difference
            maps, so that masks which move the same pixels are similar.

    Returns:
        ``linkage`` (merge, column), as in `scipy.cluster.hierarchy`: columns "first" and "second"
        (masks; numbers from the number of masks up stand for earlier merges), "distance", and
        "count" of masks.

    Raises:
        InputError: There are fewer than two masks, or ``by`` is not one of the choices.
    """
    if by not in get_args(MergeBy):
        raise InputError(f"by is {by!r}; choose one of {', '.join(get_args(MergeBy))}")
    expect(result, SEGMENTATION)
    values = result[_VARIABLES[by]].transpose(MASK, ...).values
    points = values.reshape(len(values), -1).astype(np.float64)
    if len(points) < 2:
        raise InputError(f"{len(points)} mask cannot be merged; give a segmentation of 2 or more")
    # The cosine of a mask that moves nothing is undefined: take it as similar to no other.
    distances = np.nan_to_num(pdist(points, "cosine"), nan=1.0)
    tree = linkage(distances, "average")
    columns = ["first", "second", "distance", "count"]
    return xr.DataArray(tree, dims=("merge", "column"), coords={"column": columns}, name="linkage")


def merge(
    result: xr.Dataset,
    *,
    count: int | None = None,
    distance: float | None = None,
    by: MergeBy = "embeddings",
) -> xr.Dataset:
    """Merge the most similar masks of a segmentation; give either a count or a distance.

    Args:
        result: A segmentation.
        count: Largest number of masks to keep.
        distance: Cosine distance, 0 to 2, up to which masks are merged.
        by: See `dendrogram`.

    Returns:
        ``labels`` (y, x) and ``low_res`` (source_y, source_x) of the merged masks, int16, numbered
        by their first mask; and ``merged`` (mask), the new number of every old mask.

    Raises:
        InputError: Neither or both of ``count`` and ``distance`` are given, or a value is out of
            range.
    """
    if (count is None) == (distance is None):
        raise InputError(f"count={count}, distance={distance}; give one of them")
    masks = result.sizes[MASK]
    if count is not None and not 1 <= count <= masks:
        raise InputError(f"count is {count}; there are {masks} masks, so choose 1 to {masks}")
    if distance is not None and not distance >= 0:
        raise InputError(f"distance is {distance}; choose 0 or more (2 merges all)")
    tree = dendrogram(result, by).values
    if count is not None:
        groups = fcluster(tree, count, "maxclust")
    else:
        groups = fcluster(tree, distance, "distance")
    merged = by_first_appearance(groups)
    found = result[["labels", "low_res"]]
    for name in ("labels", "low_res"):
        found[name] = result[name].copy(data=merged[result[name].values])
    found["merged"] = (MASK, merged)
    return found


def normalised_cut(
    features: xr.DataArray, masks: int, *, sharpness: float = 10.0, seed: int = 0
) -> xr.DataArray:
    """Make low-resolution masks by normalised cuts, in place of k-means.

    This is scikit-learn's spectral clustering: eigenvectors of the normalised Laplacian (Shi and
    Malik 2000), turned into labels by discretisation (Yu and Shi 2003).

    Args:
        features: Features of one image, as `emerdiff_probe.layers.normalised` takes them.
        masks: Number of masks, from 2 to one less than the number of locations.
        sharpness: Exponent of the affinity of two locations, which is their cosine brought to [0,
            1].
        seed: Seed of the eigenvectors' start and of the discretisation.

    Returns:
        ``low_res`` (source_y, source_x), int16, numbered by first appearance.

    Raises:
        InputError: ``masks`` is out of range, or the features cannot be used.
    """
    values = normalised(on_latent_grid(features), "l2")
    points = values.values.reshape(-1, values.sizes[CHANNEL])
    if not 2 <= masks < len(points):
        raise InputError(f"masks={masks}; choose 2 to {len(points) - 1}")
    affinity = np.clip((1 + points @ points.T) / 2, 0, 1) ** sharpness
    found = spectral_clustering(
        affinity, n_clusters=masks, assign_labels="discretize", random_state=seed
    )
    labels = by_first_appearance(found).reshape(values.shape[:2])
    return values.isel({CHANNEL: 0}, drop=True).copy(data=labels).rename("low_res").drop_attrs()


def silhouettes(
    features: xr.DataArray,
    counts: Iterable[int],
    *,
    normalise: Normalisation = "none",
    restarts: int = 10,
    seed: int = 0,
) -> xr.DataArray:
    """Measure how well k-means separates features, for each number of masks, to choose one.

    The measure is the mean silhouette (Rousseeuw 1987), in [-1, 1]: how much nearer a location is
    to its own mask than to the next. ``int(silhouettes(features, range(2, 21)).idxmax())`` is the
    best number.

    Args:
        features: Features of one image, as `emerdiff_probe.layers.normalised` takes them.
        counts: Numbers of masks to try, each from 2 to one less than the number of locations.
        normalise, restarts, seed: Settings of `emerdiff_probe.layers.cluster`.

    Returns:
        ``silhouette`` (count,).

    Raises:
        InputError: A count is out of range.
    """
    values = normalised(on_latent_grid(features), normalise)
    points = values.values.reshape(-1, values.sizes[CHANNEL])
    counts = list(counts)
    if not counts or min(counts) < 2 or max(counts) >= len(points):
        raise InputError(f"counts are {counts}; choose from 2 to {len(points) - 1}")
    scores = [
        silhouette_score(points, cluster(values, each, restarts=restarts, seed=seed).values.ravel())
        for each in counts
    ]
    return xr.DataArray(scores, dims="count", coords={"count": counts}, name="silhouette")
