"""The correspondence page in a real browser: clicking works both ways without a kernel."""

from pathlib import Path

import numpy as np
import pytest

from emerdiff_probe import views
from tests.browser import PATIENCE, chromium
from tests.datasets import responses

SHOTS = Path(__file__).parents[2] / "build" / "screenshots"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = views.correspondence_page(responses(), tmp_path_factory.mktemp("page") / "page.html")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(PATIENCE)
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda said: said.type == "error" and errors.append(said.text))
        page.goto(path.as_uri())
        page.get_by_text("Pixels moved by location row 1, column 2.").wait_for()
        yield page
        SHOTS.mkdir(parents=True, exist_ok=True)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=SHOTS / f"correspondence-{scheme}.png")
        assert errors == []


def click(page, canvas, y, x, **options):
    """Clicks at shares of a canvas's height and width."""
    found = page.locator(f"#{canvas}")
    box = found.bounding_box()
    found.click(position={"x": x * box["width"], "y": y * box["height"]}, **options)


def most(page):
    return float(page.locator("#most").inner_text())


def test_a_location_shows_its_pixels(page):
    click(page, "grid", 0.25, 0.9)
    page.get_by_text("Pixels moved by location row 0, column 3.").wait_for()
    response = responses()["response"].values.astype(float)
    assert most(page) == pytest.approx(np.linalg.norm(response[0, 3], axis=0).max(), rel=0.02)


def test_locations_are_added_with_their_signs(page):
    click(page, "grid", 0.25, 0.1)
    click(page, "grid", 0.25, 0.4, modifiers=["Shift"])
    page.get_by_text("Pixels moved by 2 locations.").wait_for()
    response = responses()["response"].values.astype(float)
    both = np.linalg.norm(response[0, 0] + response[0, 1], axis=0).max()
    assert most(page) == pytest.approx(both, rel=0.02)


def test_a_pixel_shows_its_locations(page):
    click(page, "picture", 0.8, 0.6)
    page.get_by_text("Locations that move pixel y 12, x 19: most, row 1, column 2.").wait_for()
    response = responses()["response"].values[..., 12, 19].astype(float)
    assert most(page) == pytest.approx(np.linalg.norm(response, axis=-1).max(), rel=0.02)


def test_keys_walk(page):
    click(page, "grid", 0.25, 0.1)
    page.locator("#grid").press("ArrowDown")
    page.get_by_text("Pixels moved by location row 1, column 0.").wait_for()
    page.locator("#grid").press("ArrowDown")
    page.locator("#grid").press("ArrowRight")
    page.get_by_text("Pixels moved by location row 1, column 1.").wait_for()
