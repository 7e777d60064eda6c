"""Explore the correspondence of latent locations and pixels by clicking, in both directions."""

from __future__ import annotations

from typing import Any, Final

import ipywidgets
import numpy as np
import traitlets
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.kinds import expect
from emerdiff_probe.schema import MASK, RESPONSES, RGB, SOURCE_X, SOURCE_Y, X, Y
from emerdiff_probe.views.maps import extent
from emerdiff_probe.views.panels import as_bytes, png, spaced
from emerdiff_probe.widgets.answers import Answers, LiveAnswers, StoredAnswers
from emerdiff_probe.widgets.explorer import Explorer
from emerdiff_probe.widgets.overlay import stained
from emerdiff_probe.widgets.picture import Picture, map_file, photo_file, read_by_pointing

__all__ = ["CorrespondenceExplorer"]

_OVER: Final = 0.75
"""The opacity of a map over the image."""

_SENT: Final = 256
"""The pixels along a side of a map, which is at most 480 pixels wide on the screen."""

_MOST: Final = 40
"""The largest number of masks; the paper tries 10 to 40."""


class CorrespondenceExplorer(Explorer):
    """Click a latent location to see which pixels it changes, or a pixel to see what changes it.

    Locations can be brushed, and added with the shift key: their signed responses are added before
    the norm is taken. The third panel shows the image changed by them, the fourth its segments from
    the number of masks that the slider sets; a click there chooses a mask's locations.

    Args:
        responses: Responses of single locations from `emerdiff_probe.respond`, full or compressed
            by `emerdiff_probe.responses.compress`; or a model that computes them, an
            `emerdiff_probe.emerdiff.Responder`: it computes the chosen location first and all
            others in the background, which the button stops.
        state: Initial values of traits.

    Attributes:
        selection: The chosen locations, (row, column).
        pixel: The chosen pixel, (y, x); empty while locations are chosen.
        strength: The factor of the response in the changed image; half the response is the effect
            of one modulated run, since a response is the difference of two.
        masks: The number of clusters of the features that make segments; 0 for none.
        engine: The engine by which a model computes responses; empty if they are stored.
        known: The number of locations whose response exists, read-only.
    """

    selection = traitlets.Tuple()
    pixel = traitlets.Tuple()
    strength = traitlets.Float(1.0)
    masks = traitlets.Int(0)
    engine = traitlets.Unicode()
    known = traitlets.Int(read_only=True)

    def __init__(self, responses: Any, **state: Any) -> None:
        if isinstance(responses, xr.Dataset | xr.DataTree):
            expect(responses, RESPONSES)
        self.answers: Answers = (
            StoredAnswers(responses)
            if isinstance(responses, xr.Dataset)
            else LiveAnswers(responses)
        )
        self._pixels = self.answers.frame["picture"].transpose(Y, X, RGB).values
        self._extent = extent(self.answers.frame)
        self._image = png(self._pixels)
        self._clusters: xr.Dataset | None = None
        self.set_trait("known", self.answers.known)
        self._shown, self._grid, self._moved, self._segments = (
            Picture(width=480) for _ in range(4)
        )
        self._grid.draws = True
        pictures = [self._shown, self._grid, self._moved, self._segments]
        engine = self.answers.engine if isinstance(self.answers, LiveAnswers) else ""
        usual = {"selection": (), "pixel": (), "strength": 1.0, "masks": 0, "engine": engine}
        super().__init__(self._controls(), pictures, usual=usual, names=("responses",))
        self.begin(**{"engine": engine, **state})
        traitlets.link((self, "strength"), (self._strength, "value"))
        traitlets.link((self, "masks"), (self._masks, "value"))
        if engine:
            traitlets.link((self, "engine"), (self._engine, "value"))
        self._shown.observe(self._picture_clicked, "clicked")
        self._grid.observe(self._grid_clicked, "clicked")
        self._grid.observe(self._grid_dragged, "dragged")
        self._segments.observe(self._segment_clicked, "clicked")
        if self.engine != engine:
            self._use(None)
        else:
            self._draw()
            self._draw_segments()
        self.observe(self._draw, ["selection", "pixel", "strength"])
        self.observe(self._draw_segments, "masks")
        self.observe(self._use, "engine")

    def _controls(self) -> list[ipywidgets.Widget]:
        self._strength = ipywidgets.FloatSlider(
            description="strength", min=-4, max=4, step=0.25, continuous_update=False
        )
        self._masks = ipywidgets.IntSlider(
            description="masks", max=self._most(), continuous_update=False
        )
        if "features" not in self.answers.frame:
            self._masks.layout.display = "none"
        clear = ipywidgets.Button(description="clear", layout={"width": "80px"})
        clear.on_click(lambda _: self.choose())
        controls = [self._strength, self._masks, clear]
        if isinstance(self.answers, LiveAnswers):
            rows, columns = self.answers.grid
            self._progress = ipywidgets.IntProgress(
                max=rows * columns, value=self.known, description="known"
            )
            self._filling = ipywidgets.Button(description="compute all")
            self._filling.on_click(lambda _: self._toggle())
            self._engine = ipywidgets.Dropdown(
                description="engine", options=self.answers.engines, layout={"width": "200px"}
            )
            controls += [self._engine, self._progress, self._filling]
        return controls

    def choose(
        self, selection: tuple[tuple[int, int], ...] = (), pixel: tuple[float, ...] = ()
    ) -> None:
        """Choose locations or a pixel, which clears the other; without either, clear both.

        Raises:
            InputError: There is no such location or pixel.
        """
        with self.hold_trait_notifications():
            self.selection, self.pixel = selection, pixel

    @traitlets.validate("selection")
    def _locations(self, proposal: Any) -> tuple[tuple[int, int], ...]:
        rows, columns = self.answers.grid
        found = tuple(dict.fromkeys((int(row), int(column)) for row, column in proposal["value"]))
        for row, column in found:
            if not (0 <= row < rows and 0 <= column < columns):
                raise InputError(
                    f"no location {row, column}; rows are 0 to {rows - 1}, columns 0 to "
                    f"{columns - 1}"
                )
        return found

    @traitlets.validate("pixel")
    def _place(self, proposal: Any) -> tuple[float, ...]:
        place, (height, width) = tuple(map(float, proposal["value"])), self._extent
        if place and not (len(place) == 2 and 0 <= place[0] <= height and 0 <= place[1] <= width):
            raise InputError(f"no pixel {place} in an image of {height} x {width} pixels")
        return place

    @traitlets.validate("masks")
    def _count(self, proposal: Any) -> int:
        count = int(proposal["value"])
        if not 0 <= count <= self._most():
            raise InputError(f"masks is {count}; choose 1 to {self._most()}, or 0 for none")
        if count and "features" not in self.answers.frame:
            raise InputError("these responses have no features to cluster; keep masks at 0")
        return count

    @traitlets.validate("engine")
    def _known_engine(self, proposal: Any) -> str:
        engines = self.answers.engines if isinstance(self.answers, LiveAnswers) else ("",)
        if proposal["value"] not in engines:
            choices = ", ".join(map(repr, engines))
            raise InputError(f"engine is {proposal['value']!r}; choose one of {choices}")
        return str(proposal["value"])

    def _most(self) -> int:
        rows, columns = self.answers.grid
        return min(_MOST, rows * columns)

    def response(self) -> NDArray[np.float32]:
        """Return the signed sum of the chosen locations' responses, (rgb, y, x)."""
        return self.answers.response(self.selection)

    def movers(self) -> NDArray[np.float32]:
        """Return how much each location changes the pixel, (source_y, source_x); NaN if unknown."""
        y, x = self.pixel
        return self.answers.movers(y, x)

    def segments(self) -> xr.Dataset:
        """Return segments at all pixels; see `emerdiff_probe.responses.segment_from`.

        Raises:
            InputError: ``masks`` is 0, so there are none.
        """
        if not self.masks:
            raise InputError("masks is 0; choose a number of masks")
        return self.answers.segments(self.masks, quick=False)

    def _cell(self, y: float, x: float) -> tuple[int, int]:
        rows, columns = self.answers.grid
        height, width = self._extent
        return min(int(y / height * rows), rows - 1), min(int(x / width * columns), columns - 1)

    def _grid_clicked(self, change: Any) -> None:
        cell, others = self._cell(change["new"]["y"], change["new"]["x"]), self.selection
        if not change["new"]["shift"]:
            self.choose((cell,))
        elif cell in others:
            self.choose(tuple(each for each in others if each != cell))
        else:
            self.choose((*others, cell))

    def _grid_dragged(self, change: Any) -> None:
        cells = tuple(self._cell(*place) for place in change["new"]["path"])
        self.choose((*self.selection, *cells) if change["new"]["shift"] else cells)

    def _picture_clicked(self, change: Any) -> None:
        self.choose(pixel=(change["new"]["y"], change["new"]["x"]))

    def _segment_clicked(self, change: Any) -> None:
        if self._clusters is None:
            return
        at = {Y: change["new"]["y"], X: change["new"]["x"]}
        number = int(self._clusters["labels"].sel(at, method="nearest"))
        inside = self._clusters["low_res"].transpose(SOURCE_Y, SOURCE_X).values == number
        self.choose(tuple((int(row), int(column)) for row, column in np.argwhere(inside)))

    def _draw(self, _: Any = None) -> None:
        names = ", ".join(f"({row}, {column})" for row, column in self.selection[:4])
        names += f" and {len(self.selection) - 4} more" if len(self.selection) > 4 else ""
        with self.working("asking for responses"):
            height, width = self._extent
            rows, columns = self.answers.grid
            common = {
                "extent": [height, width],
                "grid": [rows, columns],
                "opacity": _OVER,
                "marks": [list(self.pixel)] if self.pixel else [],
                "cells": [list(each) for each in self.selection],
            }
            over, caption, read = b"", "picture: click a pixel", {"values": b""}
            moved, moved_caption = self._image, "picture, moved: choose a location"
            if self.selection:
                response = self.response()
                norms = np.linalg.norm(response, axis=0)
                over = map_file(_sent(norms), 0, float(norms.max()))
                read = read_by_pointing(norms, "moved by")
                caption = f"pixels moved by {names}, at most {norms.max():.3g}"
                signed = self._pixels / 255 + self.strength / 2 * response.transpose(1, 2, 0)
                moved = photo_file(as_bytes(signed))
                moved_caption = f"picture + {self.strength / 2:g} x response"
            movers: dict[str, Any] = {
                "over": b"", "caption": "latent locations: click or brush", "values": b"",
            }  # fmt: skip
            if self.pixel:
                movers = self._drawn_movers()
            last = self.selection[-1:]
            cursor = [[(r + 0.5) * height / rows, (c + 0.5) * width / columns] for r, c in last]
            common["cursor"] = cursor[0] if cursor else []
            pixel = {**common, "cursor": list(self.pixel)}
            self._shown.show(image=self._image, over=over, caption=caption, **read, **pixel)
            self._grid.show(image=self._image, **movers, **common)
            self._moved.show(image=moved, caption=moved_caption, **common)
        if self.selection:
            self._fill()

    def _drawn_movers(self) -> dict[str, Any]:
        movers = self.movers()
        known = int(np.isfinite(movers).sum())
        most = float(np.nanmax(movers)) if known else 0.0
        y, x = map(int, self.pixel)
        caption = f"locations that move y {y}, x {x}, at most {most:.3g}"
        if known < movers.size:
            caption += f"; {known} of {movers.size} are known so far"
        return {
            "over": map_file(movers, 0, most),
            "caption": caption,
            **read_by_pointing(movers, "moves it by"),
        }

    def _draw_segments(self, _: Any = None) -> None:
        self._segments.layout.display = None if self.masks else "none"
        if not self.masks:
            self._clusters = None
            return
        with self.working("clustering"):
            rows, columns = self.answers.grid
            if self.known < rows * columns:
                raise InputError(
                    f"{self.known} of {rows * columns} locations are known so far, and segments "
                    "need all; wait for the rest"
                )
            self._clusters = self.answers.segments(self.masks, quick=True)
            labels = self._clusters["labels"].transpose(Y, X).values
            self._segments.show(
                image=self._image,
                over=stained(labels, 0.6),
                extent=list(self._extent),
                grid=[rows, columns],
                **read_by_pointing(labels, "segment"),
                caption=f"segments from {self._clusters.sizes[MASK]} masks: click one for its "
                "locations",
            )

    def _use(self, _: Any) -> None:
        if not isinstance(self.answers, LiveAnswers):
            return
        with self.working(f"making {self.engine} ready"):
            self.answers.use(self.engine)
            self._told()
        self._filling.layout.display = "none" if self.known == self._progress.max else None
        self._draw_segments()
        self._draw()
        self._label()

    def _fill(self) -> None:
        """Compute unknown responses in the background, around the location chosen last."""
        if isinstance(self.answers, LiveAnswers):
            self._told()
            self.answers.fill(self.selection[-1], self._told, self._failed)
            self._label()

    def _toggle(self) -> None:
        assert isinstance(self.answers, LiveAnswers)
        if self.answers.filling:
            self.answers.stop()
        else:
            rows, columns = self.answers.grid
            self.answers.fill((rows // 2, columns // 2), self._told, self._failed)
        self._label()

    def _label(self) -> None:
        assert isinstance(self.answers, LiveAnswers)
        self._filling.description = "stop" if self.answers.filling else "compute all"

    def _told(self) -> None:
        """Show that more responses exist; called by the thread that computes them."""
        self.set_trait("known", self.answers.known)
        self._progress.value = self.known
        if self.pixel:
            self._grid.show(**self._drawn_movers())
        if self.known == self._progress.max:
            self._filling.layout.display = "none"
            self._draw_segments()

    def _failed(self, error: Exception) -> None:
        with self.working("computing the rest"):
            raise error


def _sent(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return evenly spaced pixels of a large map, enough for the screen."""
    kept = [spaced(side, min(side, _SENT)) for side in values.shape]
    return values[np.ix_(*kept)]
