"""Reducers: what makes a site's values smaller before they are kept.

For example::

    ep.record(model, prompt, "*:query", reduce=[ep.reduce.pool(2), ep.reduce.heads([0, 3])])

They act in the order given, each on the sites that have its dims, on the device where the model
runs. Their names are small since they read as verbs in a call; each is a frozen dataclass.
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
    """What one site gives of one row at one timestep.

    Attributes:
        site: Its name.
        dims: As ``y x head channel``.
        shape: Their sizes.
        coords: Coordinates of the dims that have some: of y and x the centres of the places in
            pixels, of others the numbers that they had before any were left out.
    """

    site: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    coords: Mapping[str, tuple[float, ...]]

    def axis(self, dim: str) -> int:
        """Position of a dim in a tensor that has rows first, then the dims."""
        return 1 + self.dims.index(dim)

    def changed(self, dim: str, coords: Sequence[float]) -> Form:
        """The same with other coordinates along a dim, and their number as its size."""
        shape = list(self.shape)
        shape[self.dims.index(dim)] = len(coords)
        return replace(self, shape=tuple(shape), coords={**self.coords, dim: tuple(coords)})


class Reducer(Protocol):
    """Makes a site's values smaller."""

    def form(self, before: Form) -> Form | None:
        """What comes out, or None where a site has not the dims for it.

        Raises:
            ConfigError: The site has the dims, and too little of them.
        """

    def reduce(self, values: Tensor, before: Form) -> Tensor:
        """Values, rows first and then the dims, made smaller."""


@dataclass(frozen=True)
class pool:
    """The mean over squares of places. At the far edges they may hold fewer.

    Attributes:
        size: Places on a side, 2 or more.
    """

    size: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", integer("size of pool", self.size, 2))

    def form(self, before: Form) -> Form | None:
        """Of a square, the coordinate is the mean of those of its places."""
        if Y not in before.dims:
            return None
        for dim in (Y, X):
            places = before.coords[dim]
            squares = [places[i : i + self.size] for i in range(0, len(places), self.size)]
            before = before.changed(dim, [float(np.mean(each)) for each in squares])
        return before

    def reduce(self, values: Tensor, before: Form) -> Tensor:
        """The means, in float32 if the values are less precise."""
        rest = values.shape[3:]
        planes = rearrange(values.flatten(3).float(), "row y x rest -> row rest y x")
        planes = F.avg_pool2d(planes, self.size, ceil_mode=True, count_include_pad=False)
        return rearrange(planes, "row rest y x -> row y x rest").unflatten(3, rest)


@dataclass(frozen=True)
class crop:
    """The places whose centres are within a part of the picture.

    Attributes:
        y: First row of pixels, and the first no more in it.
        x: The same for columns.
    """

    y: tuple[float, float]
    x: tuple[float, float]

    def __post_init__(self) -> None:
        for dim in (Y, X):
            bounds = tuple(number(f"{dim} of crop", each) for each in getattr(self, dim))
            if len(bounds) != 2 or not bounds[0] < bounds[1]:
                raise ConfigError(f"crop has {dim}={bounds}; choose (first, end) in pixels")
            object.__setattr__(self, dim, bounds)

    def form(self, before: Form) -> Form | None:
        """Places keep their coordinates."""
        if Y not in before.dims:
            return None
        for dim in (Y, X):
            inside = self._inside(before, dim)
            if not inside:
                raise ConfigError(
                    f"no place of '{before.site}' is within {dim}={getattr(self, dim)} pixels; "
                    f"its places are at {', '.join(map(str, before.coords[dim]))}"
                )
            before = before.changed(dim, [before.coords[dim][index] for index in inside])
        return before

    def reduce(self, values: Tensor, before: Form) -> Tensor:
        """The values there."""
        rows, columns = (self._inside(before, dim) for dim in (Y, X))
        return values[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]

    def _inside(self, form: Form, dim: str) -> list[int]:
        first, end = getattr(self, dim)
        return [index for index, at in enumerate(form.coords[dim]) if first <= at < end]


@dataclass(frozen=True)
class _Chosen:
    """Some along a dim, by number, in the order given.

    Attributes:
        numbers: Of those to keep, from 0 up.
    """

    numbers: tuple[int, ...]
    dim: ClassVar[str]

    def __post_init__(self) -> None:
        numbers = integers(f"numbers of {type(self).__name__}", self.numbers)
        object.__setattr__(self, "numbers", numbers)
        if not numbers or len(set(numbers)) < len(numbers):
            raise ConfigError(f"{self!r} chooses none, or one twice")

    def form(self, before: Form) -> Form | None:
        """What is kept is labelled with its number."""
        if self.dim not in before.dims:
            return None
        self._positions(before)
        return before.changed(self.dim, self.numbers)

    def reduce(self, values: Tensor, before: Form) -> Tensor:
        """The values of those kept."""
        positions = torch.tensor(self._positions(before), device=values.device)
        return values.index_select(before.axis(self.dim), positions)

    def _positions(self, form: Form) -> list[int]:
        size = form.shape[form.dims.index(self.dim)]
        there = {int(n): at for at, n in enumerate(form.coords.get(self.dim, range(size)))}
        if unknown := [number for number in self.numbers if number not in there]:
            raise ConfigError(
                f"'{form.site}' has {size} of dim {self.dim}, and none with number "
                f"{', '.join(map(str, unknown))}; choose others, or record the site apart"
            )
        return [there[number] for number in self.numbers]


@dataclass(frozen=True)
class heads(_Chosen):
    """Some heads of attentions, by number."""

    dim: ClassVar[str] = HEAD


@dataclass(frozen=True)
class tokens(_Chosen):
    """Some tokens of the text, by number; 0 is the mark of its beginning."""

    dim: ClassVar[str] = TOKEN


@dataclass(frozen=True)
class channels(_Chosen):
    """Some channels, by number; of attentions, within each head."""

    dim: ClassVar[str] = CHANNEL


@dataclass(frozen=True)
class project:
    """A linear projection to fewer channels; the heads of an attention count as one vector.

    - ``"pca"``: the principal components of a site over all its places, timesteps and samples of
      the recording, largest first, from a pass over the same run before it (so it takes twice as
      long); the mean is subtracted. The sign is such that a component's largest weight is positive.
    - ``"random"``: Gaussian, with variance 1 / n, which keeps distances roughly (Johnson and
      Lindenstrauss 1984); the same for sites of as many channels.

    Attributes:
        n: Channels that are left.
        kind: Of projection.
        seed: Of the random one.
    """

    n: int
    kind: Literal["pca", "random"] = "pca"
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "n", integer("n of project", self.n, 1))
        object.__setattr__(self, "seed", integer("seed of project", self.seed, 0))
        if self.kind not in ("pca", "random"):
            raise ConfigError(f"project has kind={self.kind!r}; choose pca or random")

    def form(self, before: Form) -> Form | None:
        """Without heads, and the channels without their numbers."""
        count = _width(before)
        if self.n > count:
            raise ConfigError(
                f"'{before.site}' has {count} channels, fewer than project(n={self.n}) leaves; "
                "choose a smaller n, or leave the site out"
            )
        dims = tuple(dim for dim in before.dims if dim not in (HEAD, CHANNEL))
        return Form(
            before.site,
            (*dims, CHANNEL),
            (*before.shape[: len(dims)], self.n),
            {dim: coords for dim, coords in before.coords.items() if dim in dims},
        )

    def reduce(self, values: Tensor, before: Form) -> Tensor:
        """The random projection; the other is known only when the run has been seen."""
        if self.kind == "pca":
            raise ConfigError("the principal components are not fitted yet; see Reduction.fitted")
        count = _width(before)
        generator = torch.Generator().manual_seed(self.seed)
        matrix = torch.randn(count, self.n, generator=generator) / self.n**0.5
        return vectors(values, before).float() @ matrix.to(values.device)


def _width(form: Form) -> int:
    """Numbers in a vector of all heads and channels."""
    sizes = dict(zip(form.dims, form.shape, strict=True))
    return sizes.get(HEAD, 1) * sizes[CHANNEL]


def vectors(values: Tensor, form: Form) -> Tensor:
    """Values with all heads and channels in one vector."""
    return values.flatten(-2) if HEAD in form.dims else values
