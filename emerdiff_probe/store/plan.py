"""Plan what a recording holds: its arrays, their dims, sizes and chunks, and its labels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe import schema
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.schema import GUIDANCE, LOCATION, SAMPLE, STEP, TIMESTEP, TOKEN
from emerdiff_probe.sites import Site

__all__ = ["IMAGE", "LATENTS", "MASKS", "TOKEN_TEXT", "Leaf", "Plan", "block_length", "leaf_path"]
__all__ += ["size_text"]

IMAGE: Final = "image"
"""The leaf of the images that runs end with."""

LATENTS: Final = "latents"
"""The leaf of x_t, the latents that each timestep starts from."""

MASKS: Final = {"attention_mask": LOCATION, "encoder_attention_mask": TOKEN}
"""The coordinates that mark keys which attention could see (1) or not (0), by mask.

Masked locations have a dim of their own, in row order, since grids of other sizes have others.
"""

TOKEN_TEXT: Final = "token_text"
"""Coordinate of the texts of tokens."""

_BLOCK_BYTES: Final = 2**25
_LONGEST_BLOCK: Final = 25


def leaf_path(site: Site) -> str:
    """Return the path of a site's values in a recording.

    >>> leaf_path(Site("up_blocks.1.attentions.0", "out"))
    'up_blocks/1/attentions/0/out'
    """
    return f"{site.path.replace('.', '/')}/{site.port}"


@dataclass(frozen=True)
class Leaf:
    """One array of a recording.

    Attributes:
        path: The path in the tree.
        dims: The dims of one sample at one timestep, such as ``y x channel``.
        shape: The sizes of these dims.
        dtype: The NumPy dtype.
        guided: Whether it has both halves of a guided call.
        timed: Whether it has timesteps.
        labels: The coordinates by dim, where they differ from those of the recording.
        words: The texts of its tokens, (sample[, guidance], token), where they differ from those of
            the denoiser; parts beside it have tokens of their own.
    """

    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    guided: bool = True
    timed: bool = True
    labels: tuple[tuple[str, tuple[float, ...]], ...] = ()
    words: NDArray[np.str_] | None = field(default=None, compare=False)


@dataclass(frozen=True, eq=False)
class Plan:
    """The contents of a recording, and its size.

    Attributes:
        leaves: The arrays.
        samples: The prompt, seed and source of each sample.
        guidance: The labels of the halves of a guided call, in the order of recording; empty
            without guidance.
        timesteps: The timesteps, from the most noise to the least.
        steps: The position of each timestep in its run.
        tokens: The texts of the tokens, (sample, guidance, token), or (sample, token) without
            guidance; None if unknown.
        size: The height and width of the images in pixels, in which positions are given.
        config: All settings that determine the values, fit for JSON.
        about: Further provenance, fit for JSON.
        row: The dim of the rows of network calls: samples, or "batch" if it is unknown what they
            are.
        names: The names of the samples, by which they are selected; empty if they have none.
        masks: The key masks that attention was given, by coordinate, (sample, guidance, key), or
            (sample, key) without guidance. The last dim is that of `MASKS`.
    """

    leaves: tuple[Leaf, ...]
    samples: tuple[Mapping[str, Any], ...]
    guidance: tuple[str, ...]
    timesteps: tuple[float, ...]
    steps: tuple[int, ...]
    tokens: NDArray[np.str_] | None
    size: tuple[int, int]
    config: Mapping[str, Any]
    about: Mapping[str, Any]
    row: str = SAMPLE
    names: tuple[str, ...] = ()
    masks: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def joined(cls, plans: Sequence[Plan]) -> Plan:
        """Return one plan for the samples of several, in their order.

        Raises:
            ConfigError: They are of recordings that differ in more than their samples.
        """
        first = plans[0]
        names: list[str] = []
        sources: list[Any] = []
        for plan in plans:
            own = {**first.config, "sources": plan.config["sources"]}
            if (plan.leaves, plan.size, plan.config) != (first.leaves, first.size, own):
                raise ConfigError(
                    f"{plan.names[0]!r} and {first.names[0]!r} cannot be samples of one recording; "
                    "prompts, images and latents are recorded apart, and so are guided and "
                    "unguided runs"
                )
            names += plan.names
            sources += plan.config["sources"].values()
        tokens = [plan.tokens for plan in plans if plan.tokens is not None]
        return replace(
            first,
            samples=tuple(each for plan in plans for each in plan.samples),
            names=tuple(names),
            tokens=np.concatenate(tokens) if tokens else None,
            config={
                **first.config,
                "sources": dict(zip(map(str, range(len(names))), sources, strict=True)),
            },
            masks={
                name: np.concatenate([plan.masks[name] for plan in plans]) for name in first.masks
            },
        )

    def dims(self, leaf: Leaf) -> tuple[str, ...]:
        """Return the dims of a leaf's array."""
        guided = leaf.guided and bool(self.guidance)
        return (self.row, *[GUIDANCE] * guided, *[TIMESTEP] * leaf.timed, *leaf.dims)

    def shape(self, leaf: Leaf) -> tuple[int, ...]:
        """Return the shape of a leaf's array."""
        return (*self.leading(leaf, len(self.samples), len(self.timesteps)), *leaf.shape)

    def chunks(self, leaf: Leaf) -> tuple[int, ...]:
        """Return the chunk shape of a leaf: one sample, a block of timesteps, everything else."""
        return (*self.leading(leaf, 1, self.block), *leaf.shape)

    def chunk_index(self, leaf: Leaf, sample: int, block: int) -> tuple[int, ...]:
        """Return the index of the chunk that holds a block of timesteps of a sample."""
        guided = leaf.guided and bool(self.guidance)
        return (sample, *[0] * guided, *[block] * leaf.timed, *[0] * len(leaf.shape))

    def word_dims(self, leaf: Leaf) -> tuple[str, ...]:
        """Dims of the texts of a leaf's own tokens."""
        guided = leaf.guided and bool(self.guidance)
        return (self.row, *[GUIDANCE] * guided, TOKEN)

    def leading(self, leaf: Leaf, samples: int, timesteps: int) -> tuple[int, ...]:
        """Return the sizes of a leaf's dims before those of its site."""
        guided = leaf.guided and bool(self.guidance)
        return (samples, *[len(self.guidance)] * guided, *[timesteps] * leaf.timed)

    def bytes(self, leaf: Leaf, samples: int, timesteps: int) -> int:
        """Return the bytes of a leaf's values for a number of samples and timesteps."""
        shape = (*self.leading(leaf, samples, timesteps), *leaf.shape)
        return math.prod(shape) * np.dtype(leaf.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Return the bytes of all values, in memory or on disk: they are not compressed."""
        return sum(self.bytes(leaf, len(self.samples), len(self.timesteps)) for leaf in self.leaves)

    @cached_property
    def block(self) -> int:
        """Return the number of timesteps that are kept, written and committed together."""
        step = sum(self.bytes(leaf, 1, 1) for leaf in self.leaves if leaf.timed)
        return block_length(step, len(self.timesteps))

    @cached_property
    def blocks(self) -> list[slice]:
        """Return the positions of the timesteps of each block."""
        count = len(self.timesteps)
        return [slice(i, min(i + self.block, count)) for i in range(0, count, self.block)]

    def table(self) -> pd.DataFrame:
        """Return a table with a row for each leaf: ``dims``, ``shape``, ``dtype`` and ``bytes``."""
        rows = {
            leaf.path: (
                " ".join(self.dims(leaf)),
                " x ".join(map(str, self.shape(leaf))),
                leaf.dtype,
                self.bytes(leaf, len(self.samples), len(self.timesteps)),
            )
            for leaf in self.leaves
        }
        return pd.DataFrame.from_dict(
            rows, orient="index", columns=["dims", "shape", "dtype", "bytes"]
        )

    def __repr__(self) -> str:
        return (
            f"Plan({len(self.leaves)} arrays, {len(self.samples)} samples, "
            f"{len(self.timesteps)} timesteps, {size_text(self.nbytes)} in memory or on disk)"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>" + self.table()._repr_html_()

    def root(self) -> xr.Dataset:
        """Return the root of the tree, with the coordinates and attributes of the recording."""
        coords: dict[str, Any] = {
            # All nodes inherit an index; xarray selects along no other dims of a tree.
            self.row: np.arange(len(self.samples)),
            **{
                name: (self.row, np.array([each[name] for each in self.samples]))
                for name in self.samples[0]
            },
        }
        # Parts that run once a run have none.
        if self.timesteps:
            coords[TIMESTEP] = (TIMESTEP, np.array(self.timesteps))
            coords[STEP] = (TIMESTEP, np.array(self.steps))
        if self.names:
            coords[self.row] = (self.row, np.array(self.names))
        halves = (self.row, *[GUIDANCE] * bool(self.guidance))
        if self.tokens is not None:
            coords[TOKEN_TEXT] = ((*halves, TOKEN), self.tokens)
        for name, mask in self.masks.items():
            coords[name] = ((*halves, MASKS[name]), mask)
        for leaf in self.leaves:
            # A selection of tokens, the same in all leaves.
            if TOKEN in (chosen := dict(leaf.labels)):
                coords[TOKEN] = (TOKEN, np.array(chosen[TOKEN]))
        if self.guidance:
            coords[GUIDANCE] = list(self.guidance)
        return xr.Dataset(
            coords=coords,
            attrs={
                "schema": schema.RECORDING,
                "config": json.dumps(self.config),
                **{name: json.dumps(value) for name, value in self.about.items()},
            },
        )

    def coords(self, leaf: Leaf) -> dict[str, NDArray[Any]]:
        """Return the coordinates of a leaf's own dims: pixel positions, colour names, labels."""
        found: dict[str, NDArray[Any]] = {}
        for dim, count in zip(leaf.dims, leaf.shape, strict=True):
            if dim in (schema.Y, schema.X):
                found[dim] = schema.pixel_centres(count, self.size[dim == schema.X])
            elif dim == schema.RGB:
                found[dim] = np.array(["r", "g", "b"])
        return found | {dim: np.array(values) for dim, values in leaf.labels}


def block_length(step: int, timesteps: int) -> int:
    """Return the number of timesteps in a block.

    Args:
        step: The bytes of all values of one sample at one timestep.
        timesteps: The number of timesteps of the run.
    """
    return min(max(_BLOCK_BYTES // max(step, 1), 1), _LONGEST_BLOCK, timesteps)


def size_text(count: int) -> str:
    """Return a number of bytes as text.

    >>> size_text(3 * 2**20), size_text(8192)
    ('3.0 MiB', '8 KiB')
    """
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 / 10 else f"{count / 2**10:.0f} KiB"
