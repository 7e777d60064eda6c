"""Check the keys of a recorded attention: which were masked, and whether all were recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import numpy as np
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import LOCATION, TOKEN

__all__ = ["mask_bias", "refuse_reduced"]

_HIDDEN: Final = np.float32(-10_000)
"""Score that diffusers adds to keys that must not be seen."""


def mask_bias(run: xr.DataTree, path: str, sizes: Mapping[str, int]) -> xr.DataArray | None:
    """Return what a mask of keys added to an attention's scores.

    Args:
        run: Recording.
        path: Path of the attention.
        sizes: Size of each dim of its keys: of tokens, or of locations.

    Returns:
        Bias with dims (sample[, guidance]) and those of ``sizes``: 0 for keys that are seen and
        -10000 for the others; None where no mask was given.
    """
    # A transformer block passes one mask to its first attention and the other to its second.
    name = "encoder_attention_mask" if path.endswith("attn2") else "attention_mask"
    coords = run.to_dataset().coords
    if name not in coords:
        return None
    mask = coords[name].variable
    dim = TOKEN if TOKEN in mask.dims else LOCATION
    leading = [each for each in mask.dims if each != dim]
    values = mask.transpose(*leading, dim).values
    values = values.reshape(*values.shape[:-1], *sizes.values())
    return xr.DataArray((1 - values) * _HIDDEN, dims=(*leading, *sizes))


def refuse_reduced(run: xr.DataTree, path: str, keys: xr.DataArray) -> None:
    """Refuse queries and keys that were reduced, as they would give other probabilities.

    Args:
        run: Recording.
        path: Path of the attention.
        keys: Keys of the attention.

    Raises:
        InputError: A reducer changed them; the message names it.
    """
    reducers = json.loads(run.attrs.get("config", "{}")).get("reduce", [])
    # Reducers that keep queries and keys as they are, or only leave out queries.
    exact = {"heads", "crop" if TOKEN in keys.dims else "tokens"}
    found = [each["kind"] for each in reducers if each["kind"] not in exact]
    if found:
        raise InputError(
            f"this recording was made with reduce={found[0]}, but the probabilities of {path!r} "
            "follow only from whole queries and keys; record them without it (heads may be chosen)"
        )
