"""What a recording holds: its arrays, their dims, sizes and chunks, and its labels."""

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

__all__ = ["IMAGE", "LATENTS", "MASKS", "Leaf", "Plan", "block_length", "leaf_path", "size_text"]

IMAGE: Final = "image"
"""Leaf of the pictures that runs end with."""

LATENTS: Final = "latents"
"""Leaf of x_t, as each timestep finds it."""

MASKS: Final = {"attention_mask": LOCATION, "encoder_attention_mask": TOKEN}
"""Coordinates of the keys that self-attention and attention to a text were let see, 1, or not, 0.

Locations are of a dim of their own, row after row, since grids of other sizes have others.
"""

_BLOCK_BYTES: Final = 2**25
_LONGEST_BLOCK: Final = 25


def leaf_path(site: Site) -> str:
    """Where a site's values are in a recording.

    >>> leaf_path(Site("up_blocks.1.attentions.0", "out"))
    'up_blocks/1/attentions/0/out'
    """
    return f"{site.path.replace('.', '/')}/{site.port}"


@dataclass(frozen=True)
class Leaf:
    """One array of a recording.

    Attributes:
        path: In the tree.
        dims: Of one sample at one timestep, as ``y x channel``.
        shape: The same, as numbers.
        dtype: Of NumPy.
        guided: Whether it has both halves of a guided call.
        timed: Whether it has the timesteps.
        labels: Coordinates by dim, where they are not those of the whole.
    """

    path: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    guided: bool = True
    timed: bool = True
    labels: tuple[tuple[str, tuple[float, ...]], ...] = ()


@dataclass(frozen=True, eq=False)
class Plan:
    """What a recording will hold and how large it will be.

    Attributes:
        leaves: Its arrays.
        samples: Prompt, seed and source of each sample.
        guidance: Labels of the halves of a guided call, in the order of recording; none without.
        timesteps: From the most noise to the least.
        steps: The position of each timestep in its run.
        tokens: Texts of the tokens, (sample, guidance, token); without guidance (sample, token);
            None where they are not known.
        size: Height and width of the images in their own size, in which positions are given.
        config: All that decides its values, fit for JSON.
        about: Further provenance, fit for JSON.
        row: Dim of the rows of UNet calls: samples, or "batch" where nothing tells what they are.
        names: Of the samples, by which they are selected; none where they have no names.
        masks: Masks of the keys that attention was given, by coordinate, (sample, guidance,
            key); without guidance (sample, key). The last dim is that of `MASKS`.
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
        """Dims of a leaf's array."""
        guided = leaf.guided and bool(self.guidance)
        return (self.row, *[GUIDANCE] * guided, *[TIMESTEP] * leaf.timed, *leaf.dims)

    def shape(self, leaf: Leaf) -> tuple[int, ...]:
        """Shape of a leaf's array."""
        return (*self.leading(leaf, len(self.samples), len(self.timesteps)), *leaf.shape)

    def chunks(self, leaf: Leaf) -> tuple[int, ...]:
        """One sample, a block of timesteps, all the rest."""
        return (*self.leading(leaf, 1, self.block), *leaf.shape)

    def chunk_index(self, leaf: Leaf, sample: int, block: int) -> tuple[int, ...]:
        """Index of the chunk that has a block of timesteps of a sample."""
        guided = leaf.guided and bool(self.guidance)
        return (sample, *[0] * guided, *[block] * leaf.timed, *[0] * len(leaf.shape))

    def leading(self, leaf: Leaf, samples: int, timesteps: int) -> tuple[int, ...]:
        """Sizes of a leaf's dims before those of its site, for so many samples and timesteps."""
        guided = leaf.guided and bool(self.guidance)
        return (samples, *[len(self.guidance)] * guided, *[timesteps] * leaf.timed)

    def bytes(self, leaf: Leaf, samples: int, timesteps: int) -> int:
        """Bytes of a leaf's values for so many samples and timesteps."""
        shape = (*self.leading(leaf, samples, timesteps), *leaf.shape)
        return math.prod(shape) * np.dtype(leaf.dtype).itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all values, in memory and on disk alike: they are not compressed."""
        return sum(self.bytes(leaf, len(self.samples), len(self.timesteps)) for leaf in self.leaves)

    @cached_property
    def block(self) -> int:
        """Timesteps that are kept in memory, written and committed together."""
        step = sum(self.bytes(leaf, 1, 1) for leaf in self.leaves if leaf.timed)
        return block_length(step, len(self.timesteps))

    @cached_property
    def blocks(self) -> list[slice]:
        """Positions of the timesteps of each block."""
        count = len(self.timesteps)
        return [slice(i, min(i + self.block, count)) for i in range(0, count, self.block)]

    def table(self) -> pd.DataFrame:
        """A row for each leaf: ``dims``, ``shape``, ``dtype`` and ``bytes``."""
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
        """The root of the tree."""
        coords: dict[str, Any] = {
            # An index is known to all nodes; xarray selects along no other dim of a tree.
            self.row: np.arange(len(self.samples)),
            TIMESTEP: (TIMESTEP, np.array(self.timesteps)),
            STEP: (TIMESTEP, np.array(self.steps)),
            **{
                name: (self.row, np.array([each[name] for each in self.samples]))
                for name in self.samples[0]
            },
        }
        if self.names:
            coords[self.row] = (self.row, np.array(self.names))
        halves = (self.row, *[GUIDANCE] * bool(self.guidance))
        if self.tokens is not None:
            coords["token_text"] = ((*halves, TOKEN), self.tokens)
        for name, mask in self.masks.items():
            coords[name] = ((*halves, MASKS[name]), mask)
        for leaf in self.leaves:
            # Some of the tokens: in all leaves the same.
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
        """Coordinates of a leaf's own dims: places in pixels, colours by name, what it labels."""
        found: dict[str, NDArray[Any]] = {}
        for dim, count in zip(leaf.dims, leaf.shape, strict=True):
            if dim in (schema.Y, schema.X):
                found[dim] = schema.pixel_centres(count, self.size[dim == schema.X])
            elif dim == schema.RGB:
                found[dim] = np.array(["r", "g", "b"])
        return found | {dim: np.array(values) for dim, values in leaf.labels}


def block_length(step: int, timesteps: int) -> int:
    """Timesteps in a block.

    Args:
        step: Bytes of all values of one sample at one timestep.
        timesteps: How many there are.
    """
    return min(max(_BLOCK_BYTES // max(step, 1), 1), _LONGEST_BLOCK, timesteps)


def size_text(count: int) -> str:
    """Bytes in words.

    >>> size_text(3 * 2**20), size_text(8192)
    ('3.0 MiB', '8 KiB')
    """
    if count >= 2**30:
        return f"{count / 2**30:.2f} GiB"
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 / 10 else f"{count / 2**10:.0f} KiB"
