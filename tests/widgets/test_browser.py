"""The widgets in a real JupyterLab with a real kernel, clicked in a real browser."""

import json
import re

import pytest
from playwright.sync_api import expect

from tests.browser import chromium
from tests.jupyterlab import SHOTS, Lab, jupyterlab

CELLS = {
    "setup": """
import emerdiff_probe as ep
from tests.datasets import bands, recording, responses, sites_table
""",
    "sites": "browser = ep.widgets.SiteBrowser(sites_table())\nbrowser",
    "inspector": "inspector = ep.widgets.Inspector(recording())\ninspector",
    "correspondence": "explorer = ep.widgets.CorrespondenceExplorer(responses())\nexplorer",
    "segmentation": """
result = bands(96, 192, masks=4, grid=(2, 4), model_grid=(16, 32))
result["embeddings"][:] = [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0.1, 1]]
result["difference"][:] = responses()["response"].values[0].astype(float).std(1)
segments = ep.widgets.SegmentationExplorer(result, responses(size=(96, 192)))
segments
""",
    "compare": "compare = ep.widgets.Compare(recording(), recording(), samples=(0, 1))\ncompare",
    "comparesegments": """
agreed = ep.widgets.CompareSegments(result, 3 - result["labels"].clip(max=2))
agreed
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lab")


@pytest.fixture(scope="module")
def lab(folder):
    """The notebook; fails at the end where the browser's console had errors."""
    cells = [each.strip() for each in CELLS.values()]
    with chromium() as browser, jupyterlab(cells, folder) as address:
        lab = Lab(browser, address)
        yield lab
        SHOTS.mkdir(parents=True, exist_ok=True)
        for theme in ("Light", "Dark"):
            lab.theme(theme)
            for width in (1280, 1920):
                lab.screenshot(SHOTS / f"widgets-{theme.lower()}-{width}.png", width)
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
    lab.ask("[explorer.choose(), explorer.set_trait('masks', 0)]")
    return Shown(lab, "correspondence")


@pytest.fixture
def segments(lab):
    lab.ask("[setattr(segments, name, value) for name, value in segments.usual.items()]")
    return Shown(lab, "segmentation")


def source(picture):
    return picture.locator("img").first.get_attribute("src")


def test_sites_are_filtered_by_typing_and_by_menus(lab):
    shown = Shown(lab, "sites")
    shown.root.get_by_label("pattern").fill("*attn2*")
    shown.root.get_by_label("pattern").press("Enter")
    shown.root.get_by_text("2 of 4 sites").wait_for()
    expect(shown.root.locator("tbody tr")).to_have_count(2)
    assert lab.ask("browser.pattern") == "*attn2*"
    shown.root.get_by_label("level").select_option("8")
    shown.root.get_by_text("1 of 4 sites").wait_for()
    assert lab.ask("browser.selection") == (
        "mid_block.attentions.0.transformer_blocks.0.attn2:out",
    )
    shown.root.get_by_label("pattern").fill("zebra")
    shown.root.get_by_label("pattern").press("Enter")
    shown.root.get_by_text("zebra").last.wait_for()
    assert lab.ask("browser.selection") == ()
    lab.ask("[browser.set_trait('level', 'all'), browser.set_trait('pattern', '*')]")


def test_branches_of_sites_open_and_are_ticked(lab):
    shown = Shown(lab, "sites")
    tree = shown.root.locator(".ep-tree")
    branch = tree.get_by_role("checkbox", name="mid_block", exact=True)
    expect(branch).to_be_checked()
    branch.click()
    shown.root.get_by_text("2 of 4 sites").wait_for()
    assert lab.ask("browser.selection[0]") == "up_blocks.1:out"
    expect(branch).not_to_be_checked()
    tree.locator("summary").first.click()
    tree.get_by_role("checkbox", name=":out").first.click()
    shown.root.get_by_text("3 of 4 sites").wait_for()
    assert "mid_block:out" in lab.ask("browser.selection")
    assert branch.evaluate("box => box.indeterminate")
    lab.ask("browser.set_trait('pattern', '*')")


def test_a_click_reaches_the_kernel_and_its_answer_the_page(lab, inspector):
    inspector.click("^picture", 0.75, 0.5)
    inspector.picture("cosine similarity").wait_for()
    assert inspector.picture(r"t = 1: magnitude").locator("svg > path.ep-light").count() == 1
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


def test_the_slider_of_masks_clusters_anew(lab, explorer):
    slider = explorer.root.locator(".widget-slider", has_text="masks").locator(".noUi-handle")
    slider.press("ArrowRight")
    slider.press("ArrowRight")
    explorer.picture("segments from 2 masks").wait_for()
    explorer.click("segments from 2 masks", 0.75, 0.1)
    explorer.picture(r"pixels moved by \(1, 0\), \(1, 1\)").wait_for()
    assert lab.ask("(explorer.masks, len(explorer.selection))") == (2, 4)


def test_a_segment_is_chosen_and_others_merged_and_filtered(lab, segments):
    segments.click("4 segments", 0.5, 0.6)
    segments.picture(r"segment 2, 25\.0% of the picture").wait_for()
    segments.picture("difference map of 2").wait_for()
    assert lab.ask("segments.selection") == 2
    segments.press_on_slider("merge to", "ArrowLeft")
    segments.picture(r"segment 2, 50\.0% of the picture").wait_for()
    segments.root.get_by_role("button", name="choose none").click()
    segments.picture("3 segments: click one").wait_for()
    segments.press_on_slider("sigma", "ArrowRight")
    lab.wait_for("segments.sigma", 0.25)
    assert lab.ask("(segments.merged, segments.error)") == (3, "")


def test_a_baseline_and_the_margin_are_shown(lab, segments):
    segments.root.get_by_label("baseline").select_option("guided filter")
    segments.picture("guided filter, .*% of the pixels are the same").wait_for()
    segments.root.get_by_label("overlay").select_option("margin")
    segments.picture("margin, 0").wait_for()
    assert lab.ask("(segments.baseline, segments.overlay)") == ("guided filter", "margin")


def test_a_mask_is_drawn_with_the_mouse_and_exported(lab, segments, folder):
    path = [(0.1, 0.1), (0.1, 0.6), (0.6, 0.6), (0.6, 0.1), (0.1, 0.1)]
    segments.drag("4 segments", *path)
    segments.picture("pixels moved by your mask 1").wait_for()
    weights = lab.ask("segments.own_masks().values.tolist()")[0]
    assert weights[0][1] == pytest.approx(0.8, abs=0.05)
    assert weights[1][3] == 0
    segments.root.get_by_label("masks").last.fill("mine.json")
    segments.root.get_by_role("button", name="export").click()
    segments.root.get_by_text("written: ").wait_for()
    assert len(json.loads((folder / "mine.json").read_text())["annotations"]) == 5
    segments.root.get_by_label("masks").last.fill("mine.gif")
    segments.root.get_by_role("button", name="export").click()
    segments.root.get_by_text("has an unknown suffix").wait_for()
    segments.root.get_by_role("button", name="clear own masks").click()
    segments.root.get_by_text("has an unknown suffix").wait_for(state="detached")


def test_code_and_figures_are_a_click_away(lab, segments, folder):
    lab.ask("segments.set_trait('alpha', 0.25)")
    segments.root.get_by_role("button", name="code").click()
    segments.root.get_by_text(
        "ep.widgets.SegmentationExplorer(result, responses, alpha=0.25)"
    ).wait_for()
    segments.root.get_by_role("button", name="code").click()
    segments.root.get_by_label("figure").fill("view.html")
    segments.root.get_by_role("button", name="save").click()
    segments.root.get_by_text("written: ").wait_for()
    assert "plotly" in (folder / "view.html").read_text()


def test_two_recordings_have_one_set_of_controls(lab):
    shown = Shown(lab, "compare")
    expect(shown.root.get_by_label("show")).to_have_count(1)
    shown.root.get_by_label("show").select_option("magnitude")
    shown.picture("b - a: magnitude").wait_for()
    shown.click("^b, picture", 0.25, 0.5)
    shown.picture("b - a: cosine similarity").wait_for()
    assert lab.ask("compare.point") == pytest.approx((8, 32), abs=0.5)


def test_pictures_of_one_widget_are_pointed_at_and_zoom_together(lab):
    shown = Shown(lab, "compare")
    values = shown.root.locator(".ep-below span")
    shown.picture("^a, picture").locator("svg").hover(position={"x": 20, "y": 10})
    expect(values.nth(0)).to_have_text(re.compile(r"^y \d+, x \d+$"))
    expect(values.nth(4)).to_have_text(re.compile(r"^b - a -?\d"))
    shown.root.get_by_role("button", name="zoom in").first.click()
    widths = shown.root.locator(".ep-frame svg").evaluate_all(
        "all => all.map(each => each.clientWidth)"
    )
    frame = shown.root.locator(".ep-frame").first.bounding_box()["width"]
    assert widths == pytest.approx([1.5 * frame] * 5, abs=2)
    shown.root.get_by_role("button", name="whole picture").last.click()


def test_answers_stand_beside_questions_in_a_small_window(lab, inspector, explorer, segments):
    for expression in (
        "inspector.set(point=(8, 32))",
        "explorer.choose(((1, 2),))",
        "explorer.set_trait('masks', 2)",
        "segments.set_trait('selection', 1)",
        "segments.set_trait('baseline', 'nearest')",
    ):
        lab.ask(expression)
    explorer.picture("segments from 2 masks").wait_for()
    segments.picture("difference map of 1").wait_for()
    size = lab.page.viewport_size
    lab.page.set_viewport_size({"width": 1280, "height": 800})
    room = lab.page.locator(".jp-WindowedPanel-outer").bounding_box()
    for shown in (inspector, explorer, segments, Shown(lab, "compare")):
        frames = shown.root.locator(".ep-frame").locator("visible=true")
        boxes = [each.bounding_box() for each in frames.all()]
        assert len(boxes) >= 4
        assert len({round(box["y"] + box["height"]) for box in boxes}) == 1, "in one row"
        assert max(box["x"] + box["width"] for box in boxes) <= room["x"] + room["width"]
        assert shown.root.bounding_box()["height"] < room["height"] - 60, "below the cell's code"
    lab.page.set_viewport_size(size)


def test_a_place_is_marked_in_both_segmentations(lab):
    shown = Shown(lab, "comparesegments")
    shown.click("^a", 0.5, 0.9)
    shown.root.get_by_text("segment 3 of a, segment 1 of b").wait_for()
    assert shown.root.locator("svg > path.ep-light").count() == 3
    assert lab.ask("agreed.agreement") == pytest.approx(0.75)


def test_all_that_is_shown_was_drawn_without_errors(lab):
    names = ("inspector", "explorer", "segments", "compare", "agreed")
    assert lab.ask(f"[each.error for each in ({', '.join(names)})]") == [""] * 5
    assert lab.errors == []
