"""Compute the response of one location on demand, and all others in the background."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe import schema
from emerdiff_probe.emerdiff.asking import settled
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.engines import (
    ENGINES,
    decoded,
    engine_of,
    one_by_one,
    prepared,
)
from emerdiff_probe.emerdiff.literal import Modulated
from emerdiff_probe.emerdiff.responses import cast, frame, latent_grid, located
from emerdiff_probe.errors import ConfigError, InputError
from emerdiff_probe.models.locks import exclusively
from emerdiff_probe.runs import Run
from emerdiff_probe.store import single

__all__ = ["Responder"]


class Responder:
    """Responses of single locations of one run, computed on demand and kept.

    `emerdiff_probe.runs.Run.responder` makes one. Several threads may use it: the model runs for
    one at a time, and a thread that waits for one location comes before `fill`.

    Args:
        run: The run.
        engine: The engine of modulated runs; see `emerdiff_probe.emerdiff.ENGINES`. By default
            "shared", and "literal" for a run that was replayed under interventions.
        config: All settings; by default those that fit the model.
        **settings: Single settings, as attributes of `emerdiff_probe.EmerDiffConfig`.

    Attributes:
        frame: A dataset of ``picture``, ``reconstruction``, ``features`` and all coordinates, as
            from `respond`.
        grid: The number of rows and columns of latent locations.
        engine: The current engine; see `use`.
        engines: All engines that can answer for the run.

    Raises:
        ConfigError: The settings do not fit the run, or compare latents.
    """

    def __init__(
        self,
        run: Run,
        *,
        engine: str | None = None,
        config: EmerDiffConfig | None = None,
        **settings: Any,
    ) -> None:
        self._config = settled(run, config, settings)
        if self._config.space != "picture":
            raise ConfigError(
                "responses compare images, and space is 'latent'; choose space='picture'"
            )
        self._source = run
        self._model = run.model
        alone = one_by_one(run, self._config)
        self.engines = ("literal",) if alone else tuple(ENGINES)
        engine = engine_of(run, engine, self._config)
        self._run = self._prepared(engine)
        self.engine = engine
        self.frame = frame(run, engine, self._config)
        self.grid: tuple[int, int] = latent_grid(run, self._config)
        self._kept: dict[tuple[int, int], NDArray[Any]] = {}
        self._kept_by = {engine: self._kept}
        self._calm = threading.Condition()
        self._urgent = 0

    @property
    def picture(self) -> xr.DataArray:
        """Return the image as the model sees it, uint8 (y, x, rgb)."""
        return self.frame["picture"]

    def location(self, row: int, column: int) -> xr.DataArray:
        """Return the response of a latent location, (rgb, y, x), float32.

        Args:
            row, column: The position on the latent grid, from 0.

        Raises:
            InputError: There is no such location.
        """
        rows, columns = self.grid
        if not (0 <= row < rows and 0 <= column < columns):
            raise InputError(
                f"no location ({row}, {column}); there are {rows} x {columns}, from (0, 0)"
            )
        place = (int(row), int(column))
        if place not in self._kept:
            with self._model_mine(urgent=True):
                self._compute([place])
        return located(self._kept[place].astype(np.float32), self.frame)

    def use(self, engine: str) -> None:
        """Answer with another engine from now on; the answers of each engine are kept.

        Args:
            engine: One of `emerdiff_probe.emerdiff.ENGINES`.

        Raises:
            ConfigError: There is no such engine, or it cannot answer for a replayed run.
        """
        engine_of(self._source, engine, self._config)
        with self._model_mine(urgent=True):
            self._run = self._prepared(engine)
            self.engine = engine
            self.frame = self.frame.assign_attrs(engine=engine)
            self._kept = self._kept_by.setdefault(engine, {})

    def fill(
        self,
        near: tuple[int, int] | None = None,
        *,
        stop: threading.Event | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        """Compute all missing responses, nearest first; call it in a thread of its own.

        Args:
            near: The row and column to begin at; by default the middle.
            stop: An event that ends it after the current batch.
            progress: Called after each batch with the number of locations done and their total.
        """
        rows, columns = self.grid
        centre = near or (rows // 2, columns // 2)
        order = sorted(np.ndindex(rows, columns), key=lambda place: math.dist(place, centre))
        count = max(self._config.batch // 2, 1)
        while not (stop and stop.is_set()):
            missing = [place for place in order if place not in self._kept][:count]
            if not missing:
                return
            with self._model_mine(urgent=False):
                self._compute([(row, column) for row, column in missing])
            if progress is not None:
                progress(len(self._kept), rows * columns)

    def movers(self, y: float, x: float) -> xr.DataArray:
        """Return how much each location changes a pixel, as far as responses exist.

        Args:
            y, x: The position in pixels; the nearest pixel is used.

        Returns:
            The norm over RGB, (source_y, source_x), float32; NaN where no response exists yet.
        """
        row, column = (
            int(np.abs(self.frame[dim].values - position).argmin())
            for dim, position in ((schema.Y, y), (schema.X, x))
        )
        moved = np.full(self.grid, np.nan, np.float32)
        for place, response in list(self._kept.items()):
            moved[place] = np.linalg.norm(response[:, row, column].astype(np.float32))
        dims = (schema.SOURCE_Y, schema.SOURCE_X)
        coords = {dim: self.frame[dim] for dim in dims}
        return xr.DataArray(moved, dims=dims, coords=coords, name="moved")

    def responses(self) -> xr.Dataset:
        """Return the responses that exist, as from `respond`; NaN where none exists yet."""
        height, width = self.frame.sizes[schema.Y], self.frame.sizes[schema.X]
        values = np.full((*self.grid, 3, height, width), np.nan, np.float16)
        for place, response in list(self._kept.items()):
            values[place] = response
        dims = (schema.SOURCE_Y, schema.SOURCE_X, schema.RGB, schema.Y, schema.X)
        return single(self.frame.assign(response=(dims, values)))

    def __len__(self) -> int:
        """Return the number of locations whose response exists."""
        return len(self._kept)

    def _prepared(self, engine: str) -> Callable[[torch.Tensor], Modulated]:
        with torch.inference_mode(), self._intervened():
            trajectory = self._source.trajectory.since(self._config.modulation_timestep)
            return prepared(engine, self._model, trajectory, self._config)

    def _intervened(self) -> AbstractContextManager[None]:
        return self._source.intervened(self._source.trajectory.timesteps)

    def _compute(self, places: list[tuple[int, int]]) -> None:
        places = [place for place in places if place not in self._kept]
        if not places:
            return
        masks = torch.zeros(len(places), *self.grid)
        for mask, place in zip(masks, places, strict=True):
            mask[place] = 1
        with torch.inference_mode(), self._intervened():
            found = (
                each
                for batch in decoded(self._model, self._run(masks), self._config)
                for each in batch
            )
            for place, response in zip(places, found, strict=True):
                self._kept[place] = cast(response, "float16")

    @contextmanager
    def _model_mine(self, *, urgent: bool) -> Iterator[None]:
        """Wait for the model and hold it; if not urgent, wait for all urgent callers first."""
        with self._calm:
            self._urgent += urgent
            self._calm.wait_for(lambda: urgent or not self._urgent)
        try:
            with exclusively(self._model.unet):
                yield
        finally:
            with self._calm:
                self._urgent -= urgent
                self._calm.notify_all()
