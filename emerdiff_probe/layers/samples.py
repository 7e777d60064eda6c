"""Draw locations of a recording in random order, in batches, to train on."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe import checks
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.layers.features import as_points, features, stored_blocks
from emerdiff_probe.schema import CHANNEL, STEP, TIMESTEP
from emerdiff_probe.timesteps import positions

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Samples", "samples"]

Format = Literal["numpy", "torch"]

_MEMORY: Final = 256


@dataclass(frozen=True, eq=False)
class Samples:
    """Iterate over batches of a site's locations, the same in each loop; see :func:`samples`.

    ``len()`` is the number of batches in all epochs.

    Attributes:
        values: Features to draw from, (sample, timestep, y, x, channel), read when they are needed.
        batch: Number of locations in a batch; the last batch of an epoch may have fewer.
        epochs: Number of times that each location comes.
        seed: Seed of the order, together with the number of the epoch.
        memory: Size of the pool that locations are drawn from, in MiB.
        format: "numpy" or "torch".
        coordinates: Whether each batch comes with a table of where its rows are from.
    """

    values: xr.DataArray = field(repr=False)
    batch: int
    epochs: int = 1
    seed: int = 0
    memory: float = _MEMORY
    format: Format = "numpy"
    coordinates: bool = False

    def __post_init__(self) -> None:
        checked = {
            "batch": checks.integer("batch", self.batch, 1),
            "epochs": checks.integer("epochs", self.epochs, 1),
            "seed": checks.integer("seed", self.seed, 0, checks.MOST_SEED),
            "memory": checks.number("memory", self.memory, above=0),
            "coordinates": checks.flag("coordinates", self.coordinates),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.format not in get_args(Format):
            raise ConfigError(f"format is {self.format!r}; choose 'numpy' or 'torch'")

    @property
    def locations(self) -> int:
        """Return the number of locations in one epoch."""
        return self.values.size // self.channels

    @property
    def channels(self) -> int:
        """Return the length of a row."""
        return self.values.sizes[CHANNEL]

    def __len__(self) -> int:
        return self.epochs * math.ceil(self.locations / self.batch)

    def __iter__(self) -> Iterator[Any]:
        for number in range(self.epochs):
            yield from self.epoch(number)

    def epoch(self, number: int) -> Iterator[Any]:
        """Yield the batches of one epoch, each location in one of them.

        Args:
            number: Number of the epoch, from 0; each has an order of its own.

        Yields:
            Rows (batch, channel), float32; with ``coordinates`` a pair of these and a table with a
            row for each, whose columns are sample, timestep, and y and x in pixels of the picture.

        Raises:
            InputError: Values are not finite, as the recording is not complete there.
        """
        random = np.random.default_rng([self.seed, checks.integer("number", number, 0)])
        rows = np.empty((0, self.channels), np.float32)
        places = np.empty(0, np.intp)
        for more, where in self._pools(random):
            rows, places = np.concatenate([rows, more]), np.concatenate([places, where])
            whole = len(rows) // self.batch * self.batch
            for start in range(0, whole, self.batch):
                part = slice(start, start + self.batch)
                yield self._given(rows[part].copy(), places[part])
            rows, places = rows[whole:], places[whole:]
        if len(rows):
            yield self._given(rows, places)

    def _pools(
        self, random: np.random.Generator
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.intp]]]:
        """Yield shuffled rows and their positions, from several shuffled blocks at a time."""
        blocks = list(stored_blocks(self.values))
        leading = [dim for dim in self.values.dims if dim != CHANNEL]
        shape = tuple(self.values.sizes[dim] for dim in leading)
        numbers = np.arange(math.prod(shape)).reshape(shape)
        pool: list[tuple[NDArray[np.float32], NDArray[np.intp]]] = []
        order = random.permutation(len(blocks))
        for at, block in enumerate(order):
            part = blocks[block]
            points, _ = as_points(self.values.isel(part), np.float32)
            within = tuple(part.get(dim, slice(None)) for dim in leading)
            pool.append((points, numbers[within].ravel()))
            full = sum(rows.nbytes for rows, _ in pool) + points.nbytes > self.memory * 2**20
            if full or at == len(order) - 1:
                mixed = random.permutation(sum(len(rows) for rows, _ in pool))
                rows, places = (np.concatenate(each) for each in zip(*pool, strict=True))
                pool.clear()
                yield rows[mixed], places[mixed]

    def _given(self, rows: NDArray[np.float32], places: NDArray[np.intp]) -> Any:
        given: Any = rows
        if self.format == "torch":
            import torch

            given = torch.from_numpy(rows)
        return (given, self._table(places)) if self.coordinates else given

    def _table(self, places: NDArray[np.intp]) -> pd.DataFrame:
        import pandas as pd

        leading = [dim for dim in self.values.dims if dim != CHANNEL]
        indices = np.unravel_index(places, [self.values.sizes[dim] for dim in leading])
        table = {
            str(dim): self.values[dim].values[at] for dim, at in zip(leading, indices, strict=True)
        }
        if TIMESTEP in leading and STEP in self.values.coords:
            table[STEP] = self.values[STEP].values[indices[leading.index(TIMESTEP)]]
        return pd.DataFrame(table)


def samples(
    run: xr.DataTree,
    site: str,
    *,
    batch: int,
    epochs: int = 1,
    timesteps: Iterable[float] | None = None,
    seed: int = 0,
    memory: float = _MEMORY,
    format: Format = "numpy",
    coordinates: bool = False,
) -> Samples:
    """Return an iterator over all locations of a site in random order, to train on.

    Values are those of `features`: the half of guided calls that has the prompt, with heads joined.
    Blocks of the store are read in random order, as many at a time as fit in ``memory``, and their
    locations are shuffled together. A recording that fits is thus shuffled as a whole; a larger one
    is never loaded whole.

    Args:
        run: Recording.
        site: Name of the site, as `emerdiff_probe.site` takes it.
        batch: Number of locations in a batch; the last one of an epoch may have fewer.
        epochs: Number of times that each location comes, each time in another order.
        timesteps: Timesteps to draw from; by default all.
        seed: Seed of the order; equal seeds give equal batches.
        memory: Size in MiB of the pool of locations that are shuffled together; it holds at least
            one block.
        format: "numpy" arrays or "torch" tensors.
        coordinates: Whether to return each batch as a pair, with a table of sample, timestep, y and
            x.

    Returns:
        Iterable of batches; ``len()`` is their number, ``.locations`` the number of rows in an
        epoch.

    Raises:
        SiteError: The recording has no such site.
        InputError: The site has no locations, or a timestep was not recorded.
        ConfigError: A number is out of range.

    For example::

        for rows in recording.ep.samples("mid_block", batch=4096, epochs=2, format="torch"):
            loss = autoencoder(rows)
    """
    values = features(run, site)
    if timesteps is not None:
        values = values.isel({TIMESTEP: positions(values, timesteps)})
    return Samples(values, batch, epochs, seed, memory, format, coordinates)
