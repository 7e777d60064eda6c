"""Two of a kind side by side: recordings with one cursor, and segmentations of one picture."""

from __future__ import annotations

from typing import Any, Final

import ipywidgets
import numpy as np
import traitlets
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import RGB, X, Y
from emerdiff_probe.timesteps import matching
from emerdiff_probe.views.comparison import matched
from emerdiff_probe.views.panels import png
from emerdiff_probe.views.segments import thinned
from emerdiff_probe.widgets.explorer import Explorer, with_static, written
from emerdiff_probe.widgets.inspector import Inspector
from emerdiff_probe.widgets.overlay import stained
from emerdiff_probe.widgets.picture import Picture

__all__ = ["Compare", "CompareSegments"]

_DIFFER: Final = np.array([[0, 0, 0, 150], [255, 212, 0, 255]], np.uint8)


class Compare(ipywidgets.VBox):
    """Two recordings, of other prompts, seeds, samples or models, looked at with one cursor.

    Each is an `Inspector`. What is done to one is done to the other, as far as the other has it:
    places are the same share of both pictures.

    Args:
        a, b: Recordings, in memory or opened; perhaps one recording twice.
        samples: Positions of the samples that are shown of each.
        state: Other traits of `Inspector` to begin with.

    Attributes:
        inspectors: One of each recording; their traits can be set and observed.
    """

    LINKED: Final = ("site", "timestep", "step", "point", "pins", "show", "channel", "head")

    def __init__(
        self, a: xr.DataTree, b: xr.DataTree, samples: tuple[int, int] = (0, 0), **state: Any
    ) -> None:
        first, second = Inspector(a, sample=samples[0], **state), Inspector(b, sample=samples[1])
        self.inspectors = first, second
        super().__init__(self.inspectors)
        self._following = False
        for name in state:
            self._copy(first, second, name)
        for one, other in ((first, second), (second, first)):
            one.observe(lambda change, to=other: self._follow(change, to), list(self.LINKED))

    def _follow(self, change: Any, to: Inspector) -> None:
        # What is copied would come back as a change of the other.
        if self._following:
            return
        self._following = True
        try:
            self._copy(change["owner"], to, change["name"])
        finally:
            self._following = False

    def _copy(self, one: Inspector, other: Inspector, name: str) -> None:
        value = getattr(one, name)
        if name == "point" and value:
            value = _moved(value, one, other)
        elif name == "pins":
            value = tuple(_moved(each, one, other) for each in value)
        elif name == "step":
            # The same step of another schedule is another timestep.
            if not other.has_call(one.timestep, value):
                return
        elif (name == "site" and value not in other.sites) or (
            name == "timestep" and not matching(other.timesteps, value)
        ):
            other.say(f"{name} {value} was not recorded here, so this stays as it is")
            return
        setattr(other, name, value)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and both recordings' pictures for readers without a kernel."""
        views = [each.snapshot() for each in self.inspectors]
        wide = max(each.shape[1] for each in views)
        rows = [
            np.pad(each, ((0, 8), (0, wide - each.shape[1]), (0, 0)), constant_values=255)
            for each in views
        ]
        return with_static(super()._repr_mimebundle_(**kwargs), np.concatenate(rows))

    def code(self, a: str = "a", b: str = "b") -> str:
        """The cell that makes the present view again.

        Args:
            a, b: Names of the recordings in it.
        """
        first, second = self.inspectors
        state = {name: value for name, value in first.state().items() if name in self.LINKED}
        if samples := (first.sample, second.sample) if first.sample or second.sample else ():
            state = {"samples": samples, **state}
        return written("Compare", [a, b], state)


def _moved(place: tuple[float, ...], one: Inspector, other: Inspector) -> tuple[float, ...]:
    """The same share of another picture."""
    return tuple(
        at / size * there for at, size, there in zip(place, one.extent, other.extent, strict=True)
    )


class CompareSegments(Explorer):
    """Two segmentations of one picture, in colours that agree, and where they differ.

    Args:
        a, b: Segmentations of one picture; or labels (y, x), with a picture given.
        picture: (y, x, rgb), by default that of ``a``.
        state: Traits to begin with.

    Attributes:
        point: The place clicked, (y, x), marked in all pictures; empty without one.
        agreement: Share of the pixels in which both have the same segment, segments of ``b``
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
                raise InputError("labels alone have no picture; give it as picture=")
            picture = a["picture"]
        pixels = picture.transpose(Y, X, RGB).values
        if not first.shape == second.shape == pixels.shape[:2]:
            raise InputError(
                f"labels of {first.shape} and {second.shape} and a picture of {pixels.shape[:2]} "
                "pixels; bring them to one size"
            )
        self._labels = first, second
        super().__init__(
            [], [Picture(width=360) for _ in range(3)], usual={"point": ()}, names=names
        )
        agreed = matched(second, first)
        self.set_trait("agreement", float((agreed == first).mean()))
        extent = first.shape[0], first.shape[1]
        at = np.ix_(*thinned(extent))
        image = png(np.ascontiguousarray(pixels[at]))
        differ = (agreed != first)[at].astype(np.uint8)
        shown = {
            "a": stained(first[at], 0.6),
            "b, in the colours of a": stained(agreed[at], 0.6),
            f"agreement: {self.agreement:.1%}; bright where they differ": png(differ, _DIFFER),
        }
        for each, (caption, over) in zip(self.pictures, shown.items(), strict=True):
            each.show(
                image=image, over=over, extent=list(extent), caption=caption, grid=list(extent)
            )
            each.observe(self._clicked, "clicked")
        self.observe(self._mark, "point")
        self.begin(**state)

    @traitlets.validate("point")
    def _place(self, proposal: Any) -> tuple[float, ...]:
        place, (height, width) = tuple(map(float, proposal["value"])), self._labels[0].shape
        if place and not (len(place) == 2 and 0 <= place[0] <= height and 0 <= place[1] <= width):
            raise InputError(f"no place {place} in a picture of {height} x {width} pixels")
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
