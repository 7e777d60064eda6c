"""Explore segments by clicking: other numbers of masks, filters, baselines, masks of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import ipywidgets
import numpy as np
import traitlets
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe import exports as results
from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import MASK, MODEL_X, MODEL_Y, RGB, SOURCE_X, SOURCE_Y, X, Y
from emerdiff_probe.views.panels import png
from emerdiff_probe.views.segments import thinned
from emerdiff_probe.widgets.explorer import Explorer
from emerdiff_probe.widgets.overlay import stained
from emerdiff_probe.widgets.picture import Picture, map_file, read_by_pointing
from emerdiff_probe.widgets.segmenting import BASELINES, Segmenter, covered

__all__ = ["SegmentationExplorer"]

_NONE: Final = "none"
_OVERLAYS: Final = ("segments", "margin")
_MOST: Final = 40
"""The largest number of masks; the paper tries 10 to 40."""
_SIGMA: Final = 8.0
_SIDE: Final = 512
"""The largest size of the image on the screen, in pixels."""


class SegmentationExplorer(Explorer):
    """Click a segment, or a cell of a low-resolution mask, to see the mask and what it changes.

    Dragging on the segments draws a mask of your own, whose outline stays; `export` writes segments
    and these masks to files.

    Args:
        result: A segmentation from `emerdiff_probe.segment`.
        responses: Responses of the same image's single locations, full or compressed: with them the
            number of masks can be changed, and your own masks show what they change.
        state: Initial values of traits.

    Attributes:
        selection: The number of a segment; -1 for none.
        alpha: The opacity of the segments' colours, from 0 (outlines alone) to 1 (no image).
        overlay: "segments"; or "margin", how much less the second mask changes a pixel than the
            first, from 0 (dark: it could belong to either) to 1.
        masks: The number of low-resolution masks; numbers other than the result's need responses.
        merged: The number of segments left after merging the most similar; equal to masks for no
            merging.
        sigma: The standard deviation of the Gaussian filter on difference maps, in pixels of the
            model's image; at least that of the result, which is already filtered.
        baseline: "nearest", "bilinear masks", "bilinear features" or "guided filter", whose
            segments from the same masks are shown beside; or "none".
        own: Masks of your own, polygons of (y, x).
    """

    selection = traitlets.Int(-1)
    alpha = traitlets.Float(0.5, min=0, max=1)
    overlay = traitlets.Enum(_OVERLAYS, "segments")
    masks = traitlets.Int()
    merged = traitlets.Int()
    sigma = traitlets.Float(0.0)
    baseline = traitlets.Enum((_NONE, *BASELINES), _NONE)
    own = traitlets.Tuple()

    def __init__(
        self, result: xr.Dataset, responses: xr.Dataset | None = None, **state: Any
    ) -> None:
        self._segmenter = Segmenter(result, responses)
        self._responses = responses
        self._picture = result["picture"].transpose(Y, X, RGB)
        self._extent = self._segmenter.extent
        rows, columns = thinned(self._extent, _SIDE)
        self._small = self._picture.isel({Y: rows, X: columns})
        self._image = png(np.ascontiguousarray(self._small.values))
        self._ready = False
        self._found: xr.Dataset | None = None
        count = self._segmenter.count
        usual = {
            "masks": count, "merged": count, "sigma": self._segmenter.sigma, "baseline": _NONE,
            "overlay": "segments", "alpha": 0.5, "own": (), "selection": -1,
        }  # fmt: skip
        self._segments, self._beside, self._low, self._moved = (
            Picture(width=480) for _ in range(4)
        )
        self._segments.draws = True
        pictures = [self._segments, self._beside, self._low, self._moved]
        names = ("result",) if responses is None else ("result", "responses")
        super().__init__(self._controls(), pictures, usual=usual, names=names)
        self.files.children = (*self.files.children, *self._exporting())
        # A new number of masks resets the number left after merging to all.
        self.begin(**{"masks": count, "sigma": usual["sigma"], **state})
        for name, control in self._menus.items():
            traitlets.link((self, name), (control, "value"))
        for each in (self._segments, self._beside):
            each.observe(self._picture_clicked, "clicked")
        self._segments.observe(self._lassoed, "dragged")
        self._low.observe(self._mask_clicked, "clicked")
        self._ready = True
        self._draw()
        self.observe(self._draw, list(usual))

    def _controls(self) -> list[ipywidgets.Widget]:
        slider = {"continuous_update": False, "layout": {"width": "300px"}}
        rows, columns = self._segmenter.grid
        count = self._segmenter.count
        self._menus = {
            "masks": ipywidgets.IntSlider(
                description="masks", min=1, max=max(min(_MOST, rows * columns), count), **slider
            ),
            "merged": ipywidgets.IntSlider(description="merge to", min=1, max=count, **slider),
            "sigma": ipywidgets.FloatSlider(
                description="sigma",
                min=self._segmenter.sigma,
                max=self._segmenter.sigma + _SIGMA,
                step=0.25,
                **slider,
            ),
            "alpha": ipywidgets.FloatSlider(description="colours", max=1, step=0.05, **slider),
            "overlay": ipywidgets.Dropdown(
                description="overlay", options=_OVERLAYS, layout={"width": "200px"}
            ),
            "baseline": ipywidgets.Dropdown(
                description="baseline", options=(_NONE, *BASELINES), layout={"width": "240px"}
            ),
        }
        if self._responses is None or "features" not in self._responses:
            self._menus["masks"].layout.display = "none"
        none = ipywidgets.Button(description="choose none", layout={"width": "120px"})
        none.on_click(lambda _: setattr(self, "selection", -1))
        clear = ipywidgets.Button(description="clear own masks", layout={"width": "140px"})
        clear.on_click(lambda _: setattr(self, "own", ()))
        return [*self._menus.values(), none, clear]

    def _exporting(self) -> list[ipywidgets.Widget]:
        self._masks_file = ipywidgets.Text(
            "segments.png",
            description="masks",
            layout={"width": "250px"},
            tooltip="labels as PNG, COCO's JSON or Zarr by the ending",
        )
        button = ipywidgets.Button(description="export", layout={"width": "80px"})
        button.on_click(lambda _: self._export())
        return [self._masks_file, button]

    @traitlets.validate("masks")
    def _masks_known(self, proposal: Any) -> int:
        count = int(proposal["value"])
        most = self._menus["masks"].max
        if not 1 <= count <= most:
            raise InputError(f"masks is {count}; choose 1 to {most}")
        if count != self._segmenter.count:
            self._segmenter.check_responses(count)
        return count

    @traitlets.validate("merged")
    def _merged_known(self, proposal: Any) -> int:
        count = int(proposal["value"])
        if not 1 <= count <= self.masks:
            raise InputError(f"merged is {count}; choose 1 to {self.masks}, the number of masks")
        return count

    @traitlets.validate("sigma")
    def _sigma_known(self, proposal: Any) -> float:
        if proposal["value"] < self._segmenter.sigma:
            raise InputError(
                f"sigma is {proposal['value']}; the result is filtered with "
                f"{self._segmenter.sigma:g} already, so choose that or more"
            )
        return float(proposal["value"])

    @traitlets.validate("selection")
    def _selected(self, proposal: Any) -> int:
        if not -1 <= proposal["value"] < self.merged:
            raise InputError(
                f"no segment {proposal['value']}; choose 0 to {self.merged - 1}, or -1 for none"
            )
        return int(proposal["value"])

    @traitlets.validate("own")
    def _polygons(self, proposal: Any) -> tuple[tuple[tuple[float, float], ...], ...]:
        found = tuple(tuple((float(y), float(x)) for y, x in each) for each in proposal["value"])
        if found:
            self._segmenter.weights(found)  # refuses one that covers nothing
        return found

    @traitlets.observe("masks")
    def _masks_changed(self, change: Any) -> None:
        """Reset what was merged or chosen among other masks."""
        ready, self._ready = self._ready, False
        try:
            self.selection = -1
            self._menus["merged"].max = max(self.masks, self.merged)
            self.merged = self.masks
            self._menus["merged"].max = self.masks
        finally:
            self._ready = ready

    @traitlets.observe("merged")
    def _merged_changed(self, change: Any) -> None:
        ready, self._ready = self._ready, False
        try:
            self.selection = min(self.selection, self.merged - 1)
        finally:
            self._ready = ready

    def state(self) -> dict[str, Any]:
        """Return the traits with unusual values; ``merged`` if fewer than all masks remain."""
        found = {**super().state(), "merged": self.merged}
        if self.merged == self.masks:
            del found["merged"]
        return found

    def segments(self) -> xr.Dataset:
        """Return the current segments at all pixels of the photograph.

        Returns:
            ``labels``, ``margin`` and ``strength`` (y, x), ``low_res``, ``difference``; with masks
            of your own also ``own`` (own_mask, y, x), bool.
        """
        at = self._picture[Y].values, self._picture[X].values
        found = self._segmenter.segments(self.masks, self.merged, self.sigma, *at)
        if self.own:
            stack = [covered(each, self._extent, self._extent) for each in self.own]
            found["own"] = (("own_mask", Y, X), np.stack(stack))
        return found

    def own_masks(self) -> xr.DataArray:
        """Return your own masks on latent locations, as input for `emerdiff_probe.segment`.

        Returns:
            (mask, source_y, source_x), the share of each location that a mask covers.

        Raises:
            InputError: None was drawn.
        """
        return self._segmenter.weights(self.own)

    def export(self, path: str | Path) -> Path:
        """Write the current segments and your own masks, in the format of the path's suffix.

        See `emerdiff_probe.exports.write_masks`.
        """
        return results.write_masks(self.segments(), path)

    def _export(self) -> None:
        path = None
        with self.working(f"writing {self._masks_file.value}", files=True):
            path = self.export(self._masks_file.value)
        if path:
            self.say(f"written: {path.absolute()}", files=True)

    def _picture_clicked(self, change: Any) -> None:
        self._choose(change["new"], "labels", (Y, X))

    def _mask_clicked(self, change: Any) -> None:
        self._choose(change["new"], "low_res", (SOURCE_Y, SOURCE_X))

    def _choose(self, place: Any, name: str, dims: tuple[str, str]) -> None:
        if self._found is not None:
            at = dict(zip(dims, (place["y"], place["x"]), strict=True))
            self.selection = int(self._found[name].sel(at, method="nearest"))

    def _lassoed(self, change: Any) -> None:
        with self.working("drawing a mask"):
            self.own = (*self.own, change["new"]["path"])

    def _draw(self, _: Any = None) -> None:
        if not self._ready:
            return
        with self.working("segmenting"):
            at = self._small[Y].values, self._small[X].values
            found = self._segmenter.segments(self.masks, self.merged, self.sigma, *at)
            self._found = found
            if self.selection >= found.sizes[MASK]:
                raise InputError(
                    f"{found.sizes[MASK]} segments remain, as masks are equally far apart; "
                    f"there is no segment {self.selection}"
                )
            labels = found["labels"].transpose(Y, X).values
            low_res = found["low_res"].transpose(SOURCE_Y, SOURCE_X).values
            common = {"extent": list(self._extent), "grid": list(low_res.shape)}
            chosen = [self.selection] if self.selection >= 0 else []
            self._draw_segments(found, labels, chosen, common)
            self._beside.layout.display = "none" if self.baseline == _NONE else None
            if self.baseline != _NONE:
                other = self._segmenter.baseline(
                    self.baseline, self.masks, self.merged, self._small
                )
                same = float((other == labels).mean())
                self._beside.show(
                    image=self._image,
                    over=stained(other, self.alpha, chosen),
                    caption=f"{self.baseline}, {same:.1%} of the pixels are the same",
                    **read_by_pointing(other, "segment"),
                    **common,
                )
            self._low.show(
                image=stained(low_res, 1.0, chosen, lines=False),
                caption="low-resolution masks: click one",
                **read_by_pointing(low_res, "mask"),
                **common,
            )
            self._draw_moved(found, common)

    def _draw_segments(
        self, found: xr.Dataset, labels: NDArray[np.integer], chosen: list[int], common: Any
    ) -> None:
        own = [covered(each, self._extent, labels.shape) for each in self.own]
        opacity, read = 1.0, read_by_pointing(labels, "segment")
        caption = f"{found.sizes[MASK]} segments: click one, or draw a mask"
        if self.overlay == "margin":
            margin = found["margin"].transpose(Y, X).values
            over = map_file(margin, 0, 1)
            opacity, read = self.alpha, read_by_pointing(margin, "margin")
            caption = "margin, 0 (dark: undecided) to 1 (light)"
        else:
            over = stained(labels, self.alpha, chosen, own)
        if chosen:
            share = float((labels == chosen[0]).mean())
            caption = f"segment {chosen[0]}, {share:.1%} of the picture"
        self._segments.show(
            image=self._image, over=over, opacity=opacity, caption=caption, **read, **common
        )

    def _draw_moved(self, found: xr.Dataset, common: Any) -> None:
        values, what = None, ""
        if self.selection >= 0:
            maps = found["difference"].transpose(MASK, MODEL_Y, MODEL_X)
            values, what = maps[self.selection].values, f"difference map of {self.selection}"
        elif self.own:
            values = self._segmenter.moved_by(self.own[-1])
            what = f"pixels moved by your mask {len(self.own)}"
        self._moved.layout.display = "none" if values is None else None
        if values is not None:
            most = float(values.max())
            self._moved.show(
                image=map_file(values, 0, most),
                caption=f"{what}, at most {most:.3g}",
                **read_by_pointing(values, "moved by"),
                **common,
            )
