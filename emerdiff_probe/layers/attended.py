"""The keys of a recorded attention: which of them it was let see, and whether all are there."""

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
"""What diffusers adds to the scores of keys that must not be seen."""


def mask_bias(run: xr.DataTree, path: str, sizes: Mapping[str, int]) -> xr.DataArray | None:
    """Return what was added to an attention's scores since a mask kept keys from it.

    Args:
        run: A recording.
        path: Of the attention.
        sizes: Of the dims of its keys: of a token, or of locations.

    Returns:
        0 for keys that are seen and -10000 for those that are not, with dims (sample[, guidance])
        and those of ``sizes``; None where no mask was given.
    """
    # A transformer's block gives the one to its first attention and the other to its second.
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
    """Refuses queries and keys that were made smaller, which give other probabilities.

    Args:
        run: A recording.
        path: Of the attention.
        keys: Its keys.

    Raises:
        InputError: Names the reducer.
    """
    reducers = json.loads(run.attrs.get("config", "{}")).get("reduce", [])
    # Those that leave queries and keys as they are, or leave out queries.
    exact = {"heads", "crop" if TOKEN in keys.dims else "tokens"}
    found = [each["kind"] for each in reducers if each["kind"] not in exact]
    if found:
        raise InputError(
            f"this recording was made with reduce={found[0]}, and the probabilities of {path!r} "
            "follow from whole queries and keys alone; record them without it (heads may be chosen)"
        )
