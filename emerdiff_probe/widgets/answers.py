"""Answer how an image changes: from stored responses, or by a model on demand."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Final, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.responses import latent_grid, reading, response_of, segment_from
from emerdiff_probe.schema import RGB, SOURCE_X, SOURCE_Y, X, Y
from emerdiff_probe.views.panels import spaced

__all__ = ["Answers", "LiveAnswers", "Location", "StoredAnswers"]

Location = tuple[int, int]
"""The row and column of a location on the latent grid."""

_QUICK: Final = 128
"""The pixels along a side of the responses that a slider clusters while it moves."""

_Floats = NDArray[np.float32]


class Answers(Protocol):
    """The questions of an explorer, whatever answers them.

    Attributes:
        frame: A dataset of ``picture`` and coordinates.
        grid: The number of rows and columns of latent locations.
    """

    frame: xr.Dataset
    grid: Location

    @property
    def known(self) -> int:
        """Return the number of locations whose response exists."""
        ...

    def response(self, locations: Sequence[Location]) -> _Floats:
        """Return the signed sum of locations' responses, (rgb, y, x)."""
        ...

    def movers(self, y: float, x: float) -> _Floats:
        """Return how much each location changes a pixel, (source_y, source_x); NaN if unknown."""
        ...

    def segments(self, masks: int, *, quick: bool) -> xr.Dataset:
        """Return segments from a number of clusters of features; quick ones have fewer pixels."""
        ...


class StoredAnswers:
    """Answer from responses of single locations, full or compressed."""

    def __init__(self, responses: xr.Dataset) -> None:
        self.frame = responses
        self.grid: Location = latent_grid(responses)
        self.known = self.grid[0] * self.grid[1]

    def response(self, locations: Sequence[Location]) -> _Floats:
        """Return the signed sum of locations' responses, (rgb, y, x)."""
        mask = np.zeros(self.grid, np.float32)
        for location in locations:
            mask[location] = 1
        return response_of(self.frame, mask).values

    def movers(self, y: float, x: float) -> _Floats:
        """Return how much each location changes a pixel, (source_y, source_x)."""
        moved: _Floats = reading.movers(self.frame, y, x).values
        return moved

    def segments(self, masks: int, *, quick: bool) -> xr.Dataset:
        """Return segments from a number of clusters of features; quick ones have fewer pixels."""
        return segment_from(self._thinned if quick else self.frame, masks)

    @cached_property
    def _thinned(self) -> xr.Dataset:
        kept = {dim: _few(self.frame.sizes[dim]) for dim in (Y, X)}
        return self.frame.isel(kept).load()


class LiveAnswers:
    """Answer by a model; its responder keeps every response.

    Args:
        responder: An `emerdiff_probe.emerdiff.Responder`. It needs torch, so it is not imported
            here just for its type.
    """

    def __init__(self, responder: Any) -> None:
        self._responder = responder
        self.frame = responder.frame
        self.grid: Location = responder.grid
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def known(self) -> int:
        """Return the number of locations whose response exists."""
        return len(self._responder)

    @property
    def filling(self) -> bool:
        """Return whether the other locations are being computed."""
        return self._thread is not None and self._thread.is_alive() and not self._stop.is_set()

    @property
    def engine(self) -> str:
        """Return the engine that computes modulated runs now."""
        return self._responder.engine

    @property
    def engines(self) -> tuple[str, ...]:
        """Return the names of all engines that can."""
        return self._responder.engines

    def use(self, engine: str) -> None:
        """Answer with another engine from now on, and stop computing in the background."""
        self.stop()
        self._responder.use(engine)

    def response(self, locations: Sequence[Location]) -> _Floats:
        """Return the signed sum of locations' responses, (rgb, y, x)."""
        size = self.frame.sizes[Y], self.frame.sizes[X]
        total = np.zeros((3, *size), np.float32)
        for location in locations:
            total += self._responder.location(*location).transpose(RGB, Y, X).values
        return total

    def movers(self, y: float, x: float) -> _Floats:
        """Return how much each location changes a pixel, (source_y, source_x); NaN if unknown."""
        moved: _Floats = self._responder.movers(y, x).transpose(SOURCE_Y, SOURCE_X).values
        return moved

    def segments(self, masks: int, *, quick: bool) -> xr.Dataset:
        """Return segments from a number of clusters of the features, once all locations exist."""
        return StoredAnswers(self._responder.responses()).segments(masks, quick=quick)

    def fill(
        self,
        near: Location,
        progress: Callable[[], object],
        failed: Callable[[Exception], object],
    ) -> None:
        """Begin to compute all other locations in the background, nearest first, unless running."""
        if self.filling or self.known == self.grid[0] * self.grid[1]:
            return
        stop = self._stop = threading.Event()

        def work() -> None:
            try:
                self._responder.fill(near, stop=stop, progress=lambda *_: progress())
            except Exception as error:  # Otherwise the error would be lost.
                failed(error)

        self._thread = threading.Thread(target=work, name="responses", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop computing in the background, and wait for the current batch."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


def _few(side: int) -> Any:
    return spaced(side, min(side, _QUICK))
