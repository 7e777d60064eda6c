"""Compare two of a kind: recordings under one set of controls, and segmentations."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import traitlets
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import principal_colours, similarity_to_point
from emerdiff_probe.schema import CHANNEL, RGB, SAMPLE, X, Y
from emerdiff_probe.timesteps import labels, matching
from emerdiff_probe.views.comparison import matched
from emerdiff_probe.views.maps import magnitude
from emerdiff_probe.views.panels import as_bytes, png, site_text, spaced
from emerdiff_probe.views.segments import thinned
from emerdiff_probe.widgets.explorer import Explorer
from emerdiff_probe.widgets.overlay import stained
from emerdiff_probe.widgets.picture import Picture, read_by_pointing
from emerdiff_probe.widgets.recordings import Reading
from emerdiff_probe.widgets.walker import Walker, drawn_map, numbers_of, range_of

__all__ = ["Compare", "CompareSegments"]

_DIFFER: Final = np.array([[0, 0, 0, 150], [255, 212, 0, 255]], np.uint8)


class Compare(Walker):
    """Show two recordings, of other prompts, seeds, samples or models, with one set of controls.

    Both images are beside both maps, which share one scale, and the difference of the maps. A click
    shows the cosine similarity to that location in each; positions are the same share of both
    images. The sites and timesteps are those that both recordings have.

    Args:
        a, b: Recordings, in memory or opened; possibly one recording twice.
        samples: The positions of the samples shown of each.
        state: Initial values of traits; see `emerdiff_probe.widgets.Inspector`.

    Raises:
        InputError: The recordings have no site or no timestep in common; or there is no such
            sample.
    """

    def __init__(
        self, a: xr.DataTree, b: xr.DataTree, samples: tuple[int, int] = (0, 0), **state: Any
    ) -> None:
        first, second = Reading(a), Reading(b)
        if not set(first.sites) & set(second.sites):
            raise InputError(
                f"no site is in both recordings; a has {', '.join(first.sites[:4])}, b has "
                f"{', '.join(second.sites[:4])}"
            )
        for name, sample, reading in zip("ab", samples, (first, second), strict=True):
            if not 0 <= sample < (count := reading.images.sizes[SAMPLE]):
                raise InputError(f"sample of {name} is {sample}; choose 0 to {count - 1}")
        self.samples = int(samples[0]), int(samples[1])
        pictures = [Picture(width=480) for _ in range(5)]
        for each in pictures:
            each.observe(self._clicked, "clicked")
        super().__init__(
            _same_calls(first, second), pictures, usual={}, names=("a", "b"), state=state
        )

    def _clicked(self, change: Any) -> None:
        # A click in either image, in pixels of the first.
        size = change["owner"].extent
        at = change["new"]["y"], change["new"]["x"]
        self.point = tuple(
            place / there * here for place, there, here in zip(at, size, self.extent, strict=True)
        )

    def _points(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the point in both images; empty if none."""
        if not self.point:
            return (), ()
        y, x = self.point
        (height, width), (tall, wide) = (each.extent for each in self._readings)
        return (y, x), (y / height * tall, x / width * wide)

    def _draw_pictures(self) -> None:
        position = self._position(self.step)
        features = [
            reading.values(
                self.site, position, sample=sample, guidance=self.guidance, head=self.head
            )
            for reading, sample in zip(self._readings, self.samples, strict=True)
        ]
        points = self._points()
        two = [
            {"marks": [list(each)] if each else [], "cursor": list(each), "extent": [*of.extent]}
            for each, of in zip(points, self._readings, strict=True)
        ]
        shown = zip("ab", self._readings, self.samples, two, self.pictures[:2], strict=True)
        for name, reading, sample, common, picture in shown:
            sizes = reading.images.sizes
            caption = f"{name}, {reading.images.name}"
            grid = [sizes[Y], sizes[X]]
            picture.show(image=reading.file(sample), caption=caption, grid=grid, **common)
        *maps, difference = self._maps(features, points)
        for traits, common, picture in zip(maps, two, self.pictures[2:4], strict=True):
            picture.show(**traits, **common)
        self.pictures[4].show(**difference, **two[0])

    def _maps(self, features: list[xr.DataArray], points: Any) -> list[dict[str, Any]]:
        """Return both maps and their difference."""
        what = f"{site_text(self.site)}, t = {self._when()}"
        if self.point:
            numbers = [
                similarity_to_point(each, *point)[0].transpose(Y, X).rename("cosine similarity")
                for each, point in zip(features, points, strict=True)
            ]
        elif self.show == "colours" and _comparable(features):
            return _colours(features, what)
        else:
            numbers = [numbers_of(each, self.show, self.channel) for each in features]
        ends = range_of(*numbers)
        name = str(numbers[0].name)
        change = numbers[0].copy(data=_on(numbers[1], numbers[0]).values - numbers[0].values)
        most = max(float(np.abs(change).max()), float(np.finfo(np.float32).tiny))
        return [
            drawn_map(numbers[0], *ends, f"a, {what}: {name}"),
            drawn_map(numbers[1], *ends, f"b, {what}: {name}"),
            drawn_map(change, -most, most, f"b - a: {name}", name="b - a"),
        ]

    def state(self) -> dict[str, Any]:
        """Return the samples unless they are the first, and the traits with unusual values."""
        return {**({"samples": self.samples} if any(self.samples) else {}), **super().state()}


def _same_calls(first: Reading, second: Reading) -> tuple[Reading, Reading]:
    """Return readings of the calls that both have, call by call."""
    pairs: list[tuple[int, int]] = []
    for position, timestep in enumerate(first.timesteps):
        visit = matching(first.timesteps, timestep).index(position)
        there = matching(second.timesteps, timestep)
        if visit < len(there):
            pairs.append((position, there[visit]))
    if not pairs:
        raise InputError(
            f"no timestep is in both recordings; a has {', '.join(labels(first.calls))}, b has "
            f"{', '.join(labels(second.calls))}"
        )
    ours, theirs = zip(*pairs, strict=True)
    return first.at(ours), second.at(theirs)


def _comparable(features: list[xr.DataArray]) -> bool:
    """Return whether both have the same channels, and enough of them for colours."""
    first, second = (each.sizes[CHANNEL] for each in features)
    return first == second >= 3


def _colours(features: list[xr.DataArray], what: str) -> list[dict[str, Any]]:
    """Return both in the same principal components, and the distance of their features."""
    first, second = features[0], _on(features[1], features[0])
    both = principal_colours(xr.concat([first, second], SAMPLE, join="override"))
    share = sum(both.attrs["share"])
    found: list[dict[str, Any]] = []
    for name, colours, values in zip(
        "ab", both.transpose(SAMPLE, ...), (first, second), strict=True
    ):
        found.append(
            {
                "image": png(as_bytes(colours.transpose(Y, X, RGB).values)),
                "caption": f"{name}, {what}: common principal colours, {share:.0%} of the variance",
                "grid": [values.sizes[Y], values.sizes[X]],
                **read_by_pointing(numbers_of(values, "magnitude", 0).values, "magnitude"),
            }
        )
    apart = magnitude(second.copy(data=second.values - first.values)).transpose(Y, X)
    most = float(apart.max())
    return [*found, drawn_map(apart, 0, most, "magnitude of b - a", name="of b - a")]


def _on(values: xr.DataArray, grid: xr.DataArray) -> xr.DataArray:
    """Return values at the nearest locations of another grid over the same share of an image."""
    at: Any = {dim: spaced(values.sizes[dim], grid.sizes[dim]) for dim in (Y, X)}
    near = values.isel(at).transpose(*grid.dims)
    return near.assign_coords({dim: grid[dim].values for dim in (Y, X)})


class CompareSegments(Explorer):
    """Show two segmentations of one image, in matching colours, and where they differ.

    Args:
        a, b: Segmentations of one image; or labels (y, x), if an image is given.
        picture: The image (y, x, rgb), by default that of ``a``.
        state: Initial values of traits.

    Attributes:
        point: The position (y, x) that was clicked, marked in all images; empty if none.
        agreement: The share of pixels that have the same segment in both, with segments of ``b``
            matched one for one to those of ``a`` by common pixels.
    """

    point = traitlets.Tuple()
    agreement = traitlets.Float(read_only=True)

    def __init__(
        self,
        a: xr.Dataset | xr.DataArray,
        b: xr.Dataset | xr.DataArray,
        picture: xr.DataArray | None = None,
        **state: Any,
    ) -> None:
        first, second = (
            (each["labels"] if isinstance(each, xr.Dataset) else each).transpose(Y, X).values
            for each in (a, b)
        )
        names = ("a", "b") if picture is None else ("a", "b", "picture")
        if picture is None:
            if not isinstance(a, xr.Dataset):
                raise InputError("labels alone have no image; pass it as picture=")
            picture = a["picture"]
        pixels = picture.transpose(Y, X, RGB).values
        if not first.shape == second.shape == pixels.shape[:2]:
            raise InputError(
                f"labels of {first.shape} and {second.shape} and an image of {pixels.shape[:2]} "
                "pixels; resize them to one size"
            )
        self._labels = first, second
        super().__init__(
            [], [Picture(width=480) for _ in range(3)], usual={"point": ()}, names=names
        )
        agreed = matched(second, first)
        self.set_trait("agreement", float((agreed == first).mean()))
        extent = first.shape[0], first.shape[1]
        at = np.ix_(*thinned(extent))
        image = png(np.ascontiguousarray(pixels[at]))
        differ = (agreed != first)[at].astype(np.uint8)
        agreement = f"agreement: {self.agreement:.1%}; bright where they differ"
        shown: tuple[tuple[str, bytes, dict[str, Any]], ...] = (
            ("a", stained(first[at], 0.6), read_by_pointing(first, "segment")),
            ("b, in the colours of a", stained(agreed[at], 0.6),
             read_by_pointing(second, "segment")),
            (agreement, png(differ, _DIFFER), {}),
        )  # fmt: skip
        common = {"image": image, "extent": list(extent), "grid": list(extent)}
        for each, (caption, over, read) in zip(self.pictures, shown, strict=True):
            each.show(over=over, caption=caption, **read, **common)
            each.observe(self._clicked, "clicked")
        self.observe(self._mark, "point")
        self.begin(**state)

    @traitlets.validate("point")
    def _place(self, proposal: Any) -> tuple[float, ...]:
        place, (height, width) = tuple(map(float, proposal["value"])), self._labels[0].shape
        if place and not (len(place) == 2 and 0 <= place[0] <= height and 0 <= place[1] <= width):
            raise InputError(f"no pixel {place} in an image of {height} x {width} pixels")
        return place

    def _clicked(self, change: Any) -> None:
        self.point = change["new"]["y"], change["new"]["x"]

    def _mark(self, _: Any) -> None:
        for each in self.pictures:
            each.show(marks=[list(self.point)] if self.point else [], cursor=list(self.point))
        if not self.point:
            return
        row, column = (
            min(int(at), size - 1)
            for at, size in zip(self.point, self._labels[0].shape, strict=True)
        )
        one, other = (labels[row, column] for labels in self._labels)
        self.say(f"y {row}, x {column}: segment {one} of a, segment {other} of b")
