"""The gallery has every figure of the notebooks, by the name of the page with the live one."""

import base64
import importlib
import json

import pytest

from tests.test_documentation import ROOT

NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


@pytest.fixture
def site(monkeypatch):
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(str(ROOT / "docs/site"))
    return importlib.import_module


def test_figures_have_their_pages(site):
    for notebook in NOTEBOOKS:
        title, found = site("gallery").shown(notebook)
        assert title != notebook.stem
        assert found, notebook.stem
        pages = {name[:16] for name in site("figures").figures(notebook)}
        assert {each.name for each in found} <= pages


def test_a_figure_is_shown_with_the_line_that_drew_it(site, tmp_path):
    def output(picture):
        data = {
            "application/vnd.plotly.v1+json": {},
            "image/png": base64.b64encode(picture).decode(),
        }
        return [{"data": data}]

    cells = [
        {"cell_type": "markdown", "source": ["# What?\n", "It is."]},
        {
            "cell_type": "code",
            "source": ["a = 1\n", "draw(\n", "    a\n", ")"],
            "outputs": output(b"1"),
        },
        {"cell_type": "code", "source": ["ep.views.table(a)"], "outputs": output(b"2")},
        {"cell_type": "code", "source": ["# nothing"], "outputs": [{"text": "3"}]},
    ]
    notebook = tmp_path / "one.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    title, found = site("gallery").shown(notebook)
    assert (title, [(each.picture, each.code) for each in found]) == (
        "What?",
        [(b"1", "draw( a )")],
    )
