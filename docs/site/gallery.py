"""Give the directive `gallery`: every figure of the notebooks, small, with the line that drew it.

The pictures are those stored in the notebooks, so that the gallery is as new as they are. Each
leads to the live figure; the headings lead to the notebooks.
"""

from __future__ import annotations

import ast
import base64
import hashlib
import html
import json
import textwrap
from pathlib import Path
from typing import Any, Final, NamedTuple

from docutils import nodes
from docutils.parsers.rst import Directive
from figures import FOLDER, PLOTLY
from sphinx.application import Sphinx

_LEFT_OUT: Final = ("ep.views.table(",)
"""Tables of numbers are figures, too, but nothing to look at when they are small."""

_LONGEST: Final = 90


class Shown(NamedTuple):
    """Hold a figure of a notebook: its picture, and the line of code that drew it."""

    picture: bytes
    code: str

    @property
    def name(self) -> str:
        """Return the name of its files, which `figures` gives its page."""
        return hashlib.sha256(self.picture).hexdigest()[:16]


def shown(notebook: Path) -> tuple[str, list[Shown]]:
    """Return the title of a notebook, and its figures."""
    title, found = notebook.stem, []
    for cell in json.loads(notebook.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and source.startswith("# ") and title == notebook.stem:
            title = source.partition("\n")[0].removeprefix("# ")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if not {PLOTLY, "image/png"} <= set(data):
                continue
            code = _last_call(source)
            if not code.startswith(_LEFT_OUT):
                found.append(Shown(base64.b64decode("".join(data["image/png"])), code))
    return title, found


def _last_call(source: str) -> str:
    """Return the last statement of a cell, in one line."""
    *_, last = ast.parse(source).body
    code = ast.get_source_segment(source, last) or ""
    return textwrap.shorten(code, _LONGEST, placeholder=" ...")


class Gallery(Directive):
    """Show all figures of all notebooks."""

    def run(self) -> list[nodes.Node]:
        """Write the pictures, and return the page's HTML."""
        env = self.state.document.settings.env
        folder = Path(env.app.outdir) / FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        up = "../" * env.docname.count("/")
        parts = []
        for notebook in sorted((Path(env.srcdir) / "notebooks").glob("*.ipynb")):
            env.note_dependency(str(notebook))
            title, figures = shown(notebook)
            page = f"{up}notebooks/{notebook.stem}.html"
            parts.append(f'<h2><a href="{page}">{html.escape(title)}</a></h2><div class="gallery">')
            for each in figures:
                (folder / f"{each.name}.png").write_bytes(each.picture)
                parts.append(_figure(f"{up}{FOLDER}/{each.name}", each.code))
            parts.append("</div>")
        return [nodes.raw("", "\n".join(parts), format="html")]


def _figure(path: str, code: str) -> str:
    said = html.escape(code)
    return (
        f'<figure><a href="{path}.html"><img src="{path}.png" alt="{said}" loading="lazy"></a>'
        f"<figcaption><code>{said}</code></figcaption></figure>"
    )


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the extension; Sphinx calls this."""
    app.add_directive("gallery", Gallery)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
