"""What explorers share: saying what goes on and what went wrong, and a view without a kernel."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ipywidgets
import numpy as np
import traitlets
from numpy.typing import NDArray
from PIL import Image

from emerdiff_probe.errors import ProbeError
from emerdiff_probe.views.panels import png
from emerdiff_probe.widgets.picture import Picture

__all__ = ["Explorer", "enlarged", "styles"]

_SIDE = 256  # pixels on the screen of a picture


def styles() -> ipywidgets.HTML:
    """The style sheet, for explorers without a picture that brings it."""
    css = Path(__file__).with_name("picture.css").read_text("utf-8")
    return ipywidgets.HTML(f"<style>{css}</style>", layout={"display": "none"})


class Explorer(ipywidgets.VBox):
    """Controls, pictures and a line of status.

    Attributes:
        error: What went wrong last, which stands in red below the controls; empty when all is well.
        busy: What is being computed; empty when nothing is.
    """

    error = traitlets.Unicode(read_only=True)
    busy = traitlets.Unicode(read_only=True)

    def __init__(self, controls: Sequence[ipywidgets.Widget], pictures: Sequence[Picture]) -> None:
        self._said = ipywidgets.HTML()
        self.pictures = tuple(pictures)
        wrapped = {"flex_flow": "row wrap"}
        super().__init__(
            [
                ipywidgets.HBox(list(controls), layout=wrapped),
                self._said,
                ipywidgets.HBox(list(pictures), layout=wrapped),
            ]
        )

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Says what is computed while it is, and afterwards what went wrong with it."""
        self.set_trait("busy", what)
        self.set_trait("error", "")
        self._said.value = f"<em>{html.escape(what)} ...</em>"
        try:
            yield
        except ProbeError as error:
            self.set_trait("error", str(error))
        except Exception as error:  # a browser's click has no caller who could see it
            self.set_trait("error", f"{type(error).__name__}: {error}")
        finally:
            self.set_trait("busy", "")
            said = html.escape(self.error)
            self._said.value = f'<span class="ep-error" role="alert">{said}</span>' if said else ""

    def say(self, what: str) -> None:
        """A line below the controls."""
        self._said.value = html.escape(what)

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and its pictures for readers without a kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["image/png"] = base64.b64encode(self.snapshot()).decode()
        return bundle

    def snapshot(self) -> bytes:
        """All pictures side by side, a PNG file."""
        shown = [each for each in self.pictures if each.png]
        tiles = [enlarged(each.png, each.extent, _SIDE) for each in shown]
        height = max((tile.shape[0] for tile in tiles), default=1)
        gap = np.full((height, 8, 3), 255, np.uint8)
        row = [gap]
        for tile in tiles:
            below = ((0, height - tile.shape[0]), (0, 0), (0, 0))
            row += [np.pad(tile, below, constant_values=255), gap]
        return png(np.concatenate(row, 1))


def enlarged(file: bytes, extent: Sequence[int], side: int) -> NDArray[np.uint8]:
    """A PNG file's pixels at a width of ``side``, none of them blurred."""
    image = Image.open(io.BytesIO(file)).convert("RGB")
    size = side, max(1, round(side * extent[0] / extent[1]))
    return np.asarray(image.resize(size, Image.Resampling.NEAREST))
