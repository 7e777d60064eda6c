"""Clicking through the correspondence of latent locations and pixels, in both directions."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import ipywidgets
import numpy as np
import traitlets
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import RGB, SOURCE_X, SOURCE_Y, X, Y
from emerdiff_probe.views.colours import shaded
from emerdiff_probe.widgets.parts import Explorer
from emerdiff_probe.widgets.picture import Picture

__all__ = ["CorrespondenceExplorer", "Responder", "StoredResponses"]

_OVER = 0.75
"""Share of a map's colours over the picture."""


@runtime_checkable
class Responder(Protocol):
    """What answers how a picture moves: stored responses, or a model asked when needed."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of latent locations."""
        ...

    @property
    def picture(self) -> xr.DataArray:
        """The picture, uint8 (y, x, rgb)."""
        ...

    def location(self, row: int, column: int) -> xr.DataArray:
        """The signed response of one location, (rgb, y, x), in the picture's values of 0 to 1."""
        ...


class StoredResponses:
    """Responses that were computed before, as a `Responder`.

    Args:
        responses: Of single locations, as `emerdiff_probe.respond` gives them.

    Raises:
        InputError: They are of something else.
    """

    def __init__(self, responses: xr.Dataset) -> None:
        dims = {SOURCE_Y, SOURCE_X, RGB, Y, X}
        if "response" not in responses or set(responses["response"].dims) != dims:
            raise InputError(
                "no responses of single locations, whole, among "
                f"{sorted(map(str, responses.data_vars))}; make them by "
                "ep.respond(model, source, to='locations')"
            )
        self._response = responses["response"].transpose(SOURCE_Y, SOURCE_X, RGB, Y, X)
        self.picture = responses["picture"].transpose(Y, X, RGB)
        self.grid = self._response.sizes[SOURCE_Y], self._response.sizes[SOURCE_X]

    def location(self, row: int, column: int) -> xr.DataArray:
        """The signed response of one location, (rgb, y, x)."""
        return self._response[row, column]

    def pixel(self, row: int, column: int) -> NDArray[np.float32]:
        """How much every location moves a pixel, (source_y, source_x): the norm over RGB."""
        values = self._response[..., row, column].values.astype(np.float32)
        return np.linalg.norm(values, axis=-1)


class CorrespondenceExplorer(Explorer):
    """Click a latent location to see which pixels it moves; a pixel, to see what moves it.

    Locations can be brushed, and added with the shift key: their signed responses are added before
    the norm is taken. The last picture shows the whole picture moved by them.

    Args:
        responses: Of single locations, as `emerdiff_probe.respond` gives them; or a `Responder`,
            which is asked for chosen locations alone; pixels are then answered from those.
        state: Traits to begin with.

    Attributes:
        selection: Chosen locations, (row, column).
        pixel: The pixel asked for, (y, x); empty while locations are chosen.
        strength: What the response is multiplied by in the moved picture; half of it is what one
            modulated run does, since a response is the difference of two.
    """

    selection = traitlets.Tuple()
    pixel = traitlets.Tuple()
    strength = traitlets.Float(1.0)

    def __init__(self, responses: xr.Dataset | Responder, **state: Any) -> None:
        self.responder: Responder = (
            StoredResponses(responses) if isinstance(responses, xr.Dataset) else responses
        )
        self._asked: dict[tuple[int, int], NDArray[np.float32]] = {}
        self._pixels = self.responder.picture.transpose(Y, X, RGB).values
        self._extent = self._pixels.shape[0], self._pixels.shape[1]
        self._shown, self._grid, self._moved = (Picture(width=360) for _ in range(3))
        self._slider = ipywidgets.FloatSlider(
            description="strength", min=-4, max=4, step=0.25, continuous_update=False
        )
        self._slider.style.description_width = "initial"
        clear = ipywidgets.Button(description="clear")
        clear.on_click(lambda _: self.choose())
        super().__init__([self._slider, clear], [self._shown, self._grid, self._moved])
        for name, value in state.items():
            if name not in ("selection", "pixel", "strength"):
                raise InputError(f"no trait {name!r}; choices: selection, pixel, strength")
            setattr(self, name, value)
        traitlets.link((self, "strength"), (self._slider, "value"))
        self._shown.observe(self._picture_clicked, "clicked")
        self._grid.observe(self._grid_clicked, "clicked")
        self._grid.observe(self._grid_dragged, "dragged")
        self._draw()
        self.observe(self._draw, ["selection", "pixel", "strength"])

    def choose(
        self, selection: tuple[tuple[int, int], ...] = (), pixel: tuple[float, ...] = ()
    ) -> None:
        """Locations or a pixel, the other being empty then; without either, nothing."""
        with self.hold_trait_notifications():
            self.selection, self.pixel = selection, pixel

    @traitlets.validate("selection")
    def _locations(self, proposal: Any) -> tuple[tuple[int, int], ...]:
        rows, columns = self.responder.grid
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
            raise InputError(f"no pixel {place} in a picture of {height} x {width} pixels")
        return place

    def response(self) -> NDArray[np.float32]:
        """The signed sum of the chosen locations' responses, (rgb, y, x)."""
        total = np.zeros((3, *self._extent), np.float32)
        for row, column in self.selection:
            total += self._response(row, column)
        return total

    def _response(self, row: int, column: int) -> NDArray[np.float32]:
        if isinstance(self.responder, StoredResponses):
            return self.responder.location(row, column).values.astype(np.float32)
        if (row, column) not in self._asked:
            found = self.responder.location(row, column).transpose(RGB, Y, X)
            self._asked[row, column] = found.values.astype(np.float32)
        return self._asked[row, column]

    def movers(self) -> NDArray[np.float32]:
        """How much each location moves the pixel, (source_y, source_x); NaN where it is unknown."""
        row, column = (
            min(int(each), size - 1) for each, size in zip(self.pixel, self._extent, strict=True)
        )
        if isinstance(self.responder, StoredResponses):
            return self.responder.pixel(row, column)
        found = np.full(self.responder.grid, np.nan, np.float32)
        for place, response in self._asked.items():
            found[place] = np.linalg.norm(response[:, row, column])
        return found

    def _cell(self, y: float, x: float) -> tuple[int, int]:
        rows, columns = self.responder.grid
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

    def _draw(self, _: Any = None) -> None:
        names = ", ".join(f"({row}, {column})" for row, column in self.selection[:4])
        names += " ..." if len(self.selection) > 4 else ""
        with self.working("asking for responses"):
            height, width = self._extent
            rows, columns = self.responder.grid
            cursor = [
                size * (each + 0.5) / count
                for each, size, count in zip(
                    self.selection[-1] if self.selection else (), self._extent, (rows, columns),
                    strict=False,
                )
            ]  # fmt: skip
            marks = [list(self.pixel)] if self.pixel else []
            cells = [list(each) for each in self.selection]
            common = {"marks": marks, "cells": cells}
            pixels, caption = self._pixels, "picture: click a pixel"
            grid, grid_caption = self._pixels, "latent locations: click or brush"
            moved, moved_caption = self._pixels, "picture, moved: choose a location"
            if self.selection:
                response = self.response()
                norms = np.linalg.norm(response, axis=0)
                pixels = self._over(norms)
                caption = f"pixels moved by {names}, at most {norms.max():.3g}"
                signed = self._pixels / 255 + self.strength / 2 * response.transpose(1, 2, 0)
                moved = np.rint(signed.clip(0, 1) * 255).astype(np.uint8)
                moved_caption = f"picture + {self.strength / 2:g} x response"
            if self.pixel:
                movers = self.movers()
                known = int(np.isfinite(movers).sum())
                most = float(np.nanmax(movers)) if known else 0.0
                grid = self._over(movers)
                grid_caption = (
                    f"locations that move y {int(self.pixel[0])}, x {int(self.pixel[1])}, at most "
                    f"{most:.3g}"
                )
                if known < movers.size:
                    grid_caption += f"; {known} of {movers.size} were asked for so far"
            own = {"grid": [height, width], "cursor": list(self.pixel)}
            self._shown.show(pixels, self._extent, caption=caption, **own, **common)
            own = {"grid": [rows, columns], "cursor": cursor}
            self._grid.show(grid, self._extent, caption=grid_caption, **own, **common)
            own = {"grid": [rows, columns]}
            self._moved.show(moved, self._extent, caption=moved_caption, cells=cells, **own)

    def _over(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """A map over the picture, each value on the pixels of its cell."""
        height, width = self._extent
        rows = np.arange(height) * values.shape[0] // height
        columns = np.arange(width) * values.shape[1] // width
        most = float(np.nanmax(values)) if np.isfinite(values).any() else 1.0
        colours = shaded(values, 0, most)[rows][:, columns]
        blended = _OVER * colours + (1 - _OVER) * self._pixels
        return np.rint(blended).astype(np.uint8)

    def code(self, responses: str = "responses") -> str:
        """The cell that makes the present view again.

        Args:
            responses: Their name in it.
        """
        state = {name: getattr(self, name) for name in ("selection", "pixel", "strength")}
        usual = {"selection": (), "pixel": (), "strength": 1.0}
        given = "".join(f", {k}={v!r}" for k, v in state.items() if v != usual[k])
        return f"ep.widgets.CorrespondenceExplorer({responses}{given})"
