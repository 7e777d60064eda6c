"""Reduce a site's values before they are kept.

For example::

    ep.record(model, prompt, "*:query", reduce=[ep.reduce.pool(2), ep.reduce.heads([0, 3])])

Reducers act in the order given, each on the sites that have its dims, on the model's device. Their
names are lower case because they read as verbs in a call; each is a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from emerdiff_probe.checks import integer, integers, number
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.schema import CHANNEL, HEAD, TOKEN, X, Y

__all__ = ["Form", "Reducer", "channels", "crop", "heads", "pool", "project", "tokens", "vectors"]


@dataclass(frozen=True)
class Form:
    """The form of a site's values for one row at one timestep.

    Attributes:
        site: The name of the site.
        dims: The names of the dims, such as ``y x head channel``.
        shape: The sizes of the dims.
        coords: The coordinates of dims that have some: for y and x the centres of the locations in
            pixels, for others the original numbers of the entries kept.
    """

    site: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    coords: Mapping[str, tuple[float, ...]]

    def axis(self, dim: str) -> int:
        """Return the position of a dim in a tensor with rows first, then the dims."""
        return 1 + self.dims.index(dim)

    def changed(self, dim: str, coords: Sequence[float]) -> Form:
        """Return the form with other coordinates along a dim, whose number is its size."""
        shape = list(self.shape)
        shape[self.dims.index(dim)] = len(coords)
        return replace(self, shape=tuple(shape), coords={**self.coords, dim: tuple(coords)})


class Reducer(Protocol):
    """A reduction of a site's values."""

    def form(self, before: Form) -> Form | None:
        """Return the form of the result, or None if the site lacks the dims for it.

        Raises:
            ConfigError: The site has the dims but is too small.
        """

    def reduce(self, values: Tensor, before: Form) -> Tensor:
        """Return values, with rows first and then the dims, reduced."""


@dataclass(frozen=True)
class pool:
    """Average over squares of locations. At the far edges squares may hold fewer.

    Attributes:
        size: The number of locations along a side, at least 2.
    """

    size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", integer("size of pool", self.size, 2))

    def form(self, before: Form) -> Form | None:
        """Return the form, in which the coordinate of a square is the mean of its locations'."""
        if Y not in before.dims:
            return None
        for dim in (Y, X):
            places = before.coords[dim]
            squares = [places[i : i + self.size] for i in range(0, len(places), self.size)]
            before = before.changed(dim, [float(np.mean(each)) for each in squares])
        return before

    def reduce(self, values: Tensor, before: Form) -> Tensor:
        """Return the means, in float32 if the values are less precise."""
        rest = values.shape[3:]
        planes = rearrange(values.flatten(3).float(), "row y x rest -> row rest y x")
        planes = F.avg_pool2d(planes, self.size, ceil_mode=True, count_include_pad=False)
        return rearrange(planes, "row rest y x -> row y x rest").unflatten(3, rest)


@dataclass(frozen=True)
class crop:
    """Keep the locations whose centres lie within a part of the image.

    Attributes:
        y: The first row of pixels, and the row after the last.
        x: The same for columns.
    """

    y: tuple[float, float]
    x: tuple[float, float]

    def __post_init__(self) -> None:
        for dim in (Y, X):
            bounds = tuple(number(f"{dim} of crop", each) for each in getattr(self, dim))
            if len(bounds) != 2 or not bounds[0] < bounds[1]:
                raise ConfigError(
                    f"crop has {dim}={bounds}; choose (first, end) in pixels, with first < end"
                )
            object.__setattr__(self, dim, bounds)

    def form(self, before: Form) -> Form | None:
        """Return the form; locations keep their coordinates."""
        if Y not in before.dims:
            return None
        for dim in (Y, X):
            inside = self._inside(before, dim)
            if not inside:
                raise ConfigError(
                    f"no location of '{before.site}' is within {dim}={getattr(self, dim)} pixels; "
                    f"its locations are at {', '.join(map(str, before.coords[dim]))}"
                )
            before = before.changed(dim, [before.coords[dim][index] for index in inside])
        return before

    def reduce(self, values: Tensor, before: Form) -> Tensor:
        """Return the values within the part."""
        rows, columns = (self._inside(before, dim) for dim in (Y, X))
        return values[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    def _inside(self, form: Form, dim: str) -> list[int]:
        first, end = getattr(self, dim)
        return [index for index, at in enumerate(form.coords[dim]) if first <= at < end]


@dataclass(frozen=True)
class _Chosen:
    """Keep some entries along a dim, by number, in the order given.

    Attributes:
        numbers: The numbers of the entries to keep, from 0 up.
    """

    numbers: tuple[int, ...]
    dim: ClassVar[str]

    def __post_init__(self) -> None:
        numbers = integers(f"numbers of {type(self).__name__}", self.numbers)
        object.__setattr__(self, "numbers", numbers)
        if not numbers or len(set(numbers)) < len(numbers):
            raise ConfigError(f"{self!r} keeps nothing, or something twice; give different numbers")

    def form(self, before: Form) -> Form | None:
        """Return the form; entries that are kept are labelled with their numbers."""
        if self.dim not in before.dims:
            return None
        self._positions(before)
        return before.changed(self.dim, self.numbers)

    def reduce(self, values: Tensor, before: Form) -> Tensor:
        """Return the values of the entries that are kept."""
        positions = torch.tensor(self._positions(before), device=values.device)
        return values.index_select(before.axis(self.dim), positions)

    def _positions(self, form: Form) -> list[int]:
        size = form.shape[form.dims.index(self.dim)]
        there = {int(n): at for at, n in enumerate(form.coords.get(self.dim, range(size)))}
        if unknown := [number for number in self.numbers if number not in there]:
            raise ConfigError(
                f"'{form.site}' has {size} of dim {self.dim}, and none with number "
                f"{', '.join(map(str, unknown))}; choose others, or record the site separately"
            )
        return [there[number] for number in self.numbers]


@dataclass(frozen=True)
class heads(_Chosen):
    """Keep some heads of attentions, by number."""

    dim: ClassVar[str] = HEAD


@dataclass(frozen=True)
class tokens(_Chosen):
    """Keep some tokens of the text, by number; 0 is the mark of its beginning."""

    dim: ClassVar[str] = TOKEN


@dataclass(frozen=True)
class channels(_Chosen):
    """Keep some channels, by number; for attentions, within each head."""

    dim: ClassVar[str] = CHANNEL


@dataclass(frozen=True)
class project:
    """Project linearly to fewer channels; the heads of an attention count as one vector.

    - ``"pca"``: the principal components of a site over all its locations, timesteps and samples of
      the recording, largest first, from a first pass over the same run (so it takes twice as long);
      the mean is subtracted. The sign is such that a component's largest weight is positive.
    - ``"random"``: a Gaussian matrix with variance 1 / n, which roughly preserves distances
      (Johnson and Lindenstrauss 1984); equal for sites with equally many channels.

    Attributes:
        n: The number of channels of the result.
        kind: The kind of projection, "pca" or "random".
        seed: The seed of the random projection.
    """

    n: int
    kind: Literal["pca", "random"] = "pca"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", integer("n of project", self.n, 1))
        object.__setattr__(self, "seed", integer("seed of project", self.seed, 0))
        if self.kind not in ("pca", "random"):
            raise ConfigError(f"project has kind={self.kind!r}; choose 'pca' or 'random'")

    def form(self, before: Form) -> Form | None:
        """Return the form without heads, and with unnumbered channels."""
        count = _width(before)
        if self.n > count:
            raise ConfigError(
                f"'{before.site}' has {count} channels, fewer than project(n={self.n}) returns; "
                "choose a smaller n, or omit the site"
            )
        dims = tuple(dim for dim in before.dims if dim not in (HEAD, CHANNEL))
        return Form(
            before.site,
            (*dims, CHANNEL),
            (*before.shape[: len(dims)], self.n),
            {dim: coords for dim, coords in before.coords.items() if dim in dims},
        )

    def reduce(self, values: Tensor, before: Form) -> Tensor:
        """Return the random projection; principal components need a first pass over the run."""
        if self.kind == "pca":
            raise ConfigError("the principal components are not fitted yet; see Reduction.fitted")
        count = _width(before)
        generator = torch.Generator().manual_seed(self.seed)
        matrix = torch.randn(count, self.n, generator=generator) / self.n**0.5
        return vectors(values, before).float() @ matrix.to(values.device)


def _width(form: Form) -> int:
    """Return the number of values in a vector of all heads and channels."""
    sizes = dict(zip(form.dims, form.shape, strict=True))
    return sizes.get(HEAD, 1) * sizes[CHANNEL]


def vectors(values: Tensor, form: Form) -> Tensor:
    """Return values with all heads and channels in one vector."""
    return values.flatten(-2) if HEAD in form.dims else values
