"""Browse a recording: a site's maps by timestep, and the similarity to clicked locations."""

from __future__ import annotations

from typing import Any

import ipywidgets
import plotly.graph_objects as go
import traitlets
import xarray as xr

from emerdiff_probe import views
from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import principal_colours, similarity_to_point
from emerdiff_probe.schema import CHANNEL, RGB, SAMPLE, TIMESTEP, X, Y
from emerdiff_probe.views.panels import as_bytes, png, site_text
from emerdiff_probe.widgets.picture import Picture, map_file, read_by_pointing
from emerdiff_probe.widgets.recordings import Reading
from emerdiff_probe.widgets.walker import Walker, drawn_map, numbers_of, range_of

__all__ = ["Inspector"]


class Inspector(Walker):
    """Browse a recording by site and timestep; click a location to see what is similar to it.

    Beside the image it shows a map of the site and, if a point is set, the cosine similarity to it
    in this layer and in the layers recorded before and after. A click with the shift key pins a
    point, too. All state is in traits, which can be set and observed from code. By default it
    begins where the method reads features, or close to it, at the least noise, in colours.

    Args:
        run: A recording, in memory or opened.
        state: Initial values of traits.

    Attributes:
        pins: Further positions, for each of which the similarity in this layer is shown.
        sample: The position of the sample.
        site: Name of a site that has latent locations.
        timestep: Recorded timestep.
        step: Number of the call in its run, which tells apart calls at the same timestep.
        point: Clicked location, (y, x) in pixels of the image; empty without one.
        show: "colours" (principal components), "magnitude", or "channel".
        channel: Number of the channel.
        head: Number of a head; -1 for all.
        guidance: Half of a guided recording; empty without guidance.
        sites: Sites to choose from.
        timesteps: Timesteps to choose from.
        extent: Height and width of the image in pixels.

    Raises:
        SiteError: The recording has no such site.
        InputError: The recording lacks the value of another trait.
    """

    pins = traitlets.Tuple()
    sample = traitlets.CInt(0)

    def __init__(self, run: xr.DataTree, **state: Any) -> None:
        self._reading = Reading(run)
        self._painted_last: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._picture, self._map = Picture(width=480), Picture(width=480)
        self._likeness: list[Picture] = []
        self._listen(self._picture, self._map)
        super().__init__(
            [self._reading],
            [self._picture, self._map],
            usual={"pins": (), "sample": 0},
            names=("run",),
            state=state,
        )

    def _controls(self) -> list[ipywidgets.Widget]:
        controls = super()._controls()
        last = self._reading.images.sizes[SAMPLE] - 1
        self._menus["sample"] = ipywidgets.BoundedIntText(
            description="sample", max=last, layout={"width": "150px"}
        )
        if not last:
            self._menus["sample"].layout.display = "none"
        return [*controls[:-1], self._menus["sample"], controls[-1]]

    def clear(self) -> None:
        """Remove the point and all pins."""
        self.set(point=(), pins=())

    @traitlets.validate("pins")
    def _places(self, proposal: Any) -> tuple[tuple[float, ...], ...]:
        return tuple(self._inside(each) for each in proposal["value"])

    @traitlets.validate("sample")
    def _known_sample(self, proposal: Any) -> int:
        count = self._reading.images.sizes[SAMPLE]
        if not 0 <= proposal["value"] < count:
            raise InputError(f"sample is {proposal['value']}; choose 0 to {count - 1}")
        return int(proposal["value"])

    def _listen(self, *pictures: Picture) -> None:
        for each in pictures:
            each.observe(self._clicked, "clicked")

    def _clicked(self, change: Any) -> None:
        place = change["new"]["y"], change["new"]["x"]
        if change["new"]["shift"]:
            self.pins = (*self.pins, place)
        else:
            self.point = place

    def _values(self, site: str) -> xr.DataArray:
        return self._reading.values(
            site,
            self._position(self.step),
            sample=self.sample,
            guidance=self.guidance,
            head=self.head,
        )

    def _draw_pictures(self) -> None:
        marks = [list(each) for each in (*([self.point] if self.point else []), *self.pins)]
        common = {"marks": marks, "cursor": list(self.point), "extent": list(self.extent)}
        images = self._reading.images
        self._picture.show(
            image=self._reading.file(self.sample),
            caption=str(images.name),
            grid=[images.sizes[Y], images.sizes[X]],
            **common,
        )
        self._map.show(**self._kept_map(), **common)
        self._draw_likeness(common)

    def _kept_map(self) -> dict[str, Any]:
        """Return the map, cached because principal colours of many channels take a second."""
        key = (self.site, self.step, self.sample, self.guidance, self.head, self.show,
               self.channel)  # fmt: skip
        if self._painted_last is None or self._painted_last[0] != key:
            self._painted_last = key, self._painted(self._values(self.site))
        return self._painted_last[1]

    def _painted(self, values: xr.DataArray) -> dict[str, Any]:
        what = f"{site_text(self.site)}, t = {self._when()}"
        numbers = numbers_of(values, self.show, self.channel)
        # Too few channels for colours.
        if self.show != "colours" or values.sizes[CHANNEL] < 3:
            return drawn_map(numbers, *range_of(numbers), f"{what}: {numbers.name}")
        colours = principal_colours(values)[0]
        share = sum(colours.attrs["share"])
        return {
            "image": png(as_bytes(colours.transpose(Y, X, RGB).values)),
            "caption": f"{what}: principal colours, {share:.0%} of the variance",
            "grid": list(numbers.shape),
            **read_by_pointing(numbers.values, "magnitude"),
        }

    def _draw_likeness(self, common: dict[str, Any]) -> None:
        neighbours = self._neighbours() if self.point else []
        wanted = [(name, self.point, "") for name in neighbours]
        wanted += [
            (self.site, pin, f" to place {number}")
            for number, pin in enumerate(self.pins, start=1 + bool(self.point))
        ]
        while len(self._likeness) < len(wanted):
            self._likeness.append(Picture(width=480))
            self._listen(self._likeness[-1])
        for shown, (name, (y, x), which) in zip(self._likeness, wanted, strict=False):
            alike = similarity_to_point(self._values(name), y, x)[0].transpose(Y, X)
            what = f"{site_text(name)}: cosine similarity{which}"
            low = float(alike.min())
            shown.show(
                image=map_file(alike.values, low, 1.0),
                caption=f"{what}, {low:.2f} (dark) to 1",
                grid=list(alike.shape),
                **read_by_pointing(alike.values, "similarity"),
                **common,
            )
        self.show_pictures([self._picture, self._map, *self._likeness[: len(wanted)]])

    def _neighbours(self) -> list[str]:
        """Return this site and those recorded before and after it."""
        at = self.sites.index(self.site)
        return [self.site, *self.sites[max(at - 1, 0) : at], *self.sites[at + 1 : at + 2]]

    def figure(self) -> go.Figure:
        """Return the current view as a plotly figure: similarity if there is a point, else maps."""
        common: dict[str, Any] = {"sample": self.sample, "guidance": self.guidance or None}
        run = self._reading.recording
        if self.point:
            y, x = self.point
            return views.similarity(
                run, self._neighbours(), self.timestep, step=self.step, y=y, x=x, **common
            )
        show: Any = self.channel if self.show == "channel" else self.show
        head = self.head if self._reading.heads(self.site) and self.head >= 0 else None
        call = run.isel({TIMESTEP: [self._position(self.step)]})
        return views.layers(call, [self.site], show=show, head=head, **common)
