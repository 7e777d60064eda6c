"""Share what all explorers have: status, errors, files, code for the view, a static view."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ipywidgets
import numpy as np
import plotly.graph_objects as go
import traitlets
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from emerdiff_probe.errors import InputError, ProbeError, closest
from emerdiff_probe.paths import local, made_at_once
from emerdiff_probe.views.layers import marker
from emerdiff_probe.views.panels import panels, picture, png
from emerdiff_probe.widgets.picture import Picture

__all__ = ["Explorer", "styles", "with_static", "written"]

# Sizes in a static view, in pixels: the width of an image, the height of a caption, half a cross.
_SIDE: Final = 256
_CAPTION: Final = 18
_ARM: Final = 6
_LINE: Final = 88  # characters of code
_LEAST: Final = 150  # width of a picture on the screen: five in a notebook at 1280 pixels
_FORMATS: Final = (".html", ".svg", ".png", ".pdf")


def styles() -> ipywidgets.HTML:
    """Return the style sheet, for explorers without an image that brings it."""
    css = Path(__file__).with_name("picture.css").read_text("utf-8")
    return ipywidgets.HTML(f"<style>{css}</style>", layout={"display": "none"})


class Explorer(ipywidgets.VBox):
    """Controls, a line of status, images, and a row for files and code.

    Args:
        controls: The controls above the images.
        pictures: The images, side by side.
        usual: The usual values of traits; see the attribute.
        names: The names of what is explored, for `code`.

    Attributes:
        usual: The names of the traits that make up a view, with their usual values.
        error: The last error, shown in red below the button that was pressed; empty if there is
            none.
        busy: A description of what is being computed; empty if nothing is.
    """

    error = traitlets.Unicode(read_only=True)
    busy = traitlets.Unicode(read_only=True)

    def __init__(
        self,
        controls: Sequence[ipywidgets.Widget],
        pictures: Sequence[Picture],
        *,
        usual: Mapping[str, Any],
        names: tuple[str, ...],
    ) -> None:
        self.usual, self._names = usual, names
        # Room for a line, so that images do not move when it comes and goes.
        self._said = ipywidgets.HTML(layout={"min_height": "24px"})
        wrapped = {"flex_flow": "row wrap"}
        # Show as many side by side as fit, so that an answer is beside its question. Captions have
        # one to three lines; the images below them are aligned.
        columns = f"repeat(auto-fit, minmax({_LEAST}px, 1fr))"
        self._row = ipywidgets.GridBox(
            layout={
                "grid_template_columns": columns,
                "grid_gap": "0 12px",
                "align_items": "flex-end",
            }
        )
        self._row.add_class("ep-row")
        self._file = ipywidgets.Text(
            f"{type(self).__name__.lower()}.svg",
            description="figure",
            layout={"width": "250px"},
            tooltip="HTML, SVG, PNG or PDF by the ending",
        )
        save = ipywidgets.Button(description="save", layout={"width": "80px"})
        save.on_click(lambda _: self._save())
        shown = ipywidgets.ToggleButton(description="code", layout={"width": "80px"})
        shown.observe(lambda change: self._show_code(change["new"]), "value")
        self._code = ipywidgets.HTML()
        self.files = ipywidgets.HBox([self._file, save, shown], layout=wrapped)
        self._written = ipywidgets.HTML()
        super().__init__(
            [
                ipywidgets.HBox(list(controls), layout=wrapped),
                self._said,
                self._row,
                self.files,
                self._written,
                self._code,
            ]
        )
        self.show_pictures(pictures)

    def show_pictures(self, pictures: Sequence[Picture]) -> None:
        """Replace the images by others, side by side."""
        self.pictures = tuple(pictures)
        if self._row.children != self.pictures:
            self._row.children = self.pictures

    def begin(self, **state: Any) -> None:
        """Set the initial values of traits.

        Raises:
            InputError: There is no such trait.
        """
        for name in state:
            if name not in self.usual:
                raise InputError(f"no trait {name!r}; {closest(name, list(self.usual))}")
        # In this order, because the possible values of later traits depend on earlier ones.
        for name in self.usual:
            if name in state:
                setattr(self, name, state[name])

    @contextmanager
    def working(self, what: str, *, files: bool = False) -> Iterator[None]:
        """Show what is being computed within the block, and afterwards what went wrong.

        Args:
            what: A description of the computation.
            files: Whether the row for files requested it; messages appear there.
        """
        line = self._written if files else self._said
        self._said.value = self._written.value = ""
        self.set_trait("busy", what)
        self.set_trait("error", "")
        line.value = f"<em>{html.escape(what)} ...</em>"
        try:
            yield
        except ProbeError as error:
            self.set_trait("error", str(error))
        except Exception as error:  # A click in a browser has no caller who could see it.
            self.set_trait("error", f"{type(error).__name__}: {error}")
        finally:
            self.set_trait("busy", "")
            said = html.escape(self.error)
            line.value = f'<span class="ep-error" role="alert">{said}</span>' if said else ""
        if self._code.value:
            self._show_code(True)

    def say(self, what: str, *, files: bool = False) -> None:
        """Write a line below the controls, or below the row for files."""
        (self._written if files else self._said).value = html.escape(what)

    def code(self, *names: str) -> str:
        """Return the code of a cell that makes the current view again.

        Args:
            names: The names of what is explored, in that cell.
        """
        return written(type(self).__name__, names or self._names, self.state())

    def state(self) -> dict[str, Any]:
        """Return the traits whose values are not the usual ones."""
        return {
            name: value
            for name, usual in self.usual.items()
            if (value := getattr(self, name)) != usual
        }

    def _show_code(self, shown: bool) -> None:
        self._code.value = f"<pre>{html.escape(self.code())}</pre>" if shown else ""

    def figure(self) -> go.Figure:
        """Return the current view as a plotly figure."""
        shown = [each for each in self.pictures if each.image and each.layout.display != "none"]
        tall, wide = shown[0].extent
        figure = panels(
            (tall, wide),
            (1, len(shown)),
            side=340,
            heading="",
            titles=[each.caption for each in shown],
        )
        for column, each in enumerate(shown, start=1):
            height, width = each.extent
            figure.add_trace(picture(each.pixels(), (height, width)), 1, column)
            down, across = height / each.grid[0], width / each.grid[1]
            for row, place in each.cells:
                figure.add_shape(
                    type="rect",
                    **{"y0": row * down, "y1": (row + 1) * down},
                    **{"x0": place * across, "x1": (place + 1) * across},
                    line={"color": "white", "width": 2},
                    row=1,
                    col=column,
                )
            for y, x in each.marks:
                figure.add_trace(marker(y, x), 1, column)
        return figure

    def save(self, path: str | Path) -> Path:
        """Write `figure` to a file, in the format of its suffix: offline HTML, SVG, PNG or PDF.

        Raises:
            InputError: The path has another suffix.
        """
        path = local(path)
        if path.suffix not in _FORMATS:
            raise InputError(f"'{path}' has an unknown suffix; choose {', '.join(_FORMATS)}")
        with made_at_once(path, replace=True) as new:
            if path.suffix == ".html":
                self.figure().write_html(new, include_plotlyjs=True)
            else:
                self.figure().write_image(new, scale=2)
        return path

    def _save(self) -> None:
        path = None
        with self.working(f"writing {self._file.value}", files=True):
            path = self.save(self._file.value)
        if path:
            self.say(f"written: {path.absolute()}", files=True)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Return the widget, and its images for readers without a kernel."""
        return with_static(super()._repr_mimebundle_(**kwargs), self.snapshot())

    def snapshot(self) -> NDArray[np.uint8]:
        """Return all images side by side, (y, x, rgb)."""
        shown = [each for each in self.pictures if each.image and each.layout.display != "none"]
        tiles = [_tile(each) for each in shown]
        height = max((tile.shape[0] for tile in tiles), default=1)
        gap = np.full((height, 8, 3), 255, np.uint8)
        row = [gap]
        for tile in tiles:
            below = ((0, height - tile.shape[0]), (0, 0), (0, 0))
            row += [np.pad(tile, below, constant_values=255), gap]
        return np.concatenate(row, 1)


def written(widget: str, arguments: Sequence[str], state: Mapping[str, Any]) -> str:
    """Return a call as a cell shows it, in one line if there is room.

    >>> written("Compare", ["a", "b"], {"site": "mid_block:out"})
    "ep.widgets.Compare(a, b, site='mid_block:out')"
    """
    every = [*arguments, *(f"{name}={value!r}" for name, value in state.items())]
    call = f"ep.widgets.{widget}"
    if len(line := f"{call}({', '.join(every)})") <= _LINE:
        return line
    return "\n".join([f"{call}(", *(f"    {each}," for each in every), ")"])


def with_static(bundle: Any, pixels: NDArray[np.uint8]) -> Any:
    """Return what a notebook stores of a widget, with an image for use without a kernel."""
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    if data is not None:
        data["image/png"] = base64.b64encode(png(pixels)).decode()
    return bundle


def _tile(shown: Picture) -> NDArray[np.uint8]:
    """Return an image with its cells and crosses, below its caption."""
    pixels = _enlarged(shown.pixels(), shown.extent, _SIDE)
    height, width = pixels.shape[:2]
    tile = Image.new("RGB", (width, _CAPTION + height), "white")
    tile.paste(Image.fromarray(pixels), (0, _CAPTION))
    draw, font = ImageDraw.Draw(tile), ImageFont.load_default(12)
    caption = shown.caption
    while draw.textlength(caption, font) > width:
        caption = f"{caption.removesuffix('…')[:-1]}…"
    draw.text((0, 2), caption, "black", font)
    down, across = height / shown.grid[0], width / shown.grid[1]
    for row, column in shown.cells:
        top, left = _CAPTION + row * down, column * across
        draw.rectangle((left, top, left + across, top + down), outline="black", width=3)
        draw.rectangle((left + 1, top + 1, left + across - 1, top + down - 1), outline="white")
    for y, x in shown.marks:
        y = _CAPTION + y * height / shown.extent[0]
        x = x * width / shown.extent[1]
        for colour, wide in (("black", 3), ("white", 1)):
            draw.line((x - _ARM, y, x + _ARM, y), colour, wide)
            draw.line((x, y - _ARM, x, y + _ARM), colour, wide)
    return np.asarray(tile)


def _enlarged(pixels: NDArray[np.uint8], extent: Sequence[int], side: int) -> NDArray[np.uint8]:
    """Return pixels enlarged to a width of ``side``, without blurring."""
    size = side, max(1, round(side * extent[0] / extent[1]))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.NEAREST))
