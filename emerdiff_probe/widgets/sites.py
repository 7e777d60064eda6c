"""Choose sites: a tree and a table of what can be recorded, with the size of the choice."""

from __future__ import annotations

import html
from typing import Any, Final

import ipywidgets
import pandas as pd
import traitlets

from emerdiff_probe.errors import SiteError
from emerdiff_probe.sites import PRESETS, Site, select
from emerdiff_probe.store import size_text
from emerdiff_probe.widgets.explorer import styles
from emerdiff_probe.widgets.tree import Tree

__all__ = ["SiteBrowser"]

_ALL: Final = "all"
_ROWS: Final = 200
"""The largest number of rows in the table; a longer one is slow, and nobody reads it."""


class SiteBrowser(ipywidgets.VBox):
    """Choose and filter a model's sites, by ticking branches of a tree or by a pattern.

    The tree's ticks follow the pattern; a click on one writes a new pattern.

    Args:
        model_or_table: A model, whose ``sites()`` are read once, or such a table.
        pattern: The initial pattern; see `emerdiff_probe.sites.select`.

    Attributes:
        pattern: Names separated by commas, with ``*``, ``?`` and ``!``, or a preset; empty for
            none.
        kind: One of the table's kinds, or "all".
        level: One of the table's levels as text, or "all".
        selection: The names of the matching sites, read-only.

    Raises:
        SiteError: The initial pattern matches no site.
    """

    pattern = traitlets.Unicode("*")
    kind = traitlets.Unicode(_ALL)
    level = traitlets.Unicode(_ALL)
    selection = traitlets.Tuple(read_only=True)

    def __init__(self, model_or_table: Any, pattern: str = "*") -> None:
        found = model_or_table.sites() if hasattr(model_or_table, "sites") else model_or_table
        self._table: pd.DataFrame = found
        kinds = [_ALL, *dict.fromkeys(map(str, found["kind"]))]
        levels = [_ALL, *dict.fromkeys(map(str, found["level"]))]
        self._pattern = ipywidgets.Combobox(
            description="pattern",
            options=list(PRESETS),
            # While it is typed, a pattern mostly matches nothing.
            continuous_update=False,
            layout={"width": "460px"},
        )
        self._kind = ipywidgets.Dropdown(description="kind", options=kinds)
        self._level = ipywidgets.Dropdown(description="level", options=levels)
        self._tree = Tree({str(name): int(size) for name, size in found["bytes"].items()})
        self._tree.observe(self._tick, "clicked")
        self._summary = ipywidgets.HTML()
        self._rows = ipywidgets.HTML()
        super().__init__(
            [
                ipywidgets.HBox([self._pattern, self._kind, self._level]),
                self._tree,
                self._summary,
                self._rows,
                styles(),
            ]
        )
        for name in ("pattern", "kind", "level"):
            traitlets.link((self, name), (getattr(self, f"_{name}"), "value"))
        self.observe(self._filter, ["pattern", "kind", "level"])
        self.pattern = pattern
        self._filter()
        if not self.selection:
            self._named()

    @property
    def table(self) -> pd.DataFrame:
        """Return the matching rows."""
        return self._table.loc[list(self.selection)]

    def code(self) -> str:
        """Return the pattern as an argument of `emerdiff_probe.record`; names if a filter is on."""
        if self.kind == self.level == _ALL:
            return f"sites={self.pattern!r}"
        return f"sites={', '.join(self.selection)!r}"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Return the widget, and its table for readers without a kernel."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data is not None:
            data["text/html"] = self._summary.value + self._rows.value
        return bundle

    def _tick(self, change: Any) -> None:
        self.pattern = self._tree.toggled(change["new"]["number"], self._ticked)

    def _named(self) -> list[str]:
        """Return the sites that match the pattern."""
        if not self.pattern:
            return []
        sites = [Site.parse(name) for name in self._table.index]
        return [str(site) for site in select(sites, self.pattern)]

    def _passing(self, names: list[str]) -> list[str]:
        rows = self._table.loc[names]
        for column, wanted in (("kind", self.kind), ("level", self.level)):
            if wanted != _ALL:
                rows = rows[rows[column].astype(str) == wanted]
        return list(rows.index)

    def _filter(self, _: Any = None) -> None:
        self._ticked: list[str] = []
        try:
            self._ticked = self._named()
        except SiteError as error:
            self._tree.show(())
            self.set_trait("selection", ())
            self._summary.value = f'<p class="ep-error">{html.escape(str(error))}</p>'
            self._rows.value = ""
            return
        self._tree.show(self._ticked)
        names = self._passing(self._ticked)
        self.set_trait("selection", tuple(names))
        rows = self._table.loc[names]
        nbytes = int(rows["bytes"].sum())
        more = f"; the first {_ROWS} are shown" if len(names) > _ROWS else ""
        self._summary.value = (
            f"<p><b>{len(names)}</b> of {len(self._table)} sites, <b>{size_text(nbytes)}</b> for "
            f"each sample and timestep{more}</p>"
        )
        shown = rows.head(_ROWS).to_html(border=0)
        self._rows.value = f'<div class="ep-table jp-RenderedHTMLCommon">{shown}</div>'
