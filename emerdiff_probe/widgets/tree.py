"""Show sites as a tree of modules, whose branches open, and are chosen with all their sites."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import traitlets

from emerdiff_probe.store import size_text
from emerdiff_probe.widgets.hearing import Hearing, code

__all__ = ["Branch", "Tree", "branches_of"]

_HERE: Final = Path(__file__).parent

_STEP: Final = re.compile(r"[^.:]+(?:\.\d+)*|:\w+")
"""The part that a branch adds to its parent: "up_blocks.1", "attentions.0" or ":query"."""


class Branch(NamedTuple):
    """A module, or a port of one.

    Attributes:
        path: The path of the module, or the name of the site.
        label: The part that it adds to its parent.
        depth: The number of branches above it.
        sites: The sites on it and on all branches below it.
    """

    path: str
    label: str
    depth: int
    sites: tuple[str, ...]

    @property
    def patterns(self) -> list[str]:
        """Return patterns for `emerdiff_probe.sites.select` that match exactly these sites."""
        if len(self.sites) == 1:
            return [self.sites[0]]
        ports = any(name.startswith(f"{self.path}:") for name in self.sites)
        modules = any(name.startswith(f"{self.path}.") for name in self.sites)
        return [f"{self.path}:*"] * ports + [f"{self.path}.*:*"] * modules


def branches_of(sites: Sequence[str], above: str = "", depth: int = 0) -> Iterator[Branch]:
    """Yield the branches of sites, each before its children.

    Args:
        sites: The names of sites, in order.
        above: The parent branch.
        depth: The number of branches above.

    >>> found = list(branches_of(["conv_in:out", "mid_block.attn1:query", "mid_block:out"]))
    >>> [(each.depth, each.label) for each in found]
    [(0, 'conv_in:out'), (0, 'mid_block'), (1, 'attn1:query'), (1, ':out')]
    >>> found[1].patterns
    ['mid_block:*', 'mid_block.*:*']
    """
    grown: dict[str, list[str]] = {}
    for name in sites:
        grown.setdefault(_STEP.findall(name)[depth], []).append(name)
    for step, on in grown.items():
        path = f"{above}.{step}" if above and not step.startswith(":") else above + step
        label = on[0].removeprefix(above).removeprefix(".") if len(on) == 1 else step
        yield Branch(path, label, depth, tuple(on))
        if len(on) > 1:
            yield from branches_of(on, path, depth + 1)


class Tree(Hearing):
    """The sites of a model with their sizes, grouped by module.

    Attributes:
        branches: For each branch its ``label``, its ``depth`` and a text on what it ``holds``.
        states: For each branch 0 if none of its sites is chosen, 2 if all are, else 1.
        clicked: The ``number`` of the branch whose box was clicked last, and a ``count`` of clicks.
    """

    _esm = code("tree.js")
    _css = _HERE / "tree.css"

    branches: Any = traitlets.List().tag(sync=True)
    states: Any = traitlets.List().tag(sync=True)
    clicked: Any = traitlets.Dict().tag(sync=True)

    def __init__(self, sites: Mapping[str, int]) -> None:
        self._all = set(sites)
        self._grown = list(branches_of(list(sites)))
        super().__init__(
            branches=[
                {
                    "label": each.label,
                    "depth": each.depth,
                    "holds": _holds([sites[name] for name in each.sites]),
                }
                for each in self._grown
            ]
        )
        self.show(())

    def show(self, chosen: Collection[str]) -> None:
        """Tick the branches whose sites are all chosen, and half-tick those with some chosen."""
        chosen = set(chosen)
        counts = [(len(chosen.intersection(each.sites)), len(each.sites)) for each in self._grown]
        self.states = [2 if some == every else int(some > 0) for some, every in counts]

    def toggled(self, number: int, chosen: Collection[str]) -> str:
        """Return the pattern with a branch toggled: removed if all of it was chosen, else added.

        Args:
            number: The number of the branch.
            chosen: The names of the chosen sites.
        """
        own = set(self._grown[number].sites)
        left = set(chosen) - own if own.issubset(chosen) else own.union(chosen)
        wanted, others = (self._patterns(names) for names in (left, self._all - left))
        if left and len(others) < len(wanted):
            return ", ".join(["*", *(f"!{other}" for other in others)])
        return ", ".join(wanted)

    def _patterns(self, names: set[str]) -> list[str]:
        """Return the patterns of the largest branches that make up some sites."""
        left, found = set(names), []
        for each in self._grown:
            if left.issuperset(each.sites):
                left.difference_update(each.sites)
                found += each.patterns
        return found


def _holds(sizes: list[int]) -> str:
    sites = f"{len(sizes)} sites, " if len(sizes) > 1 else ""
    return f"{sites}{size_text(sum(sizes))}"
