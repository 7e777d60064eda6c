"""The files that say which versions are used must not drift apart."""

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(line for extra in extras for line in extra)]
    return dict(requirement.split(">=") for requirement in requirements)


def pins(name):
    lines = (ROOT / "constraints" / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def numbers(version):
    return [int(part) for part in re.findall(r"\d+", version)]


def test_the_lowest_versions_are_the_lower_bounds(bounds):
    assert pins("lowest.txt") == bounds


def test_the_tested_versions_are_pinned_and_no_lower(bounds):
    tested = pins("tested.txt")
    assert bounds.keys() <= tested.keys()
    assert all(numbers(tested[name]) >= numbers(bound) for name, bound in bounds.items())
    assert all(re.fullmatch(r"[0-9][0-9a-z.]*", version) for version in tested.values())


def test_the_citation_is_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {project['version']}\n" in citation
    assert f"license: {project['license']}\n" in citation


def test_what_is_installed_runs_on_the_oldest_python():
    """A pinned version that asks for a later patch of Python breaks the setup of who has not it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    named = {re.sub("[-_.]+", "-", name).lower() for name in pins("tested.txt")}
    refusing = [
        each.metadata["Name"]
        for each in distributions()
        if re.sub("[-_.]+", "-", each.metadata["Name"]).lower() in named
        and oldest not in SpecifierSet(each.metadata.get("Requires-Python") or "")
    ]
    assert refusing == []
