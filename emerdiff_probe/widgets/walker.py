"""A base for explorers of recordings: one set of controls for site, timestep and what is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import ipywidgets
import traitlets
import xarray as xr

from emerdiff_probe.errors import InputError, SiteError, closest
from emerdiff_probe.schema import X, Y
from emerdiff_probe.timesteps import labels, one_position, positions
from emerdiff_probe.views.colours import DIVERGING, SEQUENTIAL
from emerdiff_probe.views.maps import magnitude, one_channel
from emerdiff_probe.views.panels import site_text
from emerdiff_probe.widgets.explorer import Explorer
from emerdiff_probe.widgets.picture import Picture, map_file, read_by_pointing
from emerdiff_probe.widgets.recordings import Reading, most_telling

__all__ = ["Walker", "drawn_map", "numbers_of", "range_of"]

_SHOWS: Final = ("colours", "magnitude", "channel")
_EACH: Final = "all"


class Walker(Explorer):
    """An explorer of recordings of the same calls.

    Args:
        readings: The reading of one recording, or of several whose calls correspond one by one.
        pictures: The initial images.
        usual: Further traits with their usual values.
        names: The names of the recordings in `code`.
        state: Initial values of traits.

    Attributes:
        site: The name of a site that has locations.
        timestep: A recorded timestep.
        step: The number of the call in its run, which distinguishes calls at one timestep. Setting
            one of the two changes the other.
        point: The position, (y, x) in pixels of the first image; empty if none.
        show: "colours" (principal components over locations at this timestep), "magnitude", or
            "channel".
        channel: The number of the channel.
        head: The number of a head; -1 for all.
        guidance: The half of a guided recording; empty without guidance.
        sites, timesteps: The possible choices.
        extent: The height and width of the first image.
    """

    site = traitlets.Unicode()
    timestep = traitlets.Any()
    step = traitlets.CInt()
    point = traitlets.Tuple()
    show = traitlets.Enum(_SHOWS, "colours")
    channel = traitlets.CInt(0)
    head = traitlets.CInt(-1)
    guidance = traitlets.Unicode("")

    def __init__(
        self,
        readings: Sequence[Reading],
        pictures: Sequence[Picture],
        *,
        usual: Mapping[str, Any],
        names: tuple[str, ...],
        state: Mapping[str, Any],
    ) -> None:
        self._readings = tuple(readings)
        first = self._readings[0]
        others = [set(each.sites) for each in self._readings[1:]]
        self.sites = [each for each in first.sites if all(each in other for other in others)]
        self.timesteps = first.timesteps
        self.extent = first.extent
        alike = all(each.halves == first.halves for each in self._readings)
        self._halves = first.halves if alike else [""]
        self._ready = False
        # Always report site and timestep.
        common = {"site": None, "timestep": None, "step": None, "point": (), "show": "colours",
                  "channel": 0, "head": -1, "guidance": self._halves[-1]}  # fmt: skip
        super().__init__(self._controls(), pictures, usual={**common, **usual}, names=names)
        begin = {
            "site": most_telling({each: first.locations(each) for each in self.sites}),
            "timestep": self.timesteps[-1],
            "step": first.steps[-1],
            "guidance": self._halves[-1],
        }
        if "timestep" in state and "step" not in state:
            # The first call at a timestep that was visited twice.
            begin["step"] = first.steps[positions(first.calls, [state["timestep"]])[0]]
        elif "step" in state:
            begin["timestep"] = self.timesteps[self._position(state["step"])]
        self.begin(**{**begin, **state})
        self.observe(self._follow, ["timestep", "step"])
        self._fit_menus()
        for name, menu in self._menus.items():
            traitlets.link((self, name), (menu, "value"))
        traitlets.link((self._menus["step"], "index"), (self._play, "value"))
        self._ready = True
        self._draw()
        self.observe(self._draw, list(self.usual))

    def _controls(self) -> list[ipywidgets.Widget]:
        wide, narrow = {"width": "380px"}, {"width": "110px"}
        # Words take the room they need, so that menus have theirs in one line.
        style = {"description_width": "auto"}
        first = self._readings[0]
        self._menus: dict[str, Any] = {
            "site": ipywidgets.Dropdown(
                description="site",
                options=[(site_text(name), name) for name in self.sites],
                layout=wide,
            ),
            "step": ipywidgets.SelectionSlider(
                description="timestep",
                options=list(zip(labels(first.calls), first.steps, strict=True)),
                layout=wide,
            ),
            "show": ipywidgets.Dropdown(
                description="show", options=_SHOWS, layout={"width": "160px"}, style=style
            ),
            "channel": ipywidgets.BoundedIntText(
                description="channel", layout={"width": "130px"}, style=style
            ),
            "head": ipywidgets.Dropdown(
                description="head", options=[(_EACH, -1)], layout=narrow, style=style
            ),
            "guidance": ipywidgets.Dropdown(
                description="guidance",
                options=self._halves,
                layout={"width": "170px"},
                style=style,
            ),
        }
        self._play = ipywidgets.Play(max=len(self.timesteps) - 1, interval=600)
        self._clear = ipywidgets.Button(description="clear points", layout={"width": "120px"})
        self._clear.on_click(lambda _: self.clear())
        if len(self._halves) == 1:
            self._menus["guidance"].layout.display = "none"
        site, step, *rest = self._menus.values()
        # Two lines at 1280 pixels: site, and timestep.
        return [site, *rest, ipywidgets.HBox([step, self._play]), self._clear]

    def clear(self) -> None:
        """Remove all points."""
        self.set(point=())

    def set(self, **state: Any) -> None:
        """Set several traits and draw once."""
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
            raise SiteError(f"no site {name!r} with locations here; {closest(name, self.sites)}")
        return name

    @traitlets.validate("timestep")
    def _known_timestep(self, proposal: Any) -> float:
        return self.timesteps[positions(self._readings[0].calls, [proposal["value"]])[0]]

    @traitlets.validate("step")
    def _known_step(self, proposal: Any) -> int:
        return self._readings[0].steps[self._position(proposal["value"])]

    @traitlets.validate("point")
    def _place(self, proposal: Any) -> tuple[float, ...]:
        return self._inside(proposal["value"]) if proposal["value"] else ()

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
                f"{tuple(place)} is not a pixel (y, x) of the {height} x {width} image"
            )
        return tuple(map(float, place))

    def _position(self, step: Any) -> int:
        """Return the position of a call along the dim ``timestep``."""
        return one_position(self._readings[0].calls, step=step)

    def _follow(self, change: Any) -> None:
        """Keep timestep and step at one call."""
        ready, self._ready = self._ready, False
        try:
            if change["name"] == "step":
                self.timestep = self.timesteps[self._position(self.step)]
            elif self.timesteps[self._position(self.step)] != self.timestep:
                self.step = self._readings[0].steps[self.timesteps.index(self.timestep)]
        finally:
            self._ready = ready

    def state(self) -> dict[str, Any]:
        """Return the traits with unusual values; the step only if the timestep is ambiguous."""
        found = super().state()
        if self.timesteps.count(self.timestep) == 1:
            del found["step"]
        return found

    def _fit_menus(self) -> None:
        """Offer the channels and heads of this site; reset those that only another site had."""
        heads = min(each.heads(self.site) for each in self._readings)
        head = self.head if self.head < heads else -1
        options = ((_EACH, -1), *((str(number), number) for number in range(heads)))
        if self._menus["head"].options != options:
            # This takes the menu, and what it is linked to, back to its first option.
            self._menus["head"].options = options
        self.head = head
        self._menus["head"].layout.display = None if heads else "none"
        channels = min(each.channels(self.site, self.head) for each in self._readings)
        self._menus["channel"].max = channels - 1
        self.channel = min(self.channel, channels - 1)
        self._menus["channel"].layout.display = None if self.show == "channel" else "none"

    def _draw(self, _: Any = None) -> None:
        if not self._ready:
            return
        with self.working(f"reading {site_text(self.site)}"):
            self._ready = False
            try:
                self._fit_menus()
            finally:
                self._ready = True
            self._draw_pictures()

    def _draw_pictures(self) -> None:
        """Draw the images of the current view, which differ between widgets."""
        raise NotImplementedError

    def _when(self) -> str:
        """Return the timestep as text."""
        return labels(self._readings[0].calls, [self._position(self.step)])[0]


def numbers_of(values: xr.DataArray, show: str, channel: int) -> xr.DataArray:
    """Return the numbers that a map shows, (y, x): one channel, or the magnitude of features."""
    found = one_channel(values, channel) if show == "channel" else magnitude(values)
    return found.transpose(Y, X)


def range_of(*maps: xr.DataArray) -> tuple[float, float]:
    """Return the ends of one scale for maps; if values have both signs, zero is in the middle."""
    low = min(float(each.min()) for each in maps)
    high = max(float(each.max()) for each in maps)
    if low < 0 < high:
        high = max(-low, high)
        low = -high
    return low, high


def drawn_map(
    values: xr.DataArray, low: float, high: float, what: str, *, name: str = ""
) -> dict[str, Any]:
    """Return the traits of a `Picture` that shows a map.

    Args:
        values: The numbers (y, x).
        low, high: The ends of the scale; if their signs differ, colours are diverging.
        what: The caption, to which the ends are added.
        name: The name of the numbers when hovering; by default that of the map.
    """
    both = low < 0 < high
    ends = f"{low:.3g} ({'blue' if both else 'dark'}) to {high:.3g} ({'red' if both else 'light'})"
    return {
        "image": map_file(values.values, low, high, DIVERGING if both else SEQUENTIAL),
        "caption": f"{what}, {ends}",
        "grid": list(values.shape),
        **read_by_pointing(values.values, name or str(values.name)),
    }
