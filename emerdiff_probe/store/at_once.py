"""Recordings without timesteps: all values are there before anything is written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.paths import is_free
from emerdiff_probe.store.growing import Growing
from emerdiff_probe.store.plan import TOKEN_TEXT, Leaf, Plan
from emerdiff_probe.store.precision import widened
from emerdiff_probe.store.reading import open_recording
from emerdiff_probe.store.writing import check_continues

__all__ = ["record_at_once", "tree_of"]


def tree_of(plan: Plan, values: Mapping[str, NDArray[Any]]) -> xr.DataTree:
    """Return a recording in memory.

    Args:
        plan: What it holds.
        values: Values of every leaf, (sample[, guidance], ...).
    """
    leaves = {
        leaf.path: xr.Dataset(
            {"value": (plan.dims(leaf), widened(values[leaf.path]))}, coords=_coords(plan, leaf)
        )
        for leaf in plan.leaves
    }
    return xr.DataTree.from_dict({"/": plan.root(), **leaves})


def _coords(plan: Plan, leaf: Leaf) -> dict[str, Any]:
    words = {} if leaf.words is None else {TOKEN_TEXT: (plan.word_dims(leaf), leaf.words)}
    return {**plan.coords(leaf), **words}


def record_at_once(path: Path, plan: Plan, values: Mapping[str, NDArray[Any]]) -> xr.DataTree:
    """Write a recording to a folder, which gets its name when all is in it, and open it.

    One that is there already, of the same model and settings, is opened as it is.

    Args:
        path: The folder.
        plan: What it holds.
        values: Values of every leaf, (sample[, guidance], ...).

    Raises:
        StoreError: The folder is something else, or cannot be written.
        ConfigError: It holds a recording of other settings or of another model.
    """
    if is_free(path):
        Growing(path).finish(plan, {name: np.asarray(each) for name, each in values.items()})
    else:
        check_continues(path, plan)
    return open_recording(path)
