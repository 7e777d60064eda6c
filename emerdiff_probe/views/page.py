"""Write a segmentation as one web page that needs no network."""

import html
import json
from typing import Final

import xarray as xr

from emerdiff_probe.views.segments import overview

__all__ = ["page"]

# The policy forbids the page to load anything: a reader without a network sees everything.
_PAGE: Final = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:; \
script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 1.5rem auto; \
max-width: 1500px; padding: 0 1rem; }}
.caution {{ border-left: 4px solid #d08700; padding-left: 0.8rem; }}
h1 {{ font-size: 1.3rem; overflow-wrap: anywhere; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; vertical-align: top; padding: 0.15rem 1rem 0.15rem 0; \
border-top: 1px solid #ddd; overflow-wrap: anywhere; }}
th {{ font-weight: 600; white-space: nowrap; }}
summary {{ cursor: pointer; font-weight: 600; margin: 0.8rem 0 0.3rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{facts}</p>{caution}
{figure}
{tables}
</body>
</html>
"""

# Hovering in one panel marks the same place in all three: each has its heatmap after its image.
_LINKED_HOVER: Final = """
const plot = document.getElementById('{plot_id}');
let pointing = false;
plot.on('plotly_hover', event => {
  if (pointing) return;
  pointing = true;
  const {x, y} = event.points[0];
  const places = [1, 3, 5].map(curveNumber => ({curveNumber, xval: x, yval: y}));
  Plotly.Fx.hover(plot, places, ['xy', 'x2y2', 'x3y3']);
  pointing = false;
});
"""

_JSON: Final = (
    ("config", "Settings"),
    ("inversion", "Inversion"),
    ("model_description", "Model"),
    ("versions", "Versions"),
)


_UNSEEN: Final = """
<p class="caution">The bundled model has seen nothing but drawn scenes. If this image is a \
photograph, the model has never seen anything like it, and what it finds says little about \
EmerDiff: take a model that knows photographs, such as Stable Diffusion.</p>"""


def page(ds: xr.Dataset) -> str:
    """Return a page with the `overview` figure, the provenance and plotly.js.

    Args:
        ds: A segmentation from `emerdiff_probe.segment`.

    Returns:
        HTML of some 5 MB. Texts from the dataset are escaped. Where the bundled model was given an
        image, the page says that it has never seen photographs.
    """
    figure = overview(ds).update_layout(title=None, margin_t=40, width=None)
    plot = figure.to_html(
        full_html=False,
        include_plotlyjs=True,
        default_width="100%",
        config={"displaylogo": False, "responsive": True},
        post_script=_LINKED_HOVER,
    )
    rows = {name: ds.attrs[name] for name in ("source", "model", "weights", "engine", "fit")}
    tables = [_table("Provenance", rows, opened=True)]
    tables += [
        _table(title, json.loads(ds.attrs[name])) for name, title in _JSON if name in ds.attrs
    ]
    number = len(set(ds["labels"].values.ravel().tolist()))
    facts = (
        f"{number} segments of {ds.sizes['mask']} masks, "
        f"{ds.sizes['x']} × {ds.sizes['y']} pixels (width × height). "
        "Point at a place to see its segment; drag to zoom, double-click to go back."
    )
    inverted = str(ds.attrs["source"]).startswith("photo ")
    bundled = json.loads(ds.attrs["config"]).get("family") == "playground"
    return _PAGE.format(
        caution=_UNSEEN if inverted and bundled else "",
        title=html.escape(f"Segments of {ds.attrs['source']}"),
        facts=html.escape(facts),
        figure=plot,
        tables="\n".join(tables),
    )


def _table(title: str, rows: dict[str, object], *, opened: bool = False) -> str:
    lines = "\n".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(_plain(value))}</td></tr>"
        for name, value in rows.items()
    )
    return (
        f"<details{' open' if opened else ''}><summary>{html.escape(title)}</summary>\n"
        f"<table>\n{lines}\n</table>\n</details>"
    )


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
