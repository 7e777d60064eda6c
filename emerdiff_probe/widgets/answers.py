"""Who answers how a picture moves: responses that were computed, or a model asked when needed."""

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
"""Row and column of the latent grid."""

_QUICK: Final = 128
"""Pixels on a side of the responses that a slider clusters anew."""

_Floats = NDArray[np.float32]


class Answers(Protocol):
    """What an explorer asks, whoever answers.

    Attributes:
        frame: ``picture`` and coordinates.
        grid: Rows and columns of latent locations.
    """

    frame: xr.Dataset
    grid: Location

    @property
    def known(self) -> int:
        """How many locations are there."""
        ...

    def response(self, locations: Sequence[Location]) -> _Floats:
        """The signed sum of locations' responses, (rgb, y, x)."""
        ...

    def movers(self, y: float, x: float) -> _Floats:
        """How much each location moves a pixel, (source_y, source_x); NaN where none is there."""
        ...

    def segments(self, masks: int, *, quick: bool) -> xr.Dataset:
        """Segments of so many clusters of the features; quick ones of fewer pixels."""
        ...


class StoredAnswers:
    """Of responses of single locations, whole or compressed."""

    def __init__(self, responses: xr.Dataset) -> None:
        self.frame = responses
        self.grid: Location = latent_grid(responses)
        self.known = self.grid[0] * self.grid[1]

    def response(self, locations: Sequence[Location]) -> _Floats:
        """The signed sum of locations' responses, (rgb, y, x)."""
        mask = np.zeros(self.grid, np.float32)
        for location in locations:
            mask[location] = 1
        return response_of(self.frame, mask).values

    def movers(self, y: float, x: float) -> _Floats:
        """How much each location moves a pixel, (source_y, source_x)."""
        moved: _Floats = reading.movers(self.frame, y, x).values
        return moved

    def segments(self, masks: int, *, quick: bool) -> xr.Dataset:
        """Segments of so many clusters of the features; quick ones of fewer pixels."""
        return segment_from(self._thinned if quick else self.frame, masks)

    @cached_property
    def _thinned(self) -> xr.Dataset:
        kept = {dim: _few(self.frame.sizes[dim]) for dim in (Y, X)}
        return self.frame.isel(kept).load()


class LiveAnswers:
    """Of a model; everything asked for once is kept by its responder.

    Args:
        responder: An `emerdiff_probe.emerdiff.Responder`. It needs torch, which is not imported
            for its name's sake.
    """

    def __init__(self, responder: Any) -> None:
        self._responder = responder
        self.frame = responder.frame
        self.grid: Location = responder.grid
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def known(self) -> int:
        """How many locations are there."""
        return len(self._responder)

    @property
    def filling(self) -> bool:
        """Whether the rest is being computed."""
        return self._thread is not None and self._thread.is_alive() and not self._stop.is_set()

    @property
    def engine(self) -> str:
        """How modulated runs are computed at present."""
        return self._responder.engine

    @property
    def engines(self) -> tuple[str, ...]:
        """Ways to compute them."""
        return self._responder.engines

    def use(self, engine: str) -> None:
        """Another engine answers from now on; nothing goes on behind then."""
        self.stop()
        self._responder.use(engine)

    def response(self, locations: Sequence[Location]) -> _Floats:
        """The signed sum of locations' responses, (rgb, y, x)."""
        size = self.frame.sizes[Y], self.frame.sizes[X]
        total = np.zeros((3, *size), np.float32)
        for location in locations:
            total += self._responder.location(*location).transpose(RGB, Y, X).values
        return total

    def movers(self, y: float, x: float) -> _Floats:
        """How much each location moves a pixel, (source_y, source_x); NaN where none is there."""
        moved: _Floats = self._responder.movers(y, x).transpose(SOURCE_Y, SOURCE_X).values
        return moved

    def segments(self, masks: int, *, quick: bool) -> xr.Dataset:
        """Segments of so many clusters of the features, once all locations are there."""
        return StoredAnswers(self._responder.responses()).segments(masks, quick=quick)

    def fill(
        self,
        near: Location,
        progress: Callable[[], object],
        failed: Callable[[Exception], object],
    ) -> None:
        """Begins to compute the rest behind, nearest first, if that does not go on already."""
        if self.filling or self.known == self.grid[0] * self.grid[1]:
            return
        stop = self._stop = threading.Event()

        def work() -> None:
            try:
                self._responder.fill(near, stop=stop, progress=lambda *_: progress())
            except Exception as error:  # nobody else would hear of it
                failed(error)

        self._thread = threading.Thread(target=work, name="responses", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends computing the rest, and waits for what is computed just now."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()


def _few(side: int) -> Any:
    return spaced(side, min(side, _QUICK))
