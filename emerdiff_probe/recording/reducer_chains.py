"""Apply the reducers of a recording to each of its sites, and fit those that need it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import pandas as pd
import torch
from torch import Tensor

from emerdiff_probe.errors import ConfigError
from emerdiff_probe.recording.reducers import Form, Reducer, project, vectors
from emerdiff_probe.schema import TOKEN, X, Y, pixel_centres
from emerdiff_probe.sites import Site
from emerdiff_probe.store import Leaf, leaf_path

__all__ = ["Moments", "Reducers", "Reduction", "as_tuple", "described", "kept_tokens", "reductions"]

Reducers: TypeAlias = Reducer | Sequence[Reducer]
"""One reducer, or several in the order in which they act."""


def as_tuple(reducers: Reducers) -> tuple[Reducer, ...]:
    """Return all reducers, in order."""
    return tuple(reducers) if isinstance(reducers, Sequence) else (reducers,)


@dataclass(frozen=True, eq=False)
class _Principal:
    """A projection on known principal components.

    Attributes:
        project: The projection as it was requested.
        mean: The mean, shape (channel,).
        axes: The components, shape (channel, component).
    """

    project: project
    mean: Tensor
    axes: Tensor

    def form(self, before: Form) -> Form | None:
        """Return the form of the projection."""
        return self.project.form(before)

    def reduce(self, values: Tensor, before: Form) -> Tensor:
        """Return the components, largest first."""
        return (vectors(values, before).float() - self.mean) @ self.axes


class Moments:
    """The mean and covariance of vectors that arrive in parts, in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._sum: Tensor | float = 0.0
        self._products: Tensor | float = 0.0

    def add(self, vectors: Tensor) -> None:
        """Add vectors, shape (..., channel)."""
        # Apple's GPUs have no float64.
        vectors = vectors.cpu() if vectors.device.type == "mps" else vectors
        vectors = vectors.flatten(0, -2).double()
        self._count += len(vectors)
        self._sum = self._sum + vectors.sum(0)
        self._products = self._products + vectors.T @ vectors

    def join(self, other: Moments) -> None:
        """Add all vectors of another."""
        self._count += other._count
        self._sum = self._sum + other._sum
        self._products = self._products + other._products

    def principal(self, n: int) -> tuple[Tensor, Tensor]:
        """Return the mean, and the n axes of largest variance as columns."""
        mean = torch.as_tensor(self._sum) / self._count
        covariance = torch.as_tensor(self._products) / self._count - torch.outer(mean, mean)
        axes = torch.linalg.eigh(covariance).eigenvectors.flip(1)[:, :n]
        largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
        return mean.float(), (axes * largest.sign()).float()


@dataclass(frozen=True, eq=False)
class Reduction:
    """The reducers of one site, each with the form of its input.

    Attributes:
        steps: The reducers whose dims the site has, in order.
        form: The form of the result.
    """

    steps: tuple[tuple[Reducer, Form], ...]
    form: Form

    def __call__(self, values: Tensor) -> Tensor:
        """Return values (row, *dims) reduced."""
        for reducer, form in self.steps:
            values = reducer.reduce(values, form)
        return values

    @property
    def unfitted(self) -> project | None:
        """Return the projection that has to see the run first, or None."""
        found = [each for each, _ in self.steps if isinstance(each, project) and each.kind == "pca"]
        return found[0] if found else None

    def seen(self, values: Tensor) -> Tensor:
        """Return the vectors that an unfitted projection would receive."""
        for reducer, form in self.steps:
            if reducer is self.unfitted:
                return vectors(values, form)
            values = reducer.reduce(values, form)
        return values

    def fitted(self, moments: Moments, device: torch.device) -> Reduction:
        """Return the same reduction with that projection fitted."""
        own = self.unfitted
        if own is None:
            return self
        mean, axes = moments.principal(own.n)
        known = _Principal(own, mean.to(device), axes.to(device))
        steps = ((known if each is own else each, form) for each, form in self.steps)
        return replace(self, steps=tuple(steps))

    def leaf(self, dtype: str) -> Leaf:
        """Return the leaf of a recording for the result."""
        labels = tuple(self.form.coords.items()) if self.steps else ()
        path = leaf_path(Site.parse(self.form.site))
        return Leaf(path, self.form.dims, self.form.shape, dtype, labels=labels)


def reductions(
    table: pd.DataFrame, size: tuple[int, int], reducers: Iterable[Reducer]
) -> dict[Site, Reduction]:
    """Return the reduction of every site's values.

    Args:
        table: A table of sites, from `model.sites`.
        size: The height and width of the images in pixels.
        reducers: The reducers, in order.

    Raises:
        ConfigError: No site has the dims for a reducer, or a site is too small for it.
    """
    reducers = tuple(reducers)
    projections = [each for each in reducers if isinstance(each, project)]
    if len(projections) > 1:
        raise ConfigError("project is given twice; give it once, with the smaller n")
    used: set[int] = set()
    found = {}
    for row in table.itertuples():
        sides = dict(zip((Y, X), size, strict=True))
        coords = {
            dim: tuple(map(float, pixel_centres(count, sides[dim])))
            for dim, count in zip(row.dims, row.shape, strict=True)
            if dim in sides
        }
        form, steps = Form(row.Index, row.dims, row.shape, coords), []
        for number, reducer in enumerate(reducers):
            after = reducer.form(form)
            if after is not None:
                steps.append((reducer, form))
                form = after
                used.add(number)
        found[Site.parse(row.Index)] = Reduction(tuple(steps), form)
    if unused := [each for number, each in enumerate(reducers) if number not in used]:
        raise ConfigError(
            f"no recorded site has the dims for {unused[0]!r}; omit it, or record sites that have "
            "them"
        )
    return found


def kept_tokens(reduced: Mapping[Site, Reduction], count: int) -> list[int]:
    """Return the numbers of the tokens that are kept, which are the same for all sites."""
    for reduction in reduced.values():
        if TOKEN in reduction.form.coords:
            return list(map(int, reduction.form.coords[TOKEN]))
    return list(range(count))


def described(reducers: Iterable[Any]) -> dict[str, Any]:
    """Return the names and settings of reducers, if any, for a recording's configuration."""
    found = [{"kind": type(each).__name__, **dataclasses.asdict(each)} for each in reducers]
    return {"reduce": found} if found else {}
