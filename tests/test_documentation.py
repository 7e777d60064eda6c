"""What the documentation says can be done, is done here, in the order of the page.

The blocks of a page share their names, run in an empty folder, and load a model of random weights
in the layout of the bundled one. A block that needs published weights is marked and compiled only.
"""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer
from plotly.basedatatypes import BaseFigure

import emerdiff_probe as ep
from emerdiff_probe import errors, schema
from emerdiff_probe.cli import app

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/*/*.md")])
FENCE = re.compile(
    r"^(?P<mark><!-- needs [a-z ]+ -->\n)?```(?P<kind>\w+)\n(?P<code>.*?)^```", re.M | re.S
)


def blocks(page, kind):
    """The marks and texts of a page's code blocks of a kind, with the lines they begin at."""
    text = page.read_text()
    return [
        (bool(found["mark"]), found["code"], text[: found.start("code")].count("\n"))
        for found in FENCE.finditer(text)
        if found["kind"] == kind
    ]


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def tiny(tiny_folder):
    model = ep.load(tiny_folder)
    model.pipeline.set_progress_bar_config(disable=True)
    return model


# Tasks run with the bundled model, in test_tasks.py.
RUN = [p for p in PAGES if blocks(p, "python") and name_of(p) != "docs/tasks.md"]


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_python_runs(page, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ep, "load", lambda model="playground": tiny)
    monkeypatch.setattr(BaseFigure, "show", lambda figure: None)  # opens a browser
    names = {"__name__": "documentation", "pipe": tiny.pipeline}
    for marked, code, line in blocks(page, "python"):
        # Empty lines before it make line numbers in errors those of the page.
        compiled = compile("\n" * line + code, str(page), "exec")
        if not marked:
            exec(compiled, names)


def test_most_blocks_run():
    marks = [marked for page in PAGES for marked, *_ in blocks(page, "python")]
    assert len(marks) >= 40
    assert sum(marks) < len(marks) / 4


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "sh")], ids=name_of)
def test_commands_are_there(page):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
    group = typer.main.get_command(app)
    for _, code, _ in blocks(page, "sh"):
        for line in code.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                assert words[1] in targets, line
            elif words[:1] == ["emerdiff-probe"]:
                command = group.commands[words[1]]
                command.make_context(words[1], words[2:])  # parses all options; runs nothing
            else:
                assert words[:1] in ([], ["pip"], ["git"], ["cd"]), line


def literals():
    """All texts in the package's code, with ... for what is put in when it runs."""
    for path in (ROOT / "emerdiff_probe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = (getattr(part, "value", None) for part in node.values)
                yield "".join(part if isinstance(part, str) else "..." for part in parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_troubleshooting_has_messages_that_exist_and_every_kind():
    text = (ROOT / "docs/troubleshooting.md").read_text()
    known = list(literals())
    messages = re.findall(r"^### `(.+)`$", text, re.M)
    assert len(messages) > 30
    for message in messages:
        ours = any(message in each for each in known)
        assert ours or message in text.partition("## Not ours")[2], message
    for kind in errors.__all__:
        if kind.endswith("Error"):
            assert kind in text


def test_the_schema_page_has_all_dims_and_variables():
    text = (ROOT / "docs/reference/schema.md").read_text()
    for name, (dims, dtype, _) in schema._SEGMENTATION.items():
        assert f"| `{name}` | `{', '.join(dims)}` | {dtype} |" in text
    values = {name: getattr(schema, name) for name in schema.__all__ if name.isupper()}
    for value in values.values():
        assert re.search(rf"[`\s]{value}[`,]", text), value


def test_every_decision_has_a_number_of_its_own():
    numbers = [path.name[:4] for path in ROOT.glob("docs/decisions/0*.md")]
    assert sorted(numbers) == [f"{number:04}" for number in range(1, len(numbers) + 1)]
