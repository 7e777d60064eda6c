"""Show which pixels a latent location moves, and which locations move a pixel.

The figure and the page show norms over RGB of signed responses. The page adds signed responses
before it takes the norm, so that several locations can be chosen.
"""

from __future__ import annotations

import base64
import html
import json
import os
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.paths import local, made_at_once
from emerdiff_probe.responses import compress, latent_grid, pixels_moved, reading, response_of
from emerdiff_probe.schema import RGB, SOURCE_X, SOURCE_Y, X, Y
from emerdiff_probe.views.colours import SEQUENTIAL, ramp
from emerdiff_probe.views.layers import marker
from emerdiff_probe.views.maps import extent
from emerdiff_probe.views.panels import panels, picture, pixel_map, png, title
from emerdiff_probe.views.segments import thinned

__all__ = ["Place", "correspondence", "correspondence_page"]

Place = tuple[float, float]
"""A position (y, x) in pixels."""

_SOURCE: Final = (SOURCE_Y, SOURCE_X)
_LARGEST: Final = 9_000_000
"""The largest size of a page, in bytes."""

_MOST_POINTS: Final = 64_000_000
"""The largest amount of browser memory that a page unpacks, in bytes."""

_HERE: Final = Path(__file__).parent

# The policy forbids the page to load anything: a reader without a network sees everything.
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
    """Draw both directions of the correspondence, at one location and one pixel.

    Args:
        responses: Responses of single locations from `emerdiff_probe.respond`, full or compressed.
        location: The position (source_y, source_x) of a latent location, of which the nearest is
            taken; by default the location that changes the image most.
        pixel: The position (y, x) of a pixel, of which the nearest is taken; by default the one
            that this location changes most.

    Raises:
        InputError: These are not responses of single locations.
    """
    down, across = latent_grid(responses)
    source = location or _strongest(responses)
    moved = pixels_moved(responses, *source)
    if pixel is None:
        most = moved.isel(moved.argmax((Y, X)))
        pixel = float(most[Y]), float(most[X])
    movers = reading.movers(responses, *pixel)
    source, target = _centre(responses, _SOURCE, source), _centre(responses, (Y, X), pixel)
    size = extent(moved)
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
    kept = np.ix_(*thinned((moved.sizes[Y], moved.sizes[X])))
    pixels = responses["picture"].transpose(Y, X, RGB).values[kept]
    figure.add_trace(picture(pixels, size), 1, 1)
    place_text = "x %{x:.1f}, y %{y:.1f}"
    thin = moved.values[kept]
    figure.add_trace(pixel_map(thin, size, f"moved by %{{z:.3~g}}<br>{place_text}", scale=1), 1, 2)
    figure.add_trace(
        pixel_map(movers.values, size, f"moves the pixel by %{{z:.3~g}}<br>{place_text}", scale=1),
        1,
        3,
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
    """Write a self-contained web page on which clicking works in both directions without a kernel.

    Click a latent location to see the pixels that it moves, or a pixel to see the locations that
    move it; hold shift to choose several locations. Arrow keys move the choice.

    Args:
        responses: Responses of single locations from `emerdiff_probe.respond`, full or compressed.
        path: The file to write.

    Returns:
        The path. The page is smaller than 10 MB: responses are stored as 8-bit integers with a
        scale for each location, and for as many pixels as fit, averaged over squares. The page
        states their number and the error.

    Raises:
        InputError: These are not responses of single locations, or there are too many of them.
    """
    rows, columns = latent_grid(responses)
    size = extent(responses)
    pixels = np.ascontiguousarray(responses["picture"].transpose(Y, X, RGB).values)
    shown = base64.b64encode(png(pixels)).decode()
    small, packed = _fitting(_whole(responses), _LARGEST - len(shown))
    tile = small.sizes[Y], small.sizes[X]
    data = {
        "height": size[0],
        "width": size[1],
        "rows": rows,
        "columns": columns,
        "tile": list(tile),
        "scale": [float(f"{each:.5g}") for each in small["scale"].values.ravel()],
        "picture": f"data:image/png;base64,{shown}",
        "tiles": base64.b64encode(packed).decode(),
        "colours": ramp(SEQUENTIAL).tolist(),
    }
    source = str(responses.attrs.get("source", "a picture"))
    model = str(responses.attrs.get("model", "a model"))
    square = size[0] // tile[0]
    averaged = f", each the mean of {square} x {square} pixels" if square > 1 else ""
    facts = (
        f"{model}. Click a location to see the pixels that it moves; click a pixel to see the "
        "locations that move it. Hold shift to add locations, whose signed responses are added; "
        f"arrow keys move the choice. {rows} x {columns} locations; responses of "
        f"{tile[0]} x {tile[1]} points{averaged}, rounded to 8 bits, which leaves them "
        f"{float(small['error'].median()):.1%} off (median over locations of the error's norm)."
    )
    path = local(path)
    page = _PAGE.format(
        title=html.escape(f"Correspondence in {source}"),
        facts=html.escape(facts),
        style=(_HERE / "correspondence.css").read_text("utf-8"),
        script=(_HERE / "correspondence.js").read_text("utf-8"),
        # It holds only numbers and base64, so nothing in it can end the script.
        data=json.dumps(data),
    )
    with made_at_once(path, replace=True) as new:
        new.write_text(page, "utf-8", errors="replace")
    return path


def _centre(responses: xr.Dataset, dims: tuple[str, str], place: Place) -> Place:
    y, x = (
        float(responses[dim].sel({dim: each}, method="nearest"))
        for dim, each in zip(dims, place, strict=True)
    )
    return y, x


def _strongest(responses: xr.Dataset) -> Place:
    """Return the location with the largest response."""
    response = _whole(responses)["response"]
    # Go row by row: the responses of a large image do not fit into memory in single precision.
    sizes = [
        (response.isel({SOURCE_Y: row}) ** 2).sum((RGB, Y, X)).values
        for row in range(response.sizes[SOURCE_Y])
    ]
    row, column = np.unravel_index(int(np.argmax(sizes)), np.shape(sizes))
    return float(response[SOURCE_Y][row]), float(response[SOURCE_X][column])


def _whole(responses: xr.Dataset) -> xr.Dataset:
    """Return responses decompressed."""
    if "response" in responses:
        return responses
    rows, columns = latent_grid(responses)
    shape = rows, columns, 3, responses.sizes[Y], responses.sizes[X]
    values = np.empty(shape, np.float16)
    units = np.eye(rows * columns, dtype=np.float32).reshape(rows, columns, rows, columns)
    for row in range(rows):
        values[row] = response_of(responses, units[row]).transpose(..., RGB, Y, X).values
    found = responses[["picture"]].assign(response=((*_SOURCE, RGB, Y, X), values))
    return found.assign_coords({dim: responses[dim] for dim in _SOURCE})


def _fitting(responses: xr.Dataset, room: int) -> tuple[xr.Dataset, bytes]:
    """Return responses in 8 bits, for as many pixels as there is room for; and the same, packed."""
    response = responses["response"]
    for reduce in range(1, min(response.sizes[Y], response.sizes[X]) + 1):
        if response.sizes[Y] % reduce or response.sizes[X] % reduce:
            continue
        # Local responses shrink to a tenth or less; others need several attempts, some seconds
        # each.
        if response.size // reduce**2 > _MOST_POINTS:
            continue
        small = compress(responses, bits=8, reduce=reduce)
        packed = zlib.compress(small["tiles"].values.tobytes(), 9)
        if len(packed) * 4 / 3 < room:
            return small, packed
    rows, columns = response.sizes[SOURCE_Y], response.sizes[SOURCE_X]
    raise InputError(
        f"{rows} x {columns} locations are too many for a page; select every other one, as in "
        "responses.isel(source_y=slice(None, None, 2))"
    )
