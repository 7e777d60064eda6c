"""Notebooks: what is stored is whole and of this code, and a changed number is noticed."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_output

FOLDER = Path(__file__).parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
RUN = runpy.run_path(str(FOLDER / "run.py"))
digest, readable, WIDGET = RUN["digest"], RUN["readable"], RUN["WIDGET"]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


def test_outputs_are_of_this_code(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.metadata["digest"] == digest(notebook), f"{path.name}: make notebooks"
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {output.output_type for cell in code_cells(notebook) for output in cell.outputs}
    assert "error" not in kinds


def test_a_changed_source_is_noticed(path):
    notebook = nbformat.read(path, as_version=4)
    code_cells(notebook)[-1].source += "\n"
    assert notebook.metadata["digest"] != digest(notebook)


def test_of_widgets_the_static_view_is_kept():
    explorer = {WIDGET: {"model_id": "1"}, "image/png": "", "text/plain": "Inspector()"}
    bar = {WIDGET: {"model_id": "2"}, "text/plain": "HBox()"}
    plain = {"text/plain": "4"}
    shown = [new_output("display_data", data=dict(each)) for each in (explorer, bar, plain)]
    printed = new_output("stream", text="4")
    assert [each.get("data") for each in readable([*shown, printed])] == [
        {"image/png": "", "text/plain": "Inspector()"},
        plain,
        None,
    ]


def test_form(path):
    """Small, without state of widgets, with reasons for what is not compared, and with claims."""
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 2_000_000
    assert "widgets" not in notebook.metadata
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert not any(WIDGET in output.get("data", {}) for output in outputs)
    lines = [line for cell in code_cells(notebook) for line in cell.source.splitlines()]
    assert any(line.startswith("assert ") for line in lines)
    for cell in code_cells(notebook):
        if "nbval-ignore-output" in cell.metadata.get("tags", []):
            assert cell.metadata.get("not_compared"), f"say why this is not compared: {cell.source}"
        if cell.source.count("assert ") > 1:
            assert cell.metadata["jupyter"]["source_hidden"], "fold what is there for tests"


def test_a_question_and_a_figure_come_first(path):
    """What answers the question is in the first screen, and no cell sets up the drawing."""
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.splitlines()[0].endswith("?")
    assert any("image/png" in output.get("data", {}) for output in notebook.cells[1].outputs)
    sources = "\n".join(cell.source for cell in code_cells(notebook))
    assert not {"kaleido", "pio.renderers"} & set(sources.replace(" ", "\n").split())


def test_a_changed_number_fails(tmp_path):
    """The cells of the quickstart that need no model, with their outputs and with one altered."""
    notebook = nbformat.read(FOLDER / "01_quickstart.ipynb", as_version=4)
    setup = new_code_cell(
        "import numpy as np\nimport emerdiff_probe as ep\nscene = ep.scenes.scene(1_000_843)"
    )
    wanted = "print(scene.caption)"
    compared = [cell for cell in code_cells(notebook) if cell.source.startswith(wanted)]
    notebook.cells = [setup, *compared]
    nbformat.write(notebook, tmp_path / "whole.ipynb")
    (output,) = notebook.cells[-1].outputs
    assert "(128, 128, 3)" in output.text
    output.text = output.text.replace("(128, 128, 3)", "(128, 129, 3)")
    nbformat.write(notebook, tmp_path / "altered.ipynb")
    root = FOLDER.parent
    names = ("whole.ipynb", "altered.ipynb")
    flags = f"-q -rA -p no:cacheprovider -c {os.devnull} --rootdir . --nbval --nbval-sanitize-with"
    found = subprocess.run(
        [sys.executable, "-m", "pytest", *flags.split(), FOLDER / "sanitize.cfg", *names],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    lines = found.stdout.splitlines()
    failed = [line for line in lines if line.startswith("FAILED")]
    passed = [line for line in lines if line.startswith("PASSED")]
    assert len(failed) == 1, found.stdout
    assert "altered.ipynb" in failed[0]
    assert len(passed) == 3
