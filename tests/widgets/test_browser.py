"""The widgets in a real JupyterLab with a real kernel, clicked in a real browser."""

import re

import pytest

from tests.browser import chromium
from tests.jupyterlab import SHOTS, Lab, jupyterlab

# One server for all of them, where tests run side by side.
pytestmark = pytest.mark.xdist_group("jupyterlab")

CELLS = {
    "setup": "import emerdiff_probe as ep\nfrom tests.datasets import recording, responses",
    "inspector": "inspector = ep.widgets.Inspector(recording())\ninspector",
    "correspondence": "explorer = ep.widgets.CorrespondenceExplorer(responses())\nexplorer",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The notebook; fails at the end where the browser's console had errors."""
    folder = tmp_path_factory.mktemp("lab")
    with chromium() as browser, jupyterlab(list(CELLS.values()), folder) as address:
        lab = Lab(browser, address)
        yield lab
        SHOTS.mkdir(parents=True, exist_ok=True)
        for theme in ("Light", "Dark"):
            lab.theme(theme)
            for width in (1280, 1920):
                lab.page.set_viewport_size({"width": width, "height": 1400})
                for number, name in enumerate(CELLS):
                    if name != "setup":
                        file = SHOTS / f"{name}-{theme.lower()}-{width}.png"
                        lab.output(number).screenshot(path=file)
        assert lab.errors == []


class Shown:
    """A widget's output, as a person sees it."""

    def __init__(self, lab, name):
        self.root = lab.output(list(CELLS).index(name))
        self.page = lab.page

    def picture(self, caption):
        return (
            self.root.locator(".ep-picture", has_text=re.compile(caption))
            .locator("visible=true")
            .first
        )

    def click(self, caption, y, x, **options):
        """Clicks at shares of a picture's height and width."""
        cover = self.picture(caption).locator("svg")
        cover.scroll_into_view_if_needed()
        box = cover.bounding_box()
        cover.click(position={"x": x * box["width"], "y": y * box["height"]}, **options)

    def drag(self, caption, *path):
        """Drags from place to place, each a share of height and width."""
        cover = self.picture(caption).locator("svg")
        cover.scroll_into_view_if_needed()
        box = cover.bounding_box()
        for number, (y, x) in enumerate(path):
            self.page.mouse.move(
                box["x"] + x * box["width"], box["y"] + y * box["height"], steps=12
            )
            if number == 0:
                self.page.mouse.down()
        self.page.mouse.up()

    def press_on_slider(self, name, key):
        self.root.locator(".widget-slider", has_text=name).locator(".noUi-handle").press(key)


@pytest.fixture
def inspector(lab):
    lab.ask("inspector.set(timestep=1, point=(), pins=(), show='magnitude')")
    return Shown(lab, "inspector")


@pytest.fixture
def explorer(lab):
    lab.ask("explorer.choose()")
    return Shown(lab, "correspondence")


def source(picture):
    return picture.locator("img").get_attribute("src")


def test_a_click_reaches_the_kernel_and_its_answer_the_page(lab, inspector):
    inspector.click("^picture", 0.75, 0.5)
    inspector.picture("cosine similarity").wait_for()
    assert inspector.picture(r"t = 1: magnitude").locator("path.ep-light").count() == 1
    assert lab.ask("inspector.point") == pytest.approx((24, 32), abs=0.5)


def test_the_slider_changes_the_map(lab, inspector):
    before = source(inspector.picture(r"t = 1: magnitude"))
    inspector.press_on_slider("timestep", "ArrowLeft")
    inspector.picture(r"t = 281: magnitude").wait_for()
    assert source(inspector.picture(r"t = 281: magnitude")) != before
    assert lab.ask("inspector.timestep") == 281


def test_a_location_can_be_chosen_added_to_and_walked_from(lab, explorer):
    explorer.click("latent locations: click or brush", 0.75, 0.6)
    explorer.picture(r"pixels moved by \(1, 2\)").wait_for()
    explorer.click("latent locations", 0.25, 0.1, modifiers=["Shift"])
    explorer.picture(r"pixels moved by \(1, 2\), \(0, 0\)").wait_for()
    explorer.picture("latent locations").locator("svg").press("ArrowRight")
    explorer.picture(r"pixels moved by \(0, 1\)").wait_for()
    assert lab.ask("explorer.selection") == ((0, 1),)


def test_brushing_chooses_all_on_the_way(lab, explorer):
    explorer.drag("latent locations", (0.75, 0.1), (0.75, 0.6))
    explorer.picture(r"pixels moved by \(1, 0\), \(1, 1\), \(1, 2\)").wait_for()
    assert lab.ask("explorer.selection") == ((1, 0), (1, 1), (1, 2))


def test_a_pixel_shows_what_moves_it(lab, explorer):
    explorer.click("^picture: click", 0.78, 0.9)
    explorer.picture("locations that move y 12, x 28").wait_for()
    assert lab.ask("explorer.selection") == ()
    assert lab.ask("explorer.pixel") == pytest.approx((12.5, 28.8), abs=0.5)
