"""Which pixels a latent location moves, and which locations move a pixel: figure and page.

Both show norms over RGB of signed responses. The page adds signed responses before it takes the
norm, so that several locations can be chosen.
"""

from __future__ import annotations

import base64
import html
import json
import os
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import RGB, SOURCE_X, SOURCE_Y, X, Y
from emerdiff_probe.views.colours import SEQUENTIAL, ramp
from emerdiff_probe.views.layers import marker
from emerdiff_probe.views.panels import panels, picture, pixel_map, png, title
from emerdiff_probe.views.segments import thinned

__all__ = ["Place", "correspondence", "correspondence_page"]

Place = tuple[float, float]
"""y and x in pixels."""

_SOURCE: Final = (SOURCE_Y, SOURCE_X)
_LARGEST: Final = 9_000_000
"""Bytes of a page."""

_HERE: Final = Path(__file__).parent

# The policy lets the page load nothing: a reader without a network sees all that there is.
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<h1>{title}</h1>
<p>{facts}</p>
<main>
<figure><figcaption id="picture-name">picture</figcaption>
<canvas id="picture" tabindex="0" role="application" aria-labelledby="picture-name" \
aria-describedby="said"></canvas></figure>
<figure><figcaption id="grid-name">latent locations</figcaption>
<canvas id="grid" tabindex="0" role="application" aria-labelledby="grid-name" \
aria-describedby="said"></canvas></figure>
</main>
<p id="said" aria-live="polite"></p>
<p><label>strength of colours <input id="opacity" type="range" min="0" max="1" step="0.05" \
value="0.75"></label> <canvas id="bar" width="128" height="1"></canvas> <span>from nothing to the \
most, which is shown here: <b id="most"></b></span></p>
<script type="application/json" id="data">{data}</script>
<script>
{script}</script>
</body>
</html>
"""


def correspondence(
    responses: xr.Dataset, *, location: Place | None = None, pixel: Place | None = None
) -> go.Figure:
    """Both directions of the correspondence at one location and one pixel.

    Args:
        responses: Of single locations, as `emerdiff_probe.respond` gives them.
        location: source_y and source_x of a latent location, by default the one that moves the
            picture most; the nearest is taken.
        pixel: y and x, by default the one that this location moves most; the nearest is taken.

    Raises:
        InputError: These are not responses of locations.
    """
    response = _located(responses)
    at = _nearest(response, _SOURCE, location) if location else _strongest(response)
    moved = _norm(response.isel(at)).transpose(Y, X).values
    rows, columns = moved.shape
    place = (
        _nearest(response, (Y, X), pixel)
        if pixel
        else dict(zip((Y, X), np.unravel_index(int(moved.argmax()), moved.shape), strict=True))
    )
    movers = _norm(response.isel(place)).transpose(*_SOURCE).values
    size = rows, columns
    source = tuple(float(response[dim][at[dim]]) for dim in _SOURCE)
    target = tuple(float(response[dim][place[dim]]) for dim in (Y, X))
    across, down = response.sizes[SOURCE_X], response.sizes[SOURCE_Y]
    figure = panels(
        size,
        (1, 3),
        side=340,
        heading=title(
            f"{responses.attrs.get('model', 'model')}: correspondence of {down} x {across} latent "
            "locations and pixels",
            str(responses.attrs.get("source", "")),
        ),
        titles=[
            "picture, with both places",
            f"pixels moved by the location at y {source[0]:g}, x {source[1]:g}",
            f"locations that move the pixel at y {target[0]:g}, x {target[1]:g}",
        ],
        scales=[
            {
                "colorscale": SEQUENTIAL,
                "cmin": 0,
                "cmax": float(max(moved.max(), movers.max())),
                "colorbar": {"title": {"text": "response (RGB norm)", "side": "right"}},
            }
        ],
    )
    kept = thinned(size)
    figure.add_trace(picture(_picture(responses)[kept[0]][:, kept[1]], size), 1, 1)
    place_text = "x %{x:.1f}, y %{y:.1f}"
    thin = moved[kept[0]][:, kept[1]].astype(np.float32)
    figure.add_trace(pixel_map(thin, size, f"moved by %{{z:.3~g}}<br>{place_text}", scale=1), 1, 2)
    figure.add_trace(
        pixel_map(movers, size, f"moves the pixel by %{{z:.3~g}}<br>{place_text}", scale=1), 1, 3
    )
    cell = (size[0] / down / 2, size[1] / across / 2)
    for column in (1, 2, 3):
        figure.add_shape(
            type="rect",
            **{"y0": source[0] - cell[0], "y1": source[0] + cell[0]},
            **{"x0": source[1] - cell[1], "x1": source[1] + cell[1]},
            line={"color": "white", "width": 2},
            row=1,
            col=column,
        )
        figure.add_trace(marker(*target), 1, column)
    return figure


def correspondence_page(responses: xr.Dataset, path: str | os.PathLike[str]) -> Path:
    """A web page, whole in itself, on which clicking works in both directions without a kernel.

    Click a latent location to see the pixels that it moves, a pixel to see the locations that move
    it; with the shift key, more than one location. Arrow keys do the same.

    Args:
        responses: Of single locations, as `emerdiff_probe.respond` gives them.
        path: Of the file to write.

    Returns:
        The path. The page is below 10 MB: responses are integers of 8 bits with a scale for each
        location, and of as many pixels as fit, averaged over squares. The page says how many.

    Raises:
        InputError: These are not responses of locations.
    """
    response = _located(responses).transpose(*_SOURCE, RGB, Y, X)
    rows, columns = response.sizes[SOURCE_Y], response.sizes[SOURCE_X]
    size = response.sizes[Y], response.sizes[X]
    pixels = _picture(responses)
    shown = base64.b64encode(png(pixels)).decode()
    reduce, tiles, scale = _fitting(response, _LARGEST - len(shown))
    data = {
        "height": size[0],
        "width": size[1],
        "rows": rows,
        "columns": columns,
        "tile": list(tiles.shape[-2:]),
        "scale": [float(f"{each:.5g}") for each in scale],
        "picture": f"data:image/png;base64,{shown}",
        "tiles": base64.b64encode(zlib.compress(tiles.tobytes(), 9)).decode(),
        "colours": ramp(SEQUENTIAL).tolist(),
    }
    source = str(responses.attrs.get("source", "a picture"))
    model = str(responses.attrs.get("model", "a model"))
    averaged = f", each the mean of {reduce} x {reduce} pixels" if reduce > 1 else ""
    facts = (
        f"{model}. Click a location to see the pixels that it moves; click a pixel to see the "
        "locations that move it. Hold shift to add locations, whose signed responses are added; "
        f"arrow keys move the choice. {rows} x {columns} locations; responses of "
        f"{tiles.shape[-2]} x {tiles.shape[-1]} points{averaged}, rounded to 8 bits."
    )
    path = Path(path)
    path.write_text(
        _PAGE.format(
            title=html.escape(f"Correspondence in {source}"),
            facts=html.escape(facts),
            style=(_HERE / "correspondence.css").read_text("utf-8"),
            script=(_HERE / "correspondence.js").read_text("utf-8"),
            # Nothing in it can end the script: it has numbers and base64 alone.
            data=json.dumps(data),
        ),
        "utf-8",
        errors="replace",
    )
    return path


def _located(responses: xr.Dataset) -> xr.DataArray:
    if "response" not in responses or set(responses["response"].dims) != {*_SOURCE, RGB, Y, X}:
        raise InputError(
            "no responses of single locations, whole, among "
            f"{sorted(map(str, responses.data_vars))}; make them by "
            "ep.respond(model, source, to='locations')"
        )
    return responses["response"]


def _picture(responses: xr.Dataset) -> NDArray[np.uint8]:
    return np.ascontiguousarray(responses["picture"].transpose(Y, X, RGB).values)


def _norm(response: xr.DataArray) -> xr.DataArray:
    return (response.astype(np.float32) ** 2).sum(RGB) ** 0.5


def _nearest(values: xr.DataArray, dims: tuple[str, str], place: Place) -> dict[str, int]:
    return {
        dim: int(np.abs(values[dim].values - each).argmin())
        for dim, each in zip(dims, place, strict=True)
    }


def _strongest(response: xr.DataArray) -> dict[str, int]:
    # Row by row: responses of a large picture do not fit in memory as single precision.
    sizes = [
        (response.isel({SOURCE_Y: row}).astype(np.float32) ** 2).sum((RGB, Y, X)).values
        for row in range(response.sizes[SOURCE_Y])
    ]
    row, column = np.unravel_index(int(np.argmax(sizes)), np.shape(sizes))
    return {SOURCE_Y: int(row), SOURCE_X: int(column)}


def _fitting(response: xr.DataArray, room: int) -> tuple[int, NDArray[np.int8], NDArray[Any]]:
    """Responses (location, rgb, y, x) in 8 bits, of as many pixels as there is room for."""
    for reduce in range(1, min(response.sizes[Y], response.sizes[X]) + 1):
        if response.sizes[Y] % reduce or response.sizes[X] % reduce:
            continue
        points = response.size // reduce**2
        # Deflate seldom halves what is not flat, and base64 adds a third: more is not tried.
        if points * 4 / 3 > 4 * room:
            continue
        tiles, scale = _quantised(response, reduce)
        if len(zlib.compress(tiles.tobytes(), 1)) * 4 / 3 < room:
            return reduce, tiles, scale
    raise InputError(
        f"{response.sizes[SOURCE_Y]} x {response.sizes[SOURCE_X]} locations are too many for a "
        "page; choose every other one, as in responses.isel(source_y=slice(None, None, 2))"
    )


def _quantised(response: xr.DataArray, reduce: int) -> tuple[NDArray[np.int8], NDArray[Any]]:
    tiles, scales = [], []
    for row in range(response.sizes[SOURCE_Y]):
        block = response.isel({SOURCE_Y: row}).values.astype(np.float32)
        count, colours, height, width = block.shape
        areas = block.reshape(count, colours, height // reduce, reduce, width // reduce, reduce)
        means = areas.mean((3, 5))
        largest = np.abs(means).max((1, 2, 3))
        scale = np.where(largest > 0, largest / 127, 1)
        tiles.append(np.rint(means / scale[:, None, None, None]).astype(np.int8))
        scales.append(scale)
    return np.concatenate(tiles), np.concatenate(scales)
