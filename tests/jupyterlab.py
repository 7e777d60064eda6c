"""A real JupyterLab with a real kernel, and one notebook in it, opened in a real browser."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat

from tests.browser import PATIENCE

ROOT = Path(__file__).parents[1]
SHOTS = ROOT / "build" / "screenshots"
NOTEBOOK = "widgets.ipynb"
SETTINGS = {
    # Cells out of sight are drawn, too.
    "notebook-extension/tracker": {"windowingMode": "none"},
    # Nothing is asked, nothing looked for in a network.
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@contextlib.contextmanager
def jupyterlab(cells: Sequence[str], folder: Path) -> Iterator[str]:
    """Starts a server of its own.

    Args:
        cells: Code of the one notebook.
        folder: An empty one, for the notebook and all that JupyterLab keeps.

    Yields:
        Address of the notebook.
    """
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(each) for each in cells])
    # Else JupyterLab asks which kernel to take.
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, folder / NOTEBOOK)
    for name, settings in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(settings))
    token, port = secrets.token_hex(16), free_port()
    environment = {
        **os.environ,
        **{
            name: str(folder / name)
            for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR",
                         "IPYTHONDIR", "JUPYTERLAB_WORKSPACES_DIR")
        },
        "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }  # fmt: skip
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
    command = [sys.executable, "-m", "jupyterlab"]
    command += [f"--{key}={value}" for key, value in options.items()]
    log = folder / "log.txt"
    with log.open("w") as said:
        server = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)
    try:
        address = f"http://127.0.0.1:{port}"
        until = time.monotonic() + PATIENCE / 1000
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/api", timeout=5)
                break
            if server.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()}")
            time.sleep(0.2)
        yield f"{address}/lab/tree/{NOTEBOOK}?token={token}"
    finally:
        # It shuts its kernel down, which takes a while where much goes on; a kernel whose server is
        # killed ends by itself.
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def free_port() -> int:
    """One that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


_CONNECTED = """() => {
  const panel = window.jupyterapp?.shell.currentWidget;
  return panel?.sessionContext?.session?.kernel?.status === "idle" && panel.context.isReady;
}"""
_RUN = "() => void jupyterapp.commands.execute('notebook:run-all-cells')"
# Of the cells' models, not of the page: what has not been drawn yet is not forgotten.
_RAN = """() => {
  const cells = [...jupyterapp.shell.currentWidget.content.model.cells];
  const outputs = cells.flatMap((cell) => cell.outputs.toJSON());
  const failed = outputs.find((output) => output.output_type === "error");
  if (failed) return failed.traceback.join("\\n");
  return cells.every((cell) => cell.executionCount) && "done";
}"""
# anywidget gives the code of a widget two seconds to load, and complains of more.
_LOADING = """
const limit = AbortSignal.timeout.bind(AbortSignal);
AbortSignal.timeout = (wait) => limit(wait === 2000 ? %d : wait);
"""
_ASK = """async (code) => {
  const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({ code: "", silent: true, user_expressions: { code } });
  return (await future.done).content.user_expressions.code;
}"""


class Lab:
    """The notebook in a page of a browser, all its cells run.

    Args:
        browser: Playwright's.
        address: Of the notebook.
        width: Of the window.
        listen: Grows by the bytes of each message that the kernel sends.
        loading: Milliseconds that anywidget gives the code of a widget to load.

    Attributes:
        page: Playwright's.
        errors: What the browser's console said went wrong.
    """

    def __init__(
        self,
        browser: Any,
        address: str,
        width: int = 1280,
        listen: list[int] | None = None,
        loading: int = PATIENCE,
    ) -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 1400})
        self.page.set_default_timeout(PATIENCE)
        self.page.add_init_script(_LOADING % loading)
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._hear)
        if listen is not None:
            self.page.on(
                "websocket",
                lambda socket: socket.on("framereceived", lambda data: listen.append(len(data))),
            )
        self.page.goto(address)
        # Where there is no kernel yet, running cells would ask for one, and wait for an answer.
        self.page.wait_for_function(_CONNECTED)
        self.page.evaluate(_RUN)
        ran = self.page.wait_for_function(_RAN).json_value()
        if ran != "done":
            raise RuntimeError(re.sub(r"\x1b\[[\d;]*m", "", ran))

    def _hear(self, message: Any) -> None:
        # JupyterLab looks for files that need not be there, such as a saved workspace.
        if message.type == "error" and "Failed to load resource" not in message.text:
            self.errors.append(message.text)

    def ask(self, expression: str) -> Any:
        """What an expression is in the kernel; texts, numbers, tuples and the like."""
        found = self.page.evaluate(_ASK, expression)
        if found["status"] != "ok":
            raise RuntimeError(f"{expression}: {found['ename']}: {found['evalue']}")
        return ast.literal_eval(found["data"]["text/plain"])

    def wait_for(self, expression: str, expected: Any) -> None:
        """Waits until an expression is as expected in the kernel."""
        until = time.monotonic() + PATIENCE / 1000
        while (found := self.ask(expression)) != expected:
            if time.monotonic() > until:
                raise RuntimeError(f"{expression} is {found!r}, not {expected!r}")
            time.sleep(0.05)

    def theme(self, name: str) -> None:
        """ "Light" or "Dark"."""
        self.page.evaluate(
            "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})",
            f"JupyterLab {name}",
        )
        light = "true" if name == "Light" else "false"
        self.page.wait_for_function(f"document.body.dataset.jpThemeLight === '{light}'")

    def screenshot(self, path: Path, width: int) -> None:
        """Of all cells, in a window of this width that they fit in."""
        self.page.set_viewport_size({"width": width, "height": 1400})
        self.page.wait_for_timeout(300)
        tall = self.page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollHeight")
        self.page.set_viewport_size({"width": width, "height": tall + 200})
        self.page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
        self.page.wait_for_timeout(300)
        self.page.screenshot(path=path)

    def output(self, number: int) -> Any:
        """Where a cell's output is shown."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number).locator(".jp-OutputArea")
