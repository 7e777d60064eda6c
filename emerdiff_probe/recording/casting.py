"""Turn tapped tensors into recorded values: laid out by location, cast and checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

import pandas as pd
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from emerdiff_probe.errors import CaptureError, ConfigError
from emerdiff_probe.models.finite import IN_FLOAT32
from emerdiff_probe.sites import Site

__all__ = ["Sites", "ValueType", "as_array", "laid_out", "pattern_of", "torch_dtype"]

Sites: TypeAlias = "str | Sequence[str] | pd.DataFrame"
"""A pattern, several patterns, or a table from `model.sites()`."""

ValueType = Literal["float16", "float32"]
"""The dtype that values are cast to. NumPy and Zarr have no bfloat16."""

_DTYPES: Final = {"float16": torch.float16, "float32": torch.float32}
_WIDER: Final = {torch.float16: torch.float32, torch.float32: torch.float64}


def pattern_of(sites: Sites) -> str:
    """Return one pattern for everything that `sites` names."""
    if isinstance(sites, str):
        return sites
    return ",".join(sites.index if isinstance(sites, pd.DataFrame) else sites)


def torch_dtype(name: str) -> torch.dtype:
    """Return the torch dtype of a name.

    Raises:
        ConfigError: Recordings do not support this dtype.
    """
    if name not in _DTYPES:
        raise ConfigError(f"dtype is {name!r}; choose one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def laid_out(tensor: Tensor, site: Site, shape: tuple[int, ...]) -> Tensor:
    """Return a site's tensor with its rows first, then its dims as a catalogue names them.

    Args:
        tensor: The tensor, shape (row, channel, y, x) or (row, location or token, channel).
        site: The site of the tensor.
        shape: The shape of one row, such as (y, x, head, channel).

    Raises:
        CaptureError: The tensor's size differs from that of the network's layout.
    """
    if tensor.ndim == 4:
        tensor = rearrange(tensor, "row c y x -> row y x c")
    if tensor[0].numel() != math.prod(shape):
        raise CaptureError(
            f"'{site}' has shape {tuple(tensor.shape)}, which is not {shape} in each row; "
            "check whether something loaded into the UNet changes the number of its tokens"
        )
    return tensor.detach().reshape(-1, *shape)


def as_array(
    tensor: Tensor, dtype: torch.dtype, site: Site, timestep: float | None = None
) -> NDArray[Any]:
    """Return values in a dtype of recordings, in NumPy's memory.

    Raises:
        CaptureError: Some values are not finite, or too large for the dtype.
    """
    cast = tensor.to(dtype)
    # A sum in a wider dtype is finite if and only if all values are, and takes one pass.
    if not math.isfinite(cast.sum(dtype=_WIDER[dtype])):
        name = str(dtype).removeprefix("torch.")
        when = "" if timestep is None else f" at timestep {timestep:g}"
        raise CaptureError(
            f"'{site}' gives values that are not finite{when}; {IN_FLOAT32}"
            if cast.isnan().any() or dtype == torch.float32
            else f"'{site}' has values beyond {torch.finfo(dtype).max:g}{when}, which "
            f"{name} cannot hold; record with dtype='float32'"
        )
    return cast.cpu().numpy()
