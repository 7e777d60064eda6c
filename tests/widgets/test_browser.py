"""The widgets in a real JupyterLab with a real kernel, clicked in a real browser."""

import contextlib
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

from tests.browser import PATIENCE, chromium

ROOT = Path(__file__).parents[2]
SHOTS = ROOT / "build" / "screenshots"
CELLS = [
    "import emerdiff_probe as ep\n"
    "from tests.datasets import recording, responses\n"
    "inspector = ep.widgets.Inspector(recording())\n"
    "inspector",
    "explorer = ep.widgets.CorrespondenceExplorer(responses())\nexplorer",
    "print('STATE', inspector.timestep, inspector.point, explorer.selection, explorer.pixel)",
]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Address of a JupyterLab of its own, with one notebook."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in CELLS])
    # Else JupyterLab asks which kernel to take.
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / "widgets.ipynb")
    token, port = secrets.token_hex(16), free_port()
    places = {
        name: str(folder / name)
        for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR",
                     "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
    }  # fmt: skip
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.root_dir": folder,
        "IdentityProvider.token": token,
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "LabApp.expose_app_in_browser": True,
        "LabApp.news_url": "",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    log = (folder / "log.txt").open("w")
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            *(f"--{key}={value}" for key, value in options.items()),
        ],
        env={**os.environ, **places, "PYTHONPATH": path},
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE / 1000
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            if server.poll() is not None or time.monotonic() > until:
                pytest.fail(f"JupyterLab did not start:\n{(folder / 'log.txt').read_text()}")
            time.sleep(0.2)
        yield f"{address}/lab/tree/widgets.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(browser, lab):
    """The notebook, all cells run; fails at the end where the browser's console had errors."""
    page = browser.new_page(viewport={"width": 1280, "height": 1400})
    page.set_default_timeout(PATIENCE)
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: (
            errors.append(message.text)
            if message.type == "error" and "emerdiff" in message.text
            else None
        ),
    )
    page.goto(lab)
    page.locator(".jp-NotebookPanel").wait_for()
    page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.get_by_text("STATE 1 ()").wait_for()
    page.locator(".ep-picture img").first.wait_for()
    yield page
    SHOTS.mkdir(parents=True, exist_ok=True)
    for theme in ("Light", "Dark"):
        page.evaluate(
            "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})",
            f"JupyterLab {theme}",
        )
        page.wait_for_function(
            f"document.body.dataset.jpThemeLight === '{str(theme == 'Light').lower()}'"
        )
        for width in (1280, 1920):
            page.set_viewport_size({"width": width, "height": 1400})
            page.screenshot(path=SHOTS / f"widgets-{theme.lower()}-{width}.png")
    assert errors == []


def picture(page, caption):
    return page.locator(".ep-picture", has_text=re.compile(caption)).locator("visible=true").first


def click(page, caption, y, x, **options):
    """Clicks at shares of a picture's height and width."""
    cover = picture(page, caption).locator("svg")
    cover.scroll_into_view_if_needed()
    box = cover.bounding_box()
    cover.click(position={"x": x * box["width"], "y": y * box["height"]}, **options)


def kernel_says(page, expected):
    """Runs the last cell until the kernel's state is as expected."""
    page.locator(".jp-CodeCell").last.locator(".cm-content").click()
    page.keyboard.press("Control+Enter")
    page.locator(".jp-CodeCell").last.get_by_text(re.compile(expected)).wait_for()


def source(page, caption):
    return picture(page, caption).locator("img").get_attribute("src")


def test_a_click_reaches_the_kernel_and_its_answer_the_page(page):
    click(page, "^picture$|^picture", 0.75, 0.5)
    picture(page, "cosine similarity").wait_for()
    assert picture(page, r"t = 1: magnitude").locator("path.ep-light").count() == 1
    kernel_says(page, r"STATE 1 \(2[34]\.\d+, 3[12]\.\d+\)")


def test_the_slider_changes_the_map(page):
    before = source(page, r"t = 1: magnitude")
    slider = page.locator(".widget-slider", has_text="timestep").locator(".noUi-handle")
    slider.click()
    page.keyboard.press("ArrowLeft")
    picture(page, r"t = 281: magnitude").wait_for()
    assert source(page, r"t = 281: magnitude") != before
    kernel_says(page, r"STATE 281")


def test_a_location_can_be_chosen_added_to_and_walked_from(page):
    click(page, "latent locations: click or brush", 0.75, 0.6)
    picture(page, r"pixels moved by \(1, 2\)").wait_for()
    click(page, "latent locations", 0.25, 0.1, modifiers=["Shift"])
    picture(page, r"pixels moved by \(1, 2\), \(0, 0\)").wait_for()
    picture(page, "latent locations").locator("svg").press("ArrowRight")
    picture(page, r"pixels moved by \(0, 1\)").wait_for()
    kernel_says(page, r"\(\(0, 1\),\)")


def test_brushing_chooses_all_on_the_way(page):
    cover = picture(page, "latent locations").locator("svg")
    box = cover.bounding_box()
    page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + 0.75 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.75 * box["height"], steps=12)
    page.mouse.up()
    picture(page, r"pixels moved by \(1, 0\), \(1, 1\), \(1, 2\)").wait_for()


def test_a_pixel_shows_what_moves_it(page):
    click(page, "pixels moved by", 0.78, 0.9)
    picture(page, "locations that move y 12, x 28").wait_for()
    kernel_says(page, r"\(\) \(12\.\d*, 28\.\d+\)")
