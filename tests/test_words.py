"""Keep docstrings, comments and pages in plain English: a short list of words and openings."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "emerdiff_probe"

OTHERS = [
    path
    for folder in ("benchmarks", "docs/site", "notebooks")
    for path in ROOT.glob(f"{folder}/*.py")
]
FILES = sorted([*PACKAGE.rglob("*.py"), *OTHERS])
PAGES = sorted(
    page for page in ROOT.glob("docs/**/*.md") if "results" not in page.relative_to(ROOT).parts
)

WORDS = re.compile(
    r"\b(anew|goes on|likest|nobody knows|has not (a|all|any|both|its|the|this))\b", re.IGNORECASE
)
OPENING = re.compile(r"(Of|What|How)\b")
ARGUMENT = re.compile(r"^\s+[`*\w, ]+: (Of)\b", re.MULTILINE)


def name_of(path):
    return str(path.relative_to(ROOT))


def docstrings(source):
    """The docstrings of a module, and the texts that stand below its names."""
    for node in ast.walk(ast.parse(source)):
        value = getattr(node, "value", None)
        if isinstance(node, ast.Expr) and isinstance(getattr(value, "value", None), str):
            yield ast.get_source_segment(source, value).strip('"')


def faults(text):
    """What is wrong with a docstring."""
    found = [match.group() for match in WORDS.finditer(" ".join(text.split()))]
    found += [match.group(1) for match in [OPENING.match(text.strip())] if match]
    return found + [match.group().strip() for match in ARGUMENT.finditer(text)]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_docstrings_and_comments_are_plain(path):
    source = path.read_text()
    wrong = {text[:60]: faults(text) for text in docstrings(source) if faults(text)}
    assert not wrong
    lines = [line for line in source.splitlines() if WORDS.search(line)]
    assert not lines


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_are_plain(page):
    text = " ".join(page.read_text().split())
    assert not [text[max(0, m.start() - 30) : m.end() + 30] for m in WORDS.finditer(text)]


def test_the_list_finds_what_it_is_for():
    assert faults("What a layer knows.") == ["What"]
    assert faults("Make it\n    anew.") == ["anew"]
    assert faults("Return it.\n\n    Args:\n        seed: Of the noise.\n") == ["seed: Of"]
    assert not faults("Return whether a model knows what it draws.")
    assert any("metrics" in path.parts for path in FILES)
    assert any("guides" in page.parts for page in PAGES)
