"""The script of pictures in a real browser, with a stand-in for the kernel's side."""

from pathlib import Path

import numpy as np
import pytest

from emerdiff_probe import widgets
from emerdiff_probe.views.panels import png
from emerdiff_probe.widgets import Picture
from emerdiff_probe.widgets.hearing import code
from tests.browser import PATIENCE, chromium

HERE = Path(widgets.__file__).parent

# What anywidget's front end gives to a script: traits, and who wants to know of changes.
MODEL = """
window.told = [];
window.listeners = {};
window.model = {
  get: (name) => window.state[name],
  set: (name, value) => {
    window.change(name, value);
    if (name !== "zoom") window.told.push([name, value]);
  },
  save_changes: () => {},
  on: (name, listener) => { (window.listeners[name] ??= []).push(listener); },
};
window.change = (name, value) => {
  window.state[name] = value;
  (window.listeners[`change:${name}`] ?? []).forEach((listener) => listener());
};
undefined;
"""


@pytest.fixture(scope="module")
def page():
    pixels = np.arange(4 * 8 * 3, dtype=np.uint8).reshape(4, 8, 3)
    state = {
        "opacity": 0.5,
        "extent": [32, 64],
        "grid": [4, 8],
        "marks": [[8, 16]],
        "cells": [[1, 2]],
        "cursor": [],
        "caption": "<b>a site",
        "width": 320,
        "clicked": {},
        "dragged": {},
        "value_grid": [2, 4],
        "value_name": "magnitude",
        "zoom": [1, 0, 0],
        "draws": True,
    }
    assert set(state) <= set(Picture.class_trait_names(sync=True))
    script = code("looking.js", "picture.js").replace("export default", "window.widget =")
    style = (HERE / "picture.css").read_text()
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 600, "height": 400})
        page.set_default_timeout(PATIENCE)
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.set_content(f"<style>{style}</style><div id='el'></div>")
        page.evaluate(MODEL)
        page.evaluate("state => { window.state = state; }", state)
        page.evaluate("bytes => { state.image = new DataView(new Uint8Array(bytes).buffer); }",
                      list(png(pixels)))  # fmt: skip
        page.evaluate("() => { state.over = new DataView(new ArrayBuffer(0)); }")
        page.evaluate("""() => {
          const numbers = Float32Array.of(0, 1, 2, 3, 4, 5.25, NaN, 7);
          state.values = new DataView(numbers.buffer);
        }""")
        page.add_script_tag(content=script)
        # What gives a function back would be called.
        page.evaluate("widget.render({ model, el: document.getElementById('el') }); undefined")
        page.wait_for_function("document.querySelector('img').naturalWidth === 8")
        yield page
        assert errors == []


def told(page):
    return page.evaluate("told.at(-1)")


def test_it_is_sharp_and_of_the_extents_shape(page):
    image = page.locator("img").first
    assert image.evaluate("each => getComputedStyle(each).imageRendering") == "pixelated"
    box = image.bounding_box()
    assert (box["width"], box["height"]) == (320, 160)
    assert page.locator("figcaption").inner_text() == "<b>a site", "captions are no markup"
    assert page.locator("rect.ep-light").get_attribute("x") == "16"
    assert page.locator("rect.ep-light").get_attribute("y") == "8"


def test_clicks_are_told_in_pixels_of_the_picture(page):
    page.locator("svg").click(position={"x": 160, "y": 120})
    name, event = told(page)
    assert (name, event["shift"]) == ("clicked", False)
    assert (event["y"], event["x"]) == pytest.approx((24, 32), abs=0.1)
    page.locator("svg").click(position={"x": 160, "y": 120}, modifiers=["Shift"])
    name, again = told(page)
    assert again["shift"] is True
    assert again["count"] == event["count"] + 1, "the same place twice is two events"


def test_drags_are_told_with_their_way(page):
    box = page.locator("svg").bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + 110, box["y"] + 10, steps=5)
    assert page.locator("polyline").count() == 2, "the way is drawn while dragging"
    page.mouse.up()
    assert page.locator("polyline").count() == 0
    name, event = told(page)
    assert name == "dragged"
    assert event["path"][0] == pytest.approx([2, 2], abs=0.1)
    assert event["path"][-1] == pytest.approx([2, 22], abs=0.1)
    assert len(event["path"]) >= 6


def test_a_line_that_ends_where_it_began_is_no_click(page):
    box = page.locator("svg").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    for x, y in ((120, 20), (120, 90), (20, 90), (20, 20)):
        page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
    page.mouse.up()
    name, event = told(page)
    assert name == "dragged"
    assert event["path"][0] == pytest.approx(event["path"][-1], abs=0.1)
    assert max(y for y, _ in event["path"]) == pytest.approx(18, abs=0.1)


def test_the_value_under_the_pointer_is_told(page):
    cover = page.locator("svg")
    cover.hover(position={"x": 130, "y": 102})
    assert page.locator(".ep-below span").inner_text() == "y 20, x 26: magnitude 5.25"
    cover.hover(position={"x": 202, "y": 102})
    assert page.locator(".ep-below span").inner_text() == "y 20, x 40: magnitude unknown"
    page.locator("figcaption").hover()
    assert page.locator(".ep-below span").inner_text() == ""


def test_pictures_zoom_at_the_pointer_and_move(page):
    cover, frame = page.locator("svg"), page.locator(".ep-frame").bounding_box()
    whole = cover.bounding_box()
    cover.hover(position={"x": 80, "y": 40})
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300 * 0.6931472)
    page.wait_for_function("state.zoom[0] > 1")
    assert page.evaluate("state.zoom") == pytest.approx([2, 0.125, 0.125], abs=0.01)
    box = cover.bounding_box()
    assert box["width"] == pytest.approx(640, abs=4)
    page.mouse.click(whole["x"] + 80, whole["y"] + 40)
    assert told(page)[0] != "clicked", "with the key a click moves, and does not choose"
    page.mouse.down()
    page.mouse.move(whole["x"] + 80 + 64, whole["y"] + 40)
    page.mouse.up()
    page.keyboard.up("Control")
    assert page.evaluate("state.zoom") == pytest.approx([2, 0.125, 0.025], abs=0.01)
    # Clicks are still told in pixels of the picture, and what is beyond the frame is cut off.
    page.mouse.click(whole["x"] + 144, whole["y"] + 40)
    name, event = told(page)
    assert (name, event["x"]) == ("clicked", pytest.approx(16, abs=0.3))
    assert page.locator(".ep-frame").bounding_box() == frame
    page.evaluate("change('draws', false)")
    page.mouse.down()
    page.mouse.move(whole["x"] + 144 - 32, whole["y"] + 40, steps=2)
    page.mouse.up()
    assert page.evaluate("state.zoom[2]") == pytest.approx(0.075, abs=0.01), "a plain drag moves"
    page.get_by_role("button", name="whole picture").click()
    assert page.evaluate("state.zoom") == [1, 0, 0]
    cover.press("+")
    assert page.evaluate("state.zoom[0]") == 1.5
    cover.press("0")
    assert cover.bounding_box() == whole
    page.evaluate("change('draws', true)")


def test_keys_walk_from_cell_to_cell(page):
    page.evaluate("change('cursor', [4, 4])")
    page.locator("svg").press("ArrowRight")
    assert told(page)[1]["y"] == 4
    assert told(page)[1]["x"] == 12
    page.locator("svg").press("ArrowUp")
    assert told(page)[1]["y"] == 4, "there is nothing above"


def test_what_changes_is_drawn(page):
    page.evaluate("change('marks', [[1, 1], [2, 2], [3, 3]])")
    assert page.locator("path.ep-light").count() == 3
    numbers = page.locator("svg text").evaluate_all("all => all.map(each => each.textContent)")
    assert numbers == ["1", "2", "3"]
    over = page.locator("img").nth(1)
    assert not over.is_visible()
    bytes_ = list(png(np.uint8([[0, 1]]), np.uint8([[255, 0, 0, 255], [0, 0, 0, 0]])))
    page.evaluate("bytes => change('over', new DataView(new Uint8Array(bytes).buffer))", bytes_)
    page.wait_for_function("document.querySelectorAll('img')[1].naturalWidth === 2")
    assert over.is_visible()
    assert over.bounding_box() == page.locator("img").first.bounding_box()
    assert over.evaluate("each => getComputedStyle(each).opacity") == "0.5"
    page.evaluate("change('caption', 'another')")
    assert page.locator("figcaption").inner_text() == "another"


# A model as anywidget makes it of one whose code took too long: it refuses what Python sends.
REFUSING = """
class Plain { _handle_comm_msg(message) { window.heard.push(message); return Promise.resolve(); } }
class Gated extends Plain {
  async _handle_comm_msg(message) {
    if (window.refuses) throw new Error("Failed to initialize model.");
    return super._handle_comm_msg(message);
  }
}
Object.assign(window, { heard: [], sent: [], whole: new Gated() });
whole.comm = {
  on_msg: (listener) => { window.listener = listener; },
  send: (data) => window.sent.push(data),
};
whole.comm.on_msg(whole._handle_comm_msg.bind(whole));
window.state._address = "here";
window.model.widget_manager = {
  get_model: async (address) => (address === "here" ? window.whole : undefined),
};
undefined;
"""


@pytest.mark.parametrize("refuses", [True, False])
def test_messages_are_heard_where_anywidget_refuses_them(page, refuses):
    shown = Picture()
    assert shown._address == shown.model_id
    page.evaluate(REFUSING)
    page.evaluate("refuses => { window.refuses = refuses; }", refuses)
    page.evaluate("hear(model)")
    assert page.evaluate("sent") == [{"method": "request_state"}] * refuses
    page.evaluate("() => { heard.length = 0; }")
    page.evaluate("listener({ content: 1 }).catch(() => null)")
    assert page.evaluate("heard") == [{"content": 1}]
