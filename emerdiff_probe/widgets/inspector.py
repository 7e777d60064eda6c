"""Walking through a recording: a site's maps by timestep, and what is like the places clicked."""

from __future__ import annotations

from typing import Any, Final

import ipywidgets
import plotly.graph_objects as go
import traitlets
import xarray as xr

from emerdiff_probe import store, views
from emerdiff_probe.errors import InputError, SiteError, closest
from emerdiff_probe.layers import principal_colours, similarity_to_point
from emerdiff_probe.schema import GUIDANCE, HEAD, RGB, SAMPLE, TIMESTEP, X, Y
from emerdiff_probe.timesteps import labels, one_position, positions, same, steps_of
from emerdiff_probe.views.colours import DIVERGING, SEQUENTIAL
from emerdiff_probe.views.maps import (
    chosen_sites,
    endings,
    extent,
    magnitude,
    one_channel,
    places,
)
from emerdiff_probe.views.panels import as_bytes, png, site_text
from emerdiff_probe.widgets.explorer import Explorer
from emerdiff_probe.widgets.picture import Picture, map_file

__all__ = ["Inspector"]

_SHOWS: Final = ("magnitude", "colours", "channel")
_EACH: Final = "all"
_KEPT: Final = 4
"""Maps in memory: of a site and of those before and after it, which each click asks for."""


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
        step: Number of the call in its run, which tells apart those at the same timestep. With
            either of both the other changes.
        point: The place, (y, x) in pixels of the picture; empty without one.
        pins: Further places, of each of which the similarity in this layer is shown.
        show: "magnitude", "colours" (principal components over places at this timestep), or
            "channel".
        channel: Number of the channel.
        head: Number of a head; -1 for all.
        sample: Position of the sample.
        guidance: Half of a guided recording; empty without guidance.
        sites, timesteps: That can be chosen.
        extent: Height and width of the pictures.

    Raises:
        SiteError: The recording has no such site.
        InputError: Another value that the recording does not have.
    """

    site = traitlets.Unicode()
    timestep = traitlets.Any()
    step = traitlets.CInt()
    point = traitlets.Tuple()
    pins = traitlets.Tuple()
    show = traitlets.Enum(_SHOWS, "magnitude")
    channel = traitlets.CInt(0)
    head = traitlets.CInt(-1)
    sample = traitlets.CInt(0)
    guidance = traitlets.Unicode("")

    def __init__(self, run: xr.DataTree, **state: Any) -> None:
        run = store.with_samples(run)
        self._run = run
        self.sites = chosen_sites(run, "*")
        root = run.to_dataset()
        self.timesteps = root[TIMESTEP].values.tolist()
        self._calls = root
        self._steps = steps_of(self._calls)
        self._halves = root[GUIDANCE].values.tolist() if GUIDANCE in root.dims else [""]
        self._images = endings(run)
        self.extent = extent(self._images)
        self._kept: dict[tuple[Any, ...], xr.DataArray] = {}
        self._drawn: dict[int, bytes] = {}
        self._painted_last: tuple[tuple[Any, ...], tuple[bytes, str]] | None = None
        self._ready = False
        self._picture = Picture()
        self._map = Picture()
        self._likeness = [Picture(layout={"display": "none"}) for _ in range(3)]
        self._of_pins: list[Picture] = []
        controls = self._controls()
        pictures = [self._picture, self._map, *self._likeness]
        # Site and timestep are always told.
        usual = {"site": None, "timestep": None, "step": None, "point": (), "pins": (),
                 "show": "magnitude", "channel": 0, "head": -1, "sample": 0,
                 "guidance": self._halves[-1]}  # fmt: skip
        super().__init__(controls, pictures, usual=usual, names=("run",))
        first = {
            "site": self.sites[0],
            "timestep": self.timesteps[-1],
            "step": self._steps[-1],
            "guidance": self._halves[-1],
        }
        if "timestep" in state and "step" not in state:
            # Of a timestep that was visited twice the first call.
            first["step"] = self._steps[positions(self._calls, [state["timestep"]])[0]]
        elif "step" in state:
            first["timestep"] = self.timesteps[self._position(state["step"])]
        self.begin(**{**first, **state})
        self.observe(self._follow, ["timestep", "step"])
        self._link()
        for each in self.pictures:
            each.observe(self._clicked, "clicked")
        self._ready = True
        self._draw()
        self.observe(self._draw, list(self.usual))

    def _controls(self) -> list[ipywidgets.Widget]:
        narrow, wide = {"width": "150px"}, {"width": "420px"}
        self._menus = {
            "site": ipywidgets.Dropdown(
                description="site",
                options=[(site_text(name), name) for name in self.sites],
                layout=wide,
            ),
            "step": ipywidgets.SelectionSlider(
                description="timestep",
                options=list(zip(labels(self._calls), self._steps, strict=True)),
                layout=wide,
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
        self._play = ipywidgets.Play(max=len(self.timesteps) - 1, interval=600)
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
        traitlets.link((self._menus["step"], "index"), (self._play, "value"))

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
        if name not in self.sites:
            name = f"{name}:out" if f"{name}:out" in self.sites else name
        if name not in self.sites:
            raise SiteError(f"no site {name!r} here that has places; {closest(name, self.sites)}")
        return name

    @traitlets.validate("timestep")
    def _known_timestep(self, proposal: Any) -> float:
        return self.timesteps[positions(self._calls, [proposal["value"]])[0]]

    @traitlets.validate("step")
    def _known_step(self, proposal: Any) -> int:
        return self._steps[self._position(proposal["value"])]

    def _position(self, step: Any) -> int:
        """Where a call is along the dim ``timestep``."""
        return one_position(self._calls, step=step)

    def state(self) -> dict[str, Any]:
        """The traits that are not as usual; the step where the timestep does not tell it."""
        found = super().state()
        if self.timesteps.count(self.timestep) == 1:
            del found["step"]
        return found

    def has_call(self, timestep: float, step: int) -> bool:
        """Return whether the recording has this timestep at this step."""
        return step in self._steps and same(self.timesteps[self._steps.index(step)], timestep)

    def _follow(self, change: Any) -> None:
        """Keeps timestep and step at one call."""
        ready, self._ready = self._ready, False
        try:
            if change["name"] == "step":
                self.timestep = self.timesteps[self._position(self.step)]
            elif self.timesteps[self._position(self.step)] != self.timestep:
                self.step = self._steps[self.timesteps.index(self.timestep)]
        finally:
            self._ready = ready

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
        height, width = self.extent
        if len(place) != 2 or not (0 <= place[0] <= height and 0 <= place[1] <= width):
            raise InputError(
                f"{tuple(place)} is no place (y, x) in a picture of {height} x {width} pixels"
            )
        return tuple(map(float, place))

    def _clicked(self, change: Any) -> None:
        place = change["new"]["y"], change["new"]["x"]
        if change["new"]["shift"]:
            self.pins = (*self.pins, place)
        else:
            self.point = place

    def _values(self, name: str) -> xr.DataArray:
        """Places of a site at this timestep: (y, x, channel); the last few are kept in memory."""
        key = (name, self.step, self.sample, self.guidance, self.head)
        if key in self._kept:
            return self._kept[key]
        recorded = store.site(self._run, name).isel({TIMESTEP: self._position(self.step)})
        heads = recorded.sizes.get(HEAD, 0)
        values = places(
            recorded,
            sample=self.sample,
            guidance=self.guidance if GUIDANCE in recorded.dims else None,
            head=self.head if heads and self.head >= 0 else None,
        ).load()
        if len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = values
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
            marks = [list(each) for each in (*([self.point] if self.point else []), *self.pins)]
            common = {"marks": marks, "cursor": list(self.point)}
            common["extent"] = list(self.extent)
            self._picture.show(
                image=self._image(self.sample),
                caption="picture",
                grid=[self._images.sizes[Y], self._images.sizes[X]],
                **common,
            )
            values = self._values(self.site)
            image, what = self._kept_map(values)
            when = labels(self._calls, [self._position(self.step)])[0]
            caption = f"{site_text(self.site)}, t = {when}: {what}"
            grid = [values.sizes[Y], values.sizes[X]]
            self._map.show(image=image, caption=caption, grid=grid, **common)
            self._draw_likeness(common)

    def _image(self, sample: int) -> bytes:
        if sample not in self._drawn:
            values = self._images.isel({SAMPLE: sample}).transpose(Y, X, RGB).values
            self._drawn[sample] = png(values)
        return self._drawn[sample]

    def _kept_map(self, values: xr.DataArray) -> tuple[bytes, str]:
        """The map, which points do not change: principal colours of many channels take a second."""
        key = (self.site, self.step, self.sample, self.guidance, self.head, self.show,
               self.channel)  # fmt: skip
        if self._painted_last is None or self._painted_last[0] != key:
            self._painted_last = key, self._painted(values)
        return self._painted_last[1]

    def _painted(self, values: xr.DataArray) -> tuple[bytes, str]:
        if self.show == "colours":
            colours = principal_colours(values)[0]
            pixels = as_bytes(colours.transpose(Y, X, RGB).values)
            share = sum(colours.attrs["share"])
            return png(pixels), f"principal colours, {share:.0%} of the variance"
        one = magnitude(values) if self.show == "magnitude" else one_channel(values, self.channel)
        numbers = one.transpose(Y, X).values
        low, high = float(numbers.min()), float(numbers.max())
        ends = f"{one.name}, {low:.3g} (dark) to {high:.3g} (light)"
        if low < 0 < high:
            high = max(-low, high)
            low, ends = -high, f"{one.name}, {-high:.3g} (blue) to {high:.3g} (red)"
        return map_file(numbers, low, high, DIVERGING if low < 0 < high else SEQUENTIAL), ends

    def _draw_likeness(self, common: dict[str, Any]) -> None:
        neighbours = self._neighbours() if self.point else []
        wanted = [(name, self.point, "") for name in neighbours]
        wanted += [
            (self.site, pin, f" to place {number}")
            for number, pin in enumerate(self.pins, start=1 + bool(self.point))
        ]
        while len(self._likeness) < len(wanted):
            more = Picture()
            more.observe(self._clicked, "clicked")
            self._likeness.append(more)
        if len(self.pictures) != 2 + len(self._likeness):
            self.show_pictures([self._picture, self._map, *self._likeness])
        for number, each in enumerate(self._likeness):
            if number >= len(wanted):
                each.layout.display = "none"
                each.image = b""
                continue
            name, (y, x), which = wanted[number]
            likeness = similarity_to_point(self._values(name), y, x)[0]
            alike = likeness.transpose(Y, X).values
            low = float(alike.min())
            each.show(
                image=map_file(alike, low, 1.0),
                caption=f"{site_text(name)}: cosine similarity{which}, {low:.2f} (dark) to 1",
                grid=list(alike.shape),
                **common,
            )
            each.layout.display = None

    def _neighbours(self) -> list[str]:
        """This site and those recorded before and after it."""
        at = self.sites.index(self.site)
        return [self.site, *self.sites[max(at - 1, 0) : at], *self.sites[at + 1 : at + 2]]

    def figure(self) -> go.Figure:
        """The present view as a plotly figure: the similarity where there is a point, else maps."""
        guidance = self.guidance or None
        has_heads = HEAD in store.site(self._run, self.site).dims
        common: dict[str, Any] = {"sample": self.sample, "guidance": guidance}
        if self.point:
            y, x = self.point
            sites = self._neighbours()
            return views.similarity(
                self._run, sites, self.timestep, step=self.step, y=y, x=x, **common
            )
        show: Any = self.channel if self.show == "channel" else self.show
        head = self.head if has_heads and self.head >= 0 else None
        run = self._run.isel({TIMESTEP: [self._position(self.step)]})
        return views.layers(run, [self.site], show=show, head=head, **common)
