"""Walking through a recording: a site's maps by timestep, and what is like the places clicked."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import ipywidgets
import numpy as np
import plotly.graph_objects as go
import traitlets
import xarray as xr

from emerdiff_probe import analysis, store, views
from emerdiff_probe.errors import InputError, SiteError, closest
from emerdiff_probe.schema import GUIDANCE, HEAD, RGB, SAMPLE, TIMESTEP, X, Y
from emerdiff_probe.views.colours import DIVERGING, SEQUENTIAL, shaded
from emerdiff_probe.views.maps import (
    chosen_sites,
    chosen_timesteps,
    magnitude,
    one_channel,
    places,
)
from emerdiff_probe.views.panels import site_text
from emerdiff_probe.widgets.parts import Explorer
from emerdiff_probe.widgets.picture import Picture

__all__ = ["Inspector"]

_SHOWS: Final = ("magnitude", "colours", "channel")
_FORMATS: Final = (".html", ".svg", ".png", ".pdf")
_EACH: Final = "all"


class Inspector(Explorer):
    """A recording by site and timestep; click a place to see what is like it.

    Beside the picture it shows a map of the site, and with a point the cosine similarity to it in
    this layer and in the layers recorded before and after. With the shift key a click pins a point,
    too. All state is in traits, which can be set and observed from code.

    Args:
        run: A recording, in memory or opened.
        state: Traits to begin with.

    Attributes:
        site: Name of a site that has places.
        timestep: One that was recorded.
        point: The place, (y, x) in pixels of the picture; empty without one.
        pins: Further places, of each of which the similarity in this layer is shown.
        show: "magnitude", "colours" (principal components over places at this timestep), or
            "channel".
        channel: Number of the channel.
        head: Number of a head; -1 for all.
        sample: Position of the sample.
        guidance: Half of a guided recording; empty without guidance.

    Raises:
        SiteError: The recording has no such site.
        InputError: Another value that the recording does not have.
    """

    site = traitlets.Unicode()
    timestep = traitlets.Int()
    point = traitlets.Tuple()
    pins = traitlets.Tuple()
    show = traitlets.Enum(_SHOWS, "magnitude")
    channel = traitlets.Int(0)
    head = traitlets.Int(-1)
    sample = traitlets.Int(0)
    guidance = traitlets.Unicode("")

    def __init__(self, run: xr.DataTree, **state: Any) -> None:
        self._run = run
        self._sites = chosen_sites(run, "*")
        root = run.to_dataset()
        self._steps = [int(each) for each in root[TIMESTEP].values]
        self._halves = root[GUIDANCE].values.tolist() if GUIDANCE in root.coords else [""]
        self._images = store.site(run, store.IMAGE)
        self._kept: tuple[tuple[Any, ...], xr.DataArray] | None = None
        self._ready = False
        self._picture = Picture()
        self._map = Picture()
        self._likeness = [Picture(layout={"display": "none"}) for _ in range(3)]
        self._of_pins: list[Picture] = []
        controls = self._controls()
        super().__init__(controls, [self._picture, self._map, *self._likeness])
        first = {"site": self._sites[0], "timestep": self._steps[-1], "guidance": self._halves[-1]}
        for name, value in {**first, **state}.items():
            if name not in self._own():
                raise InputError(f"no trait {name!r}; {closest(name, self._own())}")
            setattr(self, name, value)
        self._link()
        for each in self.pictures:
            each.observe(self._clicked, "clicked")
        self._ready = True
        self._draw()
        self.observe(self._draw, self._own())

    @staticmethod
    def _own() -> list[str]:
        return ["site", "timestep", "point", "pins", "show", "channel", "head", "sample",
                "guidance"]  # fmt: skip

    def _controls(self) -> list[ipywidgets.Widget]:
        narrow, wide = {"width": "150px"}, {"width": "420px"}
        self._menus = {
            "site": ipywidgets.Dropdown(
                description="site",
                options=[(site_text(name), name) for name in self._sites],
                layout=wide,
            ),
            "timestep": ipywidgets.SelectionSlider(
                description="timestep", options=self._steps, layout=wide
            ),
            "show": ipywidgets.Dropdown(
                description="show", options=_SHOWS, layout={"width": "200px"}
            ),
            "channel": ipywidgets.BoundedIntText(description="channel", layout=narrow),
            "head": ipywidgets.Dropdown(description="head", options=[(_EACH, -1)], layout=narrow),
            "sample": ipywidgets.BoundedIntText(
                description="sample", max=self._images.sizes[SAMPLE] - 1, layout=narrow
            ),
            "guidance": ipywidgets.Dropdown(
                description="guidance", options=self._halves, layout={"width": "200px"}
            ),
        }
        self._play = ipywidgets.Play(max=len(self._steps) - 1, interval=600)
        self._clear = ipywidgets.Button(description="clear points", layout={"width": "120px"})
        self._clear.on_click(lambda _: self.set(point=(), pins=()))
        if len(self._halves) == 1:
            self._menus["guidance"].layout.display = "none"
        first, slider, *rest = self._menus.values()
        return [first, ipywidgets.HBox([slider, self._play]), *rest, self._clear]

    def _link(self) -> None:
        self._fit_menus()
        for name, menu in self._menus.items():
            traitlets.link((self, name), (menu, "value"))
        traitlets.link((self._menus["timestep"], "index"), (self._play, "value"))

    def set(self, **state: Any) -> None:
        """Sets several traits and draws once."""
        self._ready = False
        try:
            for name, value in state.items():
                setattr(self, name, value)
        finally:
            self._ready = True
            self._draw()

    @traitlets.validate("site")
    def _known_site(self, proposal: Any) -> str:
        name = str(proposal["value"])
        if name not in self._sites:
            name = f"{name}:out" if f"{name}:out" in self._sites else name
        if name not in self._sites:
            raise SiteError(f"no site {name!r} here that has places; {closest(name, self._sites)}")
        return name

    @traitlets.validate("timestep")
    def _known_timestep(self, proposal: Any) -> int:
        return chosen_timesteps(self._run, [proposal["value"]])[0]

    @traitlets.validate("point")
    def _place(self, proposal: Any) -> tuple[float, ...]:
        return self._inside(proposal["value"]) if proposal["value"] else ()

    @traitlets.validate("pins")
    def _places(self, proposal: Any) -> tuple[tuple[float, ...], ...]:
        return tuple(self._inside(each) for each in proposal["value"])

    @traitlets.validate("sample")
    def _known_sample(self, proposal: Any) -> int:
        count = self._images.sizes[SAMPLE]
        if not 0 <= proposal["value"] < count:
            raise InputError(f"sample is {proposal['value']}; choose 0 to {count - 1}")
        return int(proposal["value"])

    @traitlets.validate("guidance")
    def _known_half(self, proposal: Any) -> str:
        if proposal["value"] not in self._halves:
            halves = ", ".join(map(repr, self._halves))
            raise InputError(f"guidance is {proposal['value']!r}; choose one of {halves}")
        return str(proposal["value"])

    def _inside(self, place: Any) -> tuple[float, ...]:
        height, width = self._extent()
        if len(place) != 2 or not (0 <= place[0] <= height and 0 <= place[1] <= width):
            raise InputError(
                f"{tuple(place)} is no place (y, x) in a picture of {height} x {width} pixels"
            )
        return tuple(map(float, place))

    def _extent(self) -> tuple[int, int]:
        return self._images.sizes[Y], self._images.sizes[X]

    def _clicked(self, change: Any) -> None:
        place = change["new"]["y"], change["new"]["x"]
        if change["new"]["shift"]:
            self.pins = (*self.pins, place)
        else:
            self.point = place

    def _values(self, name: str) -> xr.DataArray:
        """Places of a site at this timestep: (y, x, channel); of this layer kept in memory."""
        key = (name, self.timestep, self.sample, self.guidance, self.head)
        if self._kept and self._kept[0] == key:
            return self._kept[1]
        recorded = store.site(self._run, name).sel({TIMESTEP: self.timestep})
        heads = recorded.sizes.get(HEAD, 0)
        values = places(
            recorded,
            sample=self.sample,
            guidance=self.guidance if GUIDANCE in recorded.dims else None,
            head=self.head if heads and self.head >= 0 else None,
        ).load()
        if name == self.site:
            self._kept = key, values
        return values

    def _fit_menus(self) -> None:
        """Channels and heads of this site; what another had and this has not goes back."""
        sizes = store.site(self._run, self.site).sizes
        heads = sizes.get(HEAD, 0)
        head = self.head if self.head < heads else -1
        options = ((_EACH, -1), *((str(number), number) for number in range(heads)))
        if self._menus["head"].options != options:
            # This takes the menu, and what it is linked to, back to its first option.
            self._menus["head"].options = options
        self.head = head
        self._menus["head"].layout.display = None if heads else "none"
        channels = sizes["channel"] * (heads if heads and self.head < 0 else 1)
        self._menus["channel"].max = channels - 1
        self.channel = min(self.channel, channels - 1)
        self._menus["channel"].layout.display = None if self.show == "channel" else "none"

    def _draw(self, change: Any = None) -> None:
        if not self._ready:
            return
        with self.working(f"reading {site_text(self.site)}"):
            self._ready = False
            try:
                self._fit_menus()
            finally:
                self._ready = True
            extent = self._extent()
            marks = [list(each) for each in (*([self.point] if self.point else []), *self.pins)]
            common = {"marks": marks, "cursor": list(self.point)}
            shown = self._images.isel({SAMPLE: self.sample}).transpose(Y, X, RGB).values
            self._picture.show(shown, extent, caption="picture", grid=list(extent), **common)
            values = self._values(self.site)
            pixels, what = self._painted(values)
            caption = f"{site_text(self.site)}, t = {self.timestep}: {what}"
            self._map.show(pixels, extent, caption=caption, grid=list(pixels.shape[:2]), **common)
            self._draw_likeness(common)

    def _painted(self, values: xr.DataArray) -> tuple[Any, str]:
        if self.show == "colours":
            colours = analysis.principal_colours(values)[0]
            pixels = np.rint(colours.transpose(Y, X, RGB).values * 255).astype(np.uint8)
            share = sum(colours.attrs["share"])
            return pixels, f"principal colours, {share:.0%} of the variance"
        one = magnitude(values) if self.show == "magnitude" else one_channel(values, self.channel)
        numbers = one.transpose(Y, X).values
        low, high = float(numbers.min()), float(numbers.max())
        ends = f"{one.name}, {low:.3g} (dark) to {high:.3g} (light)"
        if low < 0 < high:
            high = max(-low, high)
            low, ends = -high, f"{one.name}, {-high:.3g} (blue) to {high:.3g} (red)"
        return shaded(numbers, low, high, DIVERGING if low < 0 < high else SEQUENTIAL), ends

    def _draw_likeness(self, common: dict[str, Any]) -> None:
        neighbours = self._neighbours() if self.point else []
        wanted = [(name, self.point, "") for name in neighbours]
        wanted += [
            (self.site, pin, f" to place {number}")
            for number, pin in enumerate(self.pins, start=1 + bool(self.point))
        ]
        row = self.children[-1]
        while len(self._likeness) < len(wanted):
            more = Picture()
            more.observe(self._clicked, "clicked")
            self._likeness.append(more)
        self.pictures = (self._picture, self._map, *self._likeness)
        if row.children != self.pictures:
            row.children = self.pictures
        for number, each in enumerate(self._likeness):
            if number >= len(wanted):
                each.layout.display = "none"
                each.png = b""
                continue
            name, (y, x), which = wanted[number]
            likeness = analysis.similarity_to_point(self._values(name), y, x)[0]
            alike = likeness.transpose(Y, X).values
            low = float(alike.min())
            each.show(
                shaded(alike, low, 1.0),
                self._extent(),
                caption=f"{site_text(name)}: cosine similarity{which}, {low:.2f} (dark) to 1",
                grid=list(alike.shape),
                **common,
            )
            each.layout.display = None

    def _neighbours(self) -> list[str]:
        """This site and those recorded before and after it."""
        at = self._sites.index(self.site)
        return [self.site, *self._sites[max(at - 1, 0) : at], *self._sites[at + 1 : at + 2]]

    def figure(self) -> go.Figure:
        """The present view as a plotly figure: the similarity where there is a point, else maps."""
        guidance = self.guidance or None
        has_heads = HEAD in store.site(self._run, self.site).dims
        common: dict[str, Any] = {"sample": self.sample, "guidance": guidance}
        if self.point:
            y, x = self.point
            sites = self._neighbours()
            return views.similarity(self._run, sites, self.timestep, y=y, x=x, **common)
        show: Any = self.channel if self.show == "channel" else self.show
        head = self.head if has_heads and self.head >= 0 else None
        return views.layers(self._run, [self.site], [self.timestep], show=show, head=head, **common)

    def save(self, path: str | Path) -> Path:
        """Writes `figure` to a file: HTML that needs no network, SVG, PNG or PDF by its ending.

        Raises:
            InputError: Another ending.
        """
        path = Path(path)
        if path.suffix not in _FORMATS:
            raise InputError(f"'{path}' ends in none of {', '.join(_FORMATS)}")
        if path.suffix == ".html":
            self.figure().write_html(path, include_plotlyjs=True)
        else:
            self.figure().write_image(path, scale=2)
        return path

    def code(self, run: str = "run") -> str:
        """The cell that makes the present view again.

        Args:
            run: Name of the recording in it.
        """
        usual = {"point": (), "pins": (), "show": "magnitude", "channel": 0, "head": -1,
                 "sample": 0, "guidance": self._halves[-1]}  # fmt: skip
        state = {name: getattr(self, name) for name in self._own()}
        lines = [f"    {name}={value!r}," for name, value in state.items()
                 if name not in usual or value != usual[name]]  # fmt: skip
        return "\n".join([f"ep.widgets.Inspector(\n    {run},", *lines, ")"])
