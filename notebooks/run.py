"""Run notebooks and store their outputs: `python notebooks/run.py notebooks/*.ipynb`.

Outputs that a reader cannot use are removed: the state and progress bars of widgets, and clock
times. A widget with a static view keeps that view. A digest of the code is stored beside the
outputs, by which a test checks that they belong to this code.
"""

from __future__ import annotations

import argparse
import hashlib
import re
from pathlib import Path
from typing import Final

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

WIDGET: Final = "application/vnd.jupyter.widget-view+json"
STATIC: Final = {"image/png", "text/html"}
STARTUP: Final = Path(__file__).with_name("startup.py").resolve()
FOLDER: Final = re.compile(r"(?m)^/\S*/(?=[^/\s]+:\d+: \w*Warning)")


def digest(notebook: NotebookNode) -> str:
    """Return a digest of the sources of all code cells, in order."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.blake2b("\0".join(sources).encode(), digest_size=16).hexdigest()


def readable(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Return outputs without those that need a kernel; a widget keeps its static view, if any."""
    kept = []
    for output in outputs:
        if "text" in output:
            # Warnings name a file of this machine, whose folder is of no use to a reader.
            output["text"] = FOLDER.sub("", output["text"])
        data = output.get("data", {})
        if data.pop(WIDGET, None) is None or STATIC & data.keys():
            kept.append(output)
    return kept


def run(path: Path) -> None:
    """Run a notebook in a new kernel and write it back with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=1800,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,
        extra_arguments=[f"--IPKernelApp.exec_files={STARTUP}"],
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = readable(cell.outputs)
    notebook.metadata["digest"] = digest(notebook)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Run notebooks and store their outputs.")
    parser.add_argument("notebooks", nargs="+", type=Path)
    for each in parser.parse_args().notebooks:
        run(each)
