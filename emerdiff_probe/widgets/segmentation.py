"""Clicking through segments: what moved one, and where two segmentations differ."""

from __future__ import annotations

from typing import Any

import ipywidgets
import numpy as np
import traitlets
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import MASK, MODEL_X, MODEL_Y, RGB, SOURCE_X, SOURCE_Y, X, Y
from emerdiff_probe.views.colours import paint, palette, shaded
from emerdiff_probe.views.comparison import matched
from emerdiff_probe.views.segments import thinned
from emerdiff_probe.widgets.parts import Explorer
from emerdiff_probe.widgets.picture import Picture

__all__ = ["Compare", "SegmentationExplorer"]

_Pixels = NDArray[np.uint8]


class SegmentationExplorer(Explorer):
    """Click a segment, or a cell of a low-resolution mask, to see the mask and what it moves.

    Args:
        result: A segmentation, as `emerdiff_probe.segment` makes it.
        state: Traits to begin with.

    Attributes:
        selection: Number of a mask; -1 for none.
        alpha: Share of the segments' colours, from 0 (outlines alone) to 1 (no picture).
    """

    selection = traitlets.Int(-1)
    alpha = traitlets.Float(0.5, min=0, max=1)

    def __init__(self, result: xr.Dataset, **state: Any) -> None:
        self._result = result
        self._extent = result.sizes[Y], result.sizes[X]
        self._rows, self._columns = thinned(self._extent)
        self._low_res = result["low_res"].transpose(SOURCE_Y, SOURCE_X).values
        self._labels = result["labels"].transpose(Y, X).values
        self._segments, self._masks, self._difference = (Picture(width=360) for _ in range(3))
        slider = ipywidgets.FloatSlider(description="colours", max=1, continuous_update=False)
        none = ipywidgets.Button(description="choose none")
        none.on_click(lambda _: setattr(self, "selection", -1))
        super().__init__([slider, none], [self._segments, self._masks, self._difference])
        for name, value in state.items():
            if name not in ("selection", "alpha"):
                raise InputError(f"no trait {name!r}; choices: selection, alpha")
            setattr(self, name, value)
        traitlets.link((self, "alpha"), (slider, "value"))
        self._segments.observe(lambda change: self._clicked(change, self._labels), "clicked")
        self._masks.observe(lambda change: self._clicked(change, self._low_res), "clicked")
        self._draw()
        self.observe(self._draw, ["selection", "alpha"])

    @traitlets.validate("selection")
    def _known(self, proposal: Any) -> int:
        last = self._result.sizes[MASK] - 1
        if not -1 <= proposal["value"] <= last:
            raise InputError(f"no mask {proposal['value']}; choose 0 to {last}, or -1 for none")
        return int(proposal["value"])

    def _clicked(self, change: Any, labels: NDArray[np.integer]) -> None:
        place = change["new"]["y"], change["new"]["x"]
        row, column = (
            min(int(at / size * count), count - 1)
            for at, size, count in zip(place, self._extent, labels.shape, strict=True)
        )
        self.selection = int(labels[row, column])

    def _draw(self, _: Any = None) -> None:
        with self.working("painting"):
            number = self.selection
            labels = self._labels[self._rows][:, self._columns]
            picture = self._result["picture"].transpose(Y, X, RGB).values
            pixels = paint(picture[self._rows][:, self._columns], labels, self.alpha, line=1)
            caption = "segments: click one"
            masks = palette(int(self._low_res.max()) + 1)[self._low_res]
            difference, moved = np.zeros((1, 1, 3), np.uint8), "difference map: choose a segment"
            if number >= 0:
                # What is not chosen recedes.
                pixels = np.where((labels == number)[..., None], pixels, pixels // 3)
                masks = np.where((self._low_res == number)[..., None], masks, masks // 3)
                share = float((self._labels == number).mean())
                caption = f"segment {number}, {share:.1%} of the picture"
                values = self._result["difference"][number].transpose(MODEL_Y, MODEL_X).values
                most = float(values.max())
                difference, moved = shaded(values, 0, most), f"difference map, at most {most:.3g}"
            where = {"grid": list(self._low_res.shape)}
            self._segments.show(pixels, self._extent, caption=caption, **where)
            self._masks.show(masks, self._extent, caption="low-resolution masks", **where)
            self._difference.show(difference, self._extent, caption=moved)

    def code(self, result: str = "result") -> str:
        """The cell that makes the present view again."""
        given = f", selection={self.selection}" if self.selection >= 0 else ""
        given += f", alpha={self.alpha!r}" if self.alpha != 0.5 else ""
        return f"ep.widgets.SegmentationExplorer({result}{given})"


class Compare(Explorer):
    """Two segmentations of one picture, in colours that agree, and where they differ.

    Args:
        a, b: Segmentations of one picture; or labels (y, x), with a picture given.
        picture: (y, x, rgb), by default that of ``a``.

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
    ) -> None:
        first, second = (
            (each["labels"] if isinstance(each, xr.Dataset) else each).transpose(Y, X).values
            for each in (a, b)
        )
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
        super().__init__([], [Picture(width=360) for _ in range(3)])
        agreed = matched(second, first)
        self.set_trait("agreement", float((agreed == first).mean()))
        extent = first.shape[0], first.shape[1]
        rows, columns = thinned(extent)
        small = pixels[rows][:, columns]
        grey = np.repeat(small.mean(-1, keepdims=True) // 2, 3, axis=-1).astype(np.uint8)
        differ = (agreed != first)[rows][:, columns, None]
        shown = {
            "a": paint(small, first[rows][:, columns], 0.6, line=1),
            "b, in the colours of a": paint(small, agreed[rows][:, columns], 0.6, line=1),
            f"agreement: {self.agreement:.1%}; bright where they differ": np.where(
                differ, np.array([255, 212, 0], np.uint8), grey
            ),
        }
        for each, (caption, painted) in zip(self.pictures, shown.items(), strict=True):
            each.show(painted, extent, caption=caption, grid=list(extent))
            each.observe(self._clicked, "clicked")
        self.observe(self._mark, "point")

    def _clicked(self, change: Any) -> None:
        self.point = change["new"]["y"], change["new"]["x"]

    def _mark(self, _: Any) -> None:
        for each in self.pictures:
            each.marks = [list(self.point)] if self.point else []
            each.cursor = list(self.point)
        if self.point:
            row, column = (
                min(int(at), size - 1)
                for at, size in zip(self.point, self._labels[0].shape, strict=True)
            )
            one, other = (labels[row, column] for labels in self._labels)
            self.say(f"y {row}, x {column}: segment {one} of a, segment {other} of b")
