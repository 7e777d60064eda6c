"""Show many results at a glance: small images with their names, as one image or web page."""

from __future__ import annotations

import base64
import html
import io
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import numpy as np
import xarray as xr
from PIL import Image, ImageDraw, ImageFont

from emerdiff_probe.errors import InputError
from emerdiff_probe.views.colours import overlay_image
from emerdiff_probe.views.panels import as_bytes

__all__ = ["contact_page", "contact_sheet"]

_GAP: Final = 12
_FONT: Final = 13
_NAME: Final = 20
"""The height in pixels below an image, for its name."""

# The policy forbids the page to load anything: a reader without a network sees everything.
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'">
<title>{heading}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem auto; max-width: 1500px; \
padding: 0 1rem; }}
h1 {{ font-size: 1.3rem; overflow-wrap: anywhere; }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax({side}px, 1fr)); \
gap: 1.2rem 1rem; }}
figure {{ margin: 0; content-visibility: auto; contain-intrinsic-size: auto {side}px; }}
img {{ display: block; max-width: 100%; }}
figcaption {{ overflow-wrap: anywhere; }}
</style>
</head>
<body>
<h1>{heading}</h1>
<main>
{figures}
</main>
</body>
</html>
"""


def contact_sheet(
    shown: Mapping[str, Any] | Iterable[tuple[str, Any]], *, columns: int = 5, side: int = 200
) -> Image.Image:
    """Return one image of many, each with its name below.

    The images may have any sizes. For example::

        ep.views.contact_sheet({"cat": segments, "dog": ep.segment(model, "dog.jpg")})

    Args:
        shown: Segmentations, whose segments are drawn over their images, or images (y, x, rgb),
            uint8 or floats in [0, 1], or Pillow images, by name. Pairs may repeat a name.
        columns: The number of images in a row.
        side: The length of each image's longer side in pixels; smaller images are not enlarged.

    Returns:
        A Pillow image, RGB on white, to be saved with ``.save("sheet.png")``.

    Raises:
        InputError: Nothing is given, or something is not an image.
    """
    if columns < 1 or side < 1:
        raise InputError(f"columns is {columns} and side is {side}; give at least 1 for each")
    images = [(name, _small(name, each, side)) for name, each in _pairs(shown)]
    if not images:
        raise InputError("nothing to show; give images or segmentations by name")
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    heights = [max(image.height for _, image in row) + _NAME + _GAP for row in rows]
    across = min(columns, len(images))
    sheet = Image.new("RGB", (_GAP + across * (side + _GAP), _GAP + sum(heights)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_FONT)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for number, (name, image) in enumerate(row):
            at = _GAP + number * (side + _GAP), top
            sheet.paste(image, at)
            draw.text((at[0], top + image.height + 2), _shortened(name, font, side), "black", font)
        top += height
    return sheet


def contact_page(
    shown: Mapping[str, Any] | Iterable[tuple[str, Any]],
    *,
    heading: str,
    links: Mapping[str, str] | None = None,
    side: int = 220,
) -> str:
    """Return a web page of many images with their names, which needs no network.

    Args:
        shown: Images or segmentations, as for `contact_sheet`. Pairs are read one at a time, so
            that they may be loaded lazily.
        heading: The heading and title of the page.
        links: The relative paths that images link to, by name.
        side: The length of each image's longer side in pixels.

    Returns:
        HTML with every image in it as a JPEG, some 15 KB each. Names are escaped.

    Raises:
        InputError: Something is not an image.
    """
    links = links or {}
    figures = [_figure(name, _small(name, each, side), links) for name, each in _pairs(shown)]
    return _PAGE.format(heading=html.escape(heading), side=side, figures="\n".join(figures))


def _figure(name: str, image: Image.Image, links: Mapping[str, str]) -> str:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    source = base64.b64encode(file.getvalue()).decode()
    body = (
        f'<img src="data:image/jpeg;base64,{source}" width="{image.width}" '
        f'height="{image.height}" alt=""><figcaption>{html.escape(name)}</figcaption>'
    )
    if name in links:
        # A quoted path cannot name a scheme, such as javascript.
        body = f'<a href="{html.escape(quote(links[name]))}">{body}</a>'
    return f"<figure>{body}</figure>"


def _pairs(shown: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    yield from shown.items() if isinstance(shown, Mapping) else shown


def _small(name: str, shown: Any, side: int) -> Image.Image:
    if isinstance(shown, Image.Image):
        image = shown.convert("RGB")
    else:
        pixels = np.asarray(overlay_image(shown) if isinstance(shown, xr.Dataset) else shown)
        if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise InputError(f"{name!r} has shape {pixels.shape}; an image is (y, x, 3)")
        image = Image.fromarray(as_bytes(pixels))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def _shortened(name: str, font: Any, width: int) -> str:
    """Shorten a name in its middle, because file names differ at their beginnings and ends."""
    # Pillow's own font has no other letters than these.
    letters = (
        each for each in unicodedata.normalize("NFKD", name) if not unicodedata.combining(each)
    )
    plain = "".join(letters).encode("ascii", "replace").decode()
    shown, kept = plain, len(plain)
    while font.getlength(shown) > width and kept > 2:
        kept -= 1
        shown = f"{plain[: (kept + 1) // 2]}...{plain[len(plain) - kept // 2 :]}"
    return shown
