"""Clicks through a correspondence explorer in JupyterLab and keeps the frames: `make animation`."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from tests.browser import chromium
from tests.jupyterlab import ROOT, Lab, jupyterlab

CELLS = [
    "import emerdiff_probe as ep\n"
    "from emerdiff_probe.scenes import scene\n"
    "model = ep.load('playground')\n"
    "photo = ep.Photo(scene(1_000_843).image)\n"
    "responses = ep.respond(model, photo, engine='jump', progress=False)",
    "explorer = ep.widgets.CorrespondenceExplorer(responses)\nexplorer",
]
SCRIPT = [
    # which picture, y, x, and what has to be seen then
    (1, 0.40, 0.30, "pixels moved by"),
    (1, 0.60, 0.55, "pixels moved by"),
    (1, 0.80, 0.75, "pixels moved by"),
    (0, 0.45, 0.50, "locations that move"),
    (0, 0.70, 0.25, "locations that move"),
    (0, 0.85, 0.80, "locations that move"),
]
OUT = ROOT / "docs" / "images" / "correspondence.gif"
WIDTH, COLOURS = 760, 96


def main() -> None:
    """Writes docs/images/correspondence.gif."""
    frames: list[Image.Image] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        chromium() as browser,
        jupyterlab(CELLS, Path(folder)) as address,
    ):
        lab = Lab(browser, address, width=1600)
        lab.ask("[explorer.pictures[2].layout.__setattr__('display', 'none')]")
        output = lab.output(1)
        figures = output.locator(".ep-picture")
        figures.first.locator("img").first.wait_for()
        row = figures.first.locator("xpath=ancestor::*[contains(@class, 'widget-hbox')][1]")

        def shot(at: tuple[float, float] | None) -> None:
            lab.page.wait_for_timeout(400)
            clip = row.bounding_box()
            clip = {**clip, "width": min(clip["width"], WIDTH)}
            image = Image.open(io.BytesIO(lab.page.screenshot(clip=clip))).convert("RGB")
            if at:
                x, y = at[0] - clip["x"], at[1] - clip["y"]
                arrow = [(x, y), (x, y + 17), (x + 4, y + 13), (x + 7, y + 19), (x + 10, y + 18),
                         (x + 7, y + 12), (x + 12, y + 12)]  # fmt: skip
                ImageDraw.Draw(image).polygon(arrow, fill="black", outline="white")
            frames.append(image)

        lab.page.mouse.move(0, 0)
        shot(None)
        for picture, y, x, expected in SCRIPT:
            cover = figures.nth(picture).locator("svg")
            cover.scroll_into_view_if_needed()
            box = cover.bounding_box()
            at = box["x"] + x * box["width"], box["y"] + y * box["height"]
            lab.page.mouse.move(*at)
            shot(at)
            lab.page.mouse.click(*at)
            output.get_by_text(expected).first.wait_for()
            shot(at)
    pages = [each.quantize(COLOURS, dither=Image.Dither.NONE) for each in frames]
    durations = [700, *[500, 1400] * len(SCRIPT)]
    pages[0].save(OUT, save_all=True, append_images=pages[1:], duration=durations, loop=0)
    print(f"{OUT}: {len(pages)} frames, {OUT.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
