"""Summarise a store without reading its values: `info()`."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from typing import Any, Final

import zarr

from emerdiff_probe.schema import SAMPLE
from emerdiff_probe.store.address import Address, as_it_claims, opened, size_on_disk
from emerdiff_probe.store.plan import IMAGE, LATENTS
from emerdiff_probe.store.sealing import checked_labels
from emerdiff_probe.store.values import chunks_in, leaves_of, restart_of, whole_rows

__all__ = ["LAYOUT", "Info", "info"]

LAYOUT: Final = "layout"
"""The attribute of a store's root that names its layout; what was recorded has "steps"."""


@dataclass(frozen=True)
class Info:
    """A summary of a store.

    Attributes:
        sites: The names of the recorded sites.
        samples: A text for each sample.
        timesteps: The timesteps, from the most noise to the least.
        committed: The share of the blocks that are committed, in [0, 1].
        finished: Whether the last image, if there are any, is written as well.
        missing: The names of the samples that are incomplete; empty for a batch.
        lost: The paths of the leaves that have lost committed chunks.
        layout: "steps" or "points", the way of reading that is fast; see `rechunk`.
        nbytes: The size on disk in bytes.
        model: The description of the model, from `Denoiser.description`.
        config: All settings that determine the values.
        versions: The versions of the packages that made it.
    """

    sites: tuple[str, ...]
    samples: tuple[str, ...]
    timesteps: tuple[float, ...]
    committed: float
    finished: bool
    missing: tuple[str, ...]
    lost: tuple[str, ...]
    layout: str
    nbytes: int
    model: dict[str, Any]
    config: dict[str, Any]
    versions: dict[str, str]


def info(address: Address) -> Info:
    """Return what a store holds and how complete it is, without reading values.

    Args:
        address: An address as for `open_recording`.

    Raises:
        StoreError: There is no recording.
    """
    with as_it_claims(address):
        return _info(opened(address), address)


def _info(root: zarr.Group, address: Address) -> Info:
    attributes: dict[str, Any] = dict(root.attrs)
    config = json.loads(attributes["config"])
    restart, share = restart_of(root), 1.0
    if restart is not None:
        # Count commits before all others: what is committed by now is complete.
        share = restart.nchunks_initialized / restart.nchunks
    there = {leaf: array.nchunks_initialized / array.nchunks for leaf, array in leaves_of(root)}
    return Info(
        sites=tuple(config["sites"]),
        samples=_samples(root, str(address)),
        timesteps=tuple(_labels(root, "timestep", str(address)) if "timestep" in root else ()),
        committed=share,
        finished=share == 1 and there.get(IMAGE, 1) == 1,
        missing=_missing(root, restart, str(address)),
        lost=tuple(leaf for leaf, part in there.items() if leaf != IMAGE and part < share),
        layout=attributes.get(LAYOUT, "steps"),
        nbytes=size_on_disk(address),
        model=json.loads(attributes["model"]),
        config=config,
        versions=json.loads(attributes["versions"]),
    )


def _missing(root: zarr.Group, restart: Any, place: str) -> tuple[str, ...]:
    if restart is None or SAMPLE not in root:
        return ()
    images = dict(leaves_of(root)).get(IMAGE)
    pictures = None if images is None else chunks_in(images)
    whole = whole_rows(chunks_in(restart), restart.shape[1], pictures)
    names = _labels(root, SAMPLE, place)
    return tuple(str(name) for row, name in enumerate(names) if row not in whole)


def _samples(root: zarr.Group, place: str) -> tuple[str, ...]:
    """Return a text for each sample; for a batch whose rows are unknown, their numbers."""
    if "prompt" not in root:
        latents = dict(leaves_of(root))[LATENTS]
        return tuple(f"row {number}" for number in range(latents.shape[0]))
    labels = (_labels(root, name, place) for name in ("prompt", "seed", "source"))
    return tuple(itertools.starmap(_described, zip(*labels, strict=True)))


def _labels(root: zarr.Group, name: str, place: str) -> list[Any]:
    return checked_labels(root[name], place).tolist()


def _described(prompt: str, seed: int, source: str) -> str:
    if seed < 0:
        return f"{prompt!r}, {source}" if prompt else source
    return f"{prompt!r}, seed {seed}"
