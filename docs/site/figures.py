"""Give each plotly figure of a notebook a page of its own, where it can be turned and zoomed.

A notebook stores a figure twice: as plotly's JSON and as an image. The site shows the image, which
needs no JavaScript, and below it a link to the figure. plotly.js is written once, from the
installed package, so that the site works without a network.
"""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any, Final

import plotly.io
from docutils import nodes
from plotly.offline import get_plotlyjs
from sphinx.application import Sphinx

PLOTLY: Final = "application/vnd.plotly.v1+json"
FOLDER: Final = "figures"


def figures(notebook: Path) -> dict[str, Any]:
    """Return the figures of a notebook by the name that MyST-NB gives the file of their image."""
    found = {}
    for cell in json.loads(notebook.read_text())["cells"]:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if PLOTLY in data and "image/png" in data:
                picture = base64.b64decode("".join(data["image/png"]))
                found[hashlib.sha256(picture).hexdigest()] = data[PLOTLY]
    return found


def link_figures(app: Sphinx, doctree: nodes.document) -> None:
    """Write the figures' pages and put a link below each image."""
    notebook = Path(app.env.doc2path(app.env.docname))
    if notebook.suffix != ".ipynb" or app.builder.format != "html":
        return
    pages = figures(notebook)
    folder = Path(app.outdir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    up = "../" * app.env.docname.count("/")
    for picture in list(doctree.findall(nodes.image)):
        name = Path(picture["uri"]).stem
        if name not in pages:
            continue
        _write(pages[name], folder / f"{name[:16]}.html")
        link = f'<a href="{up}{FOLDER}/{name[:16]}.html">Open this figure: zoom, hover, pick</a>'
        note = nodes.raw("", f'<p class="figure-link">{link}</p>', format="html")
        picture.parent.insert(picture.parent.index(picture) + 1, note)


def _write(figure: Any, path: Path) -> None:
    figure = {"data": figure["data"], "layout": figure["layout"]}
    plotly.io.write_html(figure, path, include_plotlyjs="plotly.min.js", validate=False)


def write_plotly(app: Sphinx, error: Exception | None) -> None:
    """Write plotly.js, once for all figures."""
    folder = Path(app.outdir) / FOLDER
    if error is None and folder.exists():
        (folder / "plotly.min.js").write_text(get_plotlyjs())


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension; Sphinx calls this."""
    app.connect("doctree-read", link_figures)
    app.connect("build-finished", write_plotly)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
