"""Write the pages of the API reference: one for each room, in the order in which rooms import.

The page of a room has every name of its ``__all__``, grouped by the module that defines it, under
the name by which it is imported. Pages are written to docs/reference/api when a build begins.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer

import emerdiff_probe as ep

PACKAGE: Final = "emerdiff_probe"

ROOMS: Final = (
    ("errors", "Errors"),
    ("sites", "Sites"),
    ("schema", "Schema"),
    ("kinds", "Kinds of datasets"),
    ("inputs", "Inputs"),
    ("store", "Store"),
    ("scenes", "Scenes"),
    ("metrics", "Metrics"),
    ("layers", "Layers"),
    ("segments", "Segments"),
    ("responses", "Responses"),
    ("views", "Views"),
    ("exports", "Exports"),
    ("widgets", "Widgets"),
    ("accessors", "Accessors"),
    ("models", "Models"),
    ("taps", "Taps"),
    ("runs", "Runs"),
    ("recording", "Recording"),
    ("recording.reducers", "Reducers"),
    ("interventions", "Interventions"),
    ("emerdiff", "EmerDiff"),
    ("evaluation", "Evaluation"),
    ("distributed", "Distributed"),
)

# NumPy's types, as Sphinx spells them out and as the source writes them.
NUMPY: Final = r"~?(?:numpy\.)?"
SPELLED: Final = (
    (
        rf"{NUMPY}ndarray\[tuple\[~?(?:typing\.)?Any, \.\.\.\], {NUMPY}dtype\[([^\]]+)\]\]",
        r"NDArray[\1]",
    ),
    (r"~?(?:numpy\._typing\._array_like\.)?_Buffer \| .*?complex \| bytes \| str\]", "ArrayLike"),
)


def write_pages(app: Sphinx) -> None:
    """Write the page of the package's top level, and one for each room."""
    folder = Path(app.srcdir) / "docs" / "reference" / "api"
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"index": "\n".join(_face())} | {
        room: "\n".join(_page(f"{PACKAGE}.{room}", title)) for room, title in ROOMS
    }
    for name, text in pages.items():
        path = folder / f"{name}.rst"
        if not path.exists() or path.read_text() != text:  # an unchanged page is not read again
            path.write_text(text)


def _face() -> Iterator[str]:
    yield from _heading("API reference", "=")
    yield "All that ``import emerdiff_probe as ep`` gives, and the rooms that hold the rest."
    yield ""
    yield from (".. list-table::", "   :widths: 30 70", "")
    homes = {name: f"{PACKAGE}.{room}" for room, _ in ROOMS for name in _module(room).__all__}
    elsewhere = []
    for name in ep.__all__:
        thing = getattr(ep, name)
        if isinstance(thing, ModuleType):
            link = f":doc:`ep.{name} <{thing.__name__.removeprefix(f'{PACKAGE}.')}>`"
        else:
            own = thing.__name__
            home = homes.get(own, PACKAGE)
            if home == PACKAGE:
                elsewhere.append(name)
            kind = "class" if inspect.isclass(thing) else "func"
            if inspect.isclass(thing) and issubclass(thing, Exception):
                kind = "exc"
            link = f":py:{kind}:`ep.{name} <{home}.{own}>`"
        yield f"   * - {link}"
        yield f"     - {(inspect.getdoc(thing) or '').splitlines()[0]}"
    yield ""
    for name in elsewhere:
        yield from (f".. autofunction:: {PACKAGE}.{name}", "")
    yield from _heading("Rooms", "-")
    yield from (".. toctree::", "   :maxdepth: 1", "")
    yield from (f"   {room}" for room, _ in ROOMS)
    yield ""


def _page(module: str, title: str) -> Iterator[str]:
    yield from _heading(title, "=")
    yield from (f".. automodule:: {module}", "   :no-members:", "")
    for source, names in _groups(importlib.import_module(module)).items():
        if source != module:
            first = (inspect.getdoc(importlib.import_module(source)) or "").splitlines()[0]
            yield from _heading(first.rstrip("."), "-")
        for name in names:
            yield from _directive(module, source, name)


def _groups(module: ModuleType) -> dict[str, list[str]]:
    """Return a module's public names by their defining module, in the order of its imports."""
    order = [name for name in _imported(module.__name__) if name in module.__all__]
    groups: dict[str, list[str]] = {}
    for name in [*order, *(each for each in module.__all__ if each not in order)]:
        if not isinstance(getattr(module, name), ModuleType):
            groups.setdefault(_origin(module.__name__, name), []).append(name)
    return groups


def _origin(module: str, name: str) -> str:
    source = _imported(module).get(name)
    return _origin(source, name) if source else module


@cache
def _imported(module: str) -> dict[str, str]:
    """Return what a package's ``__init__`` imports from within, and from where; empty for a module.

    Names that are imported under another name are omitted.
    """
    file = Path(importlib.import_module(module).__file__ or "")
    if file.name != "__init__.py":
        return {}
    nodes = [each for each in ast.parse(file.read_text()).body if isinstance(each, ast.ImportFrom)]
    return {
        each.name: str(node.module)
        for node in nodes
        if (node.module or "").startswith(f"{PACKAGE}.")
        for each in node.names
        if each.asname is None
    }


def _directive(module: str, source: str, name: str) -> Iterator[str]:
    thing = getattr(importlib.import_module(module), name)
    if inspect.isclass(thing) and issubclass(thing, Exception):
        yield f".. autoexception:: {module}.{name}"
    elif inspect.isclass(thing):
        yield f".. autoclass:: {module}.{name}"
    elif inspect.isfunction(thing):
        yield f".. autofunction:: {module}.{name}"
    elif ("", name) in ModuleAnalyzer.for_module(source).find_attr_docs():
        # The documentation of a constant stands where it is defined.
        yield from (f".. autodata:: {source}.{name}", "   :no-value:")
    else:
        yield from (f".. py:currentmodule:: {module}", "")
        yield from (f".. py:data:: {name}", f"   :value: {thing!r}")
    yield ""


def _module(room: str) -> ModuleType:
    return importlib.import_module(f"{PACKAGE}.{room}")


def _heading(text: str, line: str) -> tuple[str, str, str]:
    return (text, line * len(text), "")


def shorten(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str, returns: str
) -> tuple[str | None, str | None]:
    """Shorten NumPy's types in signatures to the way the source writes them."""
    return _short(signature), _short(returns)


def _short(text: str | None) -> str | None:
    for spelled, short in SPELLED:
        text = re.sub(spelled, short, text) if text else text
    return text


def find_home(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, contnode: nodes.Element
) -> nodes.Element | None:
    """Link ``emerdiff_probe.load`` to the room that defines it."""
    package, _, name = node.get("reftarget", "").rpartition(".")
    if node.get("refdomain") != "py" or package != PACKAGE or name not in ep.__all__:
        return None
    thing = getattr(ep, name)
    own = getattr(thing, "__name__", name)
    homes = [room for room, _ in ROOMS if own in _module(room).__all__]
    if not homes or isinstance(thing, ModuleType):
        return None
    return env.domains.python_domain.resolve_xref(
        env,
        node["refdoc"],
        app.builder,
        node["reftype"],
        f"{PACKAGE}.{homes[0]}.{own}",
        node,
        contnode,
    )


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect the extension; Sphinx calls this."""
    app.connect("missing-reference", find_home)
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
