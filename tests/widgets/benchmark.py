"""From a click to the changed picture, in JupyterLab: `make benchmark-widgets`."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from emerdiff_probe import views
from emerdiff_probe.schema import pixel_centres
from tests.browser import chromium
from tests.jupyterlab import ROOT, Lab, jupyterlab

SIDE, GRID, CLICKS = 512, 16, 40
CELLS = [
    "import emerdiff_probe as ep\nfrom tests.widgets.benchmark import recording, responses",
    "inspector = ep.widgets.Inspector(recording(), show='colours')\ninspector",
    "explorer = ep.widgets.CorrespondenceExplorer(responses())\nexplorer",
]
# From the mouse's button to when the browser has the new picture and may draw it.
WATCH = """([cell, picture, layer]) => {
  const outputs = document.querySelectorAll(".jp-Notebook .jp-Cell .jp-OutputArea")[cell];
  const figures = [...outputs.querySelectorAll(".ep-picture")];
  const image = figures[picture].querySelectorAll("img")[layer];
  window.took = null;
  let begun = null;
  outputs.addEventListener("pointerup", () => (begun = performance.now()), {
    capture: true, once: true,
  });
  image.addEventListener("load", () => requestAnimationFrame(() => {
    window.took = performance.now() - begun;
  }), { once: true });
}"""


def recording() -> xr.DataTree:
    """Noise as large as three layers of Stable Diffusion v1 at two timesteps."""
    rng = np.random.default_rng(0)
    sizes = {"up_blocks/1": (16, 1280), "up_blocks/2": (32, 640), "up_blocks/3": (64, 320)}
    steps = [281, 1]

    def leaf(cells: int, values: Any, *dims: str) -> xr.Dataset:
        centres = pixel_centres(cells, SIDE)
        return xr.Dataset({"value": (dims, values)}, {"y": centres, "x": centres})

    nodes = {
        f"{name}/out": leaf(
            cells,
            rng.normal(size=(1, 2, cells, cells, channels)).astype(np.float16),
            *("sample", "timestep", "y", "x", "channel"),
        )
        for name, (cells, channels) in sizes.items()
    }
    nodes["image"] = leaf(SIDE, picture()[None], "sample", "y", "x", "rgb")
    about = {"prompt": ["noise"], "seed": [0], "source": ["prompt"]}
    root = xr.Dataset(
        coords={
            "timestep": steps,
            "step": ("timestep", [0, 1]),
            **{name: ("sample", value) for name, value in about.items()},
        }
    )
    return xr.DataTree.from_dict({"/": root, **nodes})


def responses() -> xr.Dataset:
    """Every location moves the pixels around it, in noise of a colour of its own."""
    rng = np.random.default_rng(0)
    centres, places = pixel_centres(SIDE, SIDE), pixel_centres(GRID, SIDE)
    near = np.exp(-(((centres - places[:, None]) / 40) ** 2)).astype(np.float32)
    noise = rng.normal(1, 0.2, size=(3, SIDE, SIDE)).astype(np.float32)
    values = np.empty((GRID, GRID, 3, SIDE, SIDE), np.float16)
    for row, column in np.ndindex(GRID, GRID):
        bump = near[row][:, None] * near[column]
        values[row, column] = rng.normal(size=(3, 1, 1)) * bump * noise
    return xr.Dataset(
        {
            "response": (("source_y", "source_x", "rgb", "y", "x"), values),
            "picture": (("y", "x", "rgb"), picture()),
            "features": (
                ("source_y", "source_x", "channel"),
                rng.normal(size=(GRID, GRID, 640)).astype(np.float32),
            ),
        },
        coords={"y": centres, "x": centres, "source_y": places, "source_x": places,
                "rgb": ["r", "g", "b"]},
        attrs={"model": "synthetic", "source": "noise"},
    )  # fmt: skip


def picture() -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Slopes with the grain of a photograph."""
    grain = np.random.default_rng(1).normal(0, 6, size=(SIDE, SIDE, 3))
    slope = np.add.outer(np.arange(SIDE), np.arange(SIDE))[..., None] / 4
    return (slope + grain).clip(0, 255).astype(np.uint8)


def measure(lab: Lab, received: list[int], what: tuple[int, int, int, int]) -> dict[str, float]:
    """Clicks all over a picture and times when another changes.

    Args:
        lab: The notebook.
        received: Grows by the bytes of each message from the kernel.
        what: The cell, the picture clicked, the picture that changes, and which of its layers.
    """
    cell, clicked, changed, layer = what
    figures = lab.output(cell).locator(".ep-picture")
    cover = figures.nth(clicked).locator("svg")
    cover.scroll_into_view_if_needed()
    box = cover.bounding_box()
    # No cell twice: the picture would not change.
    cells = np.random.default_rng(0).permutation(GRID * GRID)[: CLICKS + 5]
    times, sizes = [], []
    for number, place in enumerate(cells):
        lab.page.evaluate(WATCH, [cell, changed, layer])
        before = sum(received)
        y, x = ((int(each) + 0.5) / GRID for each in divmod(place, GRID))
        cover.click(position={"x": x * box["width"], "y": y * box["height"]})
        lab.page.wait_for_function("window.took !== null")
        lab.page.wait_for_timeout(250)
        if number >= 5:  # to warm up
            times.append(lab.page.evaluate("window.took"))
            sizes.append(sum(received) - before)
    return {
        "median ms": float(np.median(times)),
        "90 % within ms": float(np.percentile(times, 90)),
        "median kB": float(np.median(sizes)) / 1000,
    }


def main() -> None:
    """Measures, prints and writes docs/results/widgets.md."""
    received: list[int] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        chromium() as browser,
        jupyterlab(CELLS, Path(folder)) as address,
    ):
        lab = Lab(browser, address, listen=received)
        lab.page.locator(".ep-picture img").first.wait_for()
        lab.ask("inspector.set(point=(100, 100))")
        lab.ask("explorer.choose(((8, 8),))")
        lab.page.wait_for_timeout(1000)
        rows = {
            "Inspector: click a place, see what is like it": measure(lab, received, (1, 1, 2, 0)),
            "CorrespondenceExplorer: click a location, see its pixels": measure(
                lab, received, (2, 1, 0, 1)
            ),
            "CorrespondenceExplorer: click a pixel, see its locations": measure(
                lab, received, (2, 0, 1, 1)
            ),
        }
        if lab.errors:
            raise RuntimeError("\n".join(lab.errors))
        page = views.correspondence_page(responses(), Path(folder) / "page.html")
        size = page.stat().st_size / 1e6
        points = re.search(r"responses of (\d+ x \d+) points", page.read_text("utf-8"))[1]
    names = list(next(iter(rows.values())))
    table = [["", *names], *(["---"] * 4,)]
    table += [[name, *(f"{row[each]:.0f}" for each in names)] for name, row in rows.items()]
    lines = "\n".join(f"| {' | '.join(line)} |" for line in table)
    text = f"""# How long a click takes

JupyterLab, its kernel and headless Chromium on one machine; data in memory: responses of
{GRID} x {GRID} locations at {SIDE} x {SIDE} pixels, and a recording with maps of 16, 32 and 64
cells on a side. {CLICKS} clicks each, from the mouse's button to the new picture in the browser,
and the bytes that the kernel sent for it. Times are those of one machine. Made by
`make benchmark-widgets`.

{lines}

The page that `views.correspondence_page` writes of the same responses, on which clicks need no
kernel, has {size:.1f} MB, with responses of {points} points.
"""
    (ROOT / "docs" / "results" / "widgets.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
