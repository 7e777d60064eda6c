"""The tasks of the documentation run with the bundled model, and are as short as they say."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tests.test_documentation import ROOT, blocks

PAGE = ROOT / "docs/tasks.md"
LONGEST = 5


def test_each_task_has_at_most_five_lines():
    first, *tasks = [code for _, code, _ in blocks(PAGE, "python")]
    assert "ep.load" in first
    assert len(tasks) == 8
    for code in tasks:
        assert len([line for line in code.splitlines() if line.strip()]) <= LONGEST, code


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The names that the page leaves behind, and the folder that it wrote to."""
    folder = tmp_path_factory.mktemp("tasks")
    names = {"__name__": "tasks"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for _, code, line in blocks(PAGE, "python"):
            exec(compile("\n" * line + code, str(PAGE), "exec"), names)
    return names, folder


def test_they_give_what_they_say(done):
    names, folder = done
    assert names["knows"].dims == ("site", "timestep")
    assert names["knows"].max() > 0.1  # some layer knows more than chance
    assert names["word"].dims == ("sample", "guidance", "timestep", "y", "x")
    assert 0 < float(names["word"].mean()) < 1
    assert names["where"].dims == ("timestep", "y", "x")
    assert float(names["where"].mean()) > 0
    assert not np.array_equal(names["house"].picture, names["without"].picture)
    assert isinstance(names["table"], pd.DataFrame)
    assert names["table"].shape == names["tensors"]["mid_block:out"].shape[1:]
    assert names["scores"].accuracy > names["scores"].control
    assert np.allclose(np.diag(names["cka"]), 1)
    labels = np.asarray(Image.open(folder / "segments.png"))
    assert labels.shape == names["images"][0].shape[:2]
    annotations = json.loads((folder / "segments.json").read_text())["annotations"]
    assert len(annotations) == len(np.unique(labels))


def test_every_link_of_llms_txt_leads_to_a_page():
    text = (ROOT / "docs/site/extra/llms.txt").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert len(links) > 15
    made = {"docs/reference/api/index.html"}  # by docs/site/api.py
    for link in set(links) - made:
        source = ROOT / link
        assert source.with_suffix(".md").exists() or source.with_suffix(".ipynb").exists(), link
