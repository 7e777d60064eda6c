"""Read a recording for explorers: the features of a site at one call, kept while shown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import xarray as xr

from emerdiff_probe import store
from emerdiff_probe.schema import CHANNEL, GUIDANCE, HEAD, RGB, SAMPLE, TIMESTEP, X, Y
from emerdiff_probe.sites import Site, reading_block
from emerdiff_probe.timesteps import steps_of
from emerdiff_probe.views.maps import chosen_sites, endings, extent, places
from emerdiff_probe.views.panels import png

__all__ = ["Reading", "most_telling"]

_FINE: Final = 16 * 16
"""The number of latent locations of the layer that the paper reads; coarser maps show little."""

_KEPT: Final = 4
"""The number of arrays in memory: a site and those before and after it, which each click needs."""


def most_telling(sites: Mapping[str, int]) -> str:
    """Return the recorded site to begin with: where the method reads features, or close to it.

    These are the queries of the first cross-attention in the first upward block that has one, on a
    grid of at least 16 x 16 locations. If they were not recorded, they are other queries of that
    block or its output; otherwise the middle one of the upward blocks, or of all sites, as in a
    transformer.

    Args:
        sites: The numbers of latent locations by name, in the model's order.

    >>> most_telling({"down_blocks.1:out": 256, "up_blocks.0.attn2:query": 64,
    ...               "up_blocks.1.attn2:query": 256, "up_blocks.1:out": 1024})
    'up_blocks.1.attn2:query'
    >>> most_telling({"mid_block:out": 64, "up_blocks.0:out": 256, "up_blocks.1:out": 1024,
    ...               "up_blocks.2:out": 4096})
    'up_blocks.1:out'
    """
    fine = [each for each, locations in sites.items() if locations >= _FINE] or list(sites)
    block = reading_block(map(Site.parse, fine))
    for pattern in (r"\..*attn2:query", r"\..*:query", ":out") if block else ():
        found = [each for each in fine if re.fullmatch(re.escape(str(block)) + pattern, each)]
        if found:
            return found[0]
    upward = [each for each in fine if each.startswith("up_blocks.")] or fine
    return upward[(len(upward) - 1) // 2]


class Reading:
    """Read a recording.

    Args:
        recording: A recording, in memory or opened.

    Attributes:
        recording: The recording, with labelled samples.
        calls: The root dataset, with timesteps and steps.
        sites: The names of the sites that have locations.
        timesteps, steps: The timesteps and steps of the calls.
        halves: The halves of a guided recording; otherwise one empty text.
        images: The images that the runs end with, (sample, y, x, rgb).
        extent: The height and width of the images.
    """

    def __init__(self, recording: xr.DataTree) -> None:
        self.recording = store.with_samples(recording)
        self.sites = chosen_sites(self.recording, "*")
        self.calls = self.recording.to_dataset()
        self.timesteps: list[float] = self.calls[TIMESTEP].values.tolist()
        self.steps = steps_of(self.calls)
        guided = GUIDANCE in self.calls.dims
        self.halves: list[str] = self.calls[GUIDANCE].values.tolist() if guided else [""]
        self.images = endings(self.recording)
        self.extent = extent(self.images)
        self._files: dict[int, bytes] = {}
        self._kept: dict[tuple[Any, ...], xr.DataArray] = {}

    def at(self, positions: Sequence[int]) -> Reading:
        """Return a reading of some of the calls."""
        return Reading(self.recording.isel({TIMESTEP: list(positions)}))

    def locations(self, site: str) -> int:
        """Return the number of latent locations of a site."""
        sizes = store.site(self.recording, site).sizes
        return int(sizes[Y] * sizes[X])

    def heads(self, site: str) -> int:
        """Return the number of heads of a site; 0 if it is not a port of an attention."""
        return int(store.site(self.recording, site).sizes.get(HEAD, 0))

    def channels(self, site: str, head: int) -> int:
        """Return the number of channels of a site, of one head, or of all with -1."""
        sizes = store.site(self.recording, site).sizes
        return int(sizes[CHANNEL] * (sizes.get(HEAD, 1) if head < 0 else 1))

    def values(
        self, site: str, position: int, *, sample: int, guidance: str, head: int
    ) -> xr.DataArray:
        """Return one site's features (y, x, channel), in memory.

        Args:
            site: The name of a site that has locations.
            position: The position of the call.
            sample: The position of the sample.
            guidance: The half of a guided recording; an empty text means "cond".
            head: The number of a head; -1 joins the channels of all.
        """
        key = (site, position, sample, guidance, head)
        if key in self._kept:
            return self._kept[key]
        found = places(
            store.site(self.recording, site).isel({TIMESTEP: position}),
            sample=sample,
            guidance=guidance or None,
            head=head if self.heads(site) and head >= 0 else None,
        ).load()
        if len(self._kept) >= _KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = found
        return found

    def file(self, sample: int) -> bytes:
        """Return the image of a sample as a PNG file."""
        if sample not in self._files:
            image = self.images.isel({SAMPLE: sample}).transpose(Y, X, RGB)
            self._files[sample] = png(image.values)
        return self._files[sample]
