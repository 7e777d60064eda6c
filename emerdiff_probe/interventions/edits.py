"""Edits of the tensors at sites while a model runs.

Each edit is a value that names a site, as recording does. Masks, directions and replacement values
may be labelled arrays, in memory or from an opened store; see
`emerdiff_probe.interventions.labelled`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import xarray as xr
from torch import Tensor

from emerdiff_probe import checks
from emerdiff_probe.errors import ConfigError, SiteError
from emerdiff_probe.interventions.labelled import direction_at, values_at
from emerdiff_probe.interventions.site_edits import Array, Half, SiteEdit
from emerdiff_probe.schema import GUIDANCE, TIMESTEP
from emerdiff_probe.taps import Call
from emerdiff_probe.timesteps import matching

__all__ = ["Ablate", "Noise", "Replace", "Scale", "Shift", "Steer"]


@dataclass(frozen=True, eq=False)
class Shift(SiteEdit):
    """Add the same number to all channels of a location: the paper's ``+ c M``.

    At an attention's ``out`` this is the paper's ``f(softmax(.) V) + c M``, at its ``mix``
    ``f(softmax(.) V + c M)`` (Namekata et al. 2024, section 3.2 and figure 14).

    Attributes:
        strength: The number c, in units of the site.
    """

    strength: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("strength", checks.number("strength", self.strength))

    def edited(self, tensor: Tensor, call: Call) -> Tensor:
        """Return the tensor plus c, weighted by the mask."""
        return tensor + self.strength


@dataclass(frozen=True, eq=False)
class Steer(SiteEdit):
    """Add a direction in channel space, such as the difference of two mean features.

    Attributes:
        direction: A nonzero vector of any length, shape (channel,). It is scaled to a root mean
            square of 1, so that a direction of ones acts like `Shift`. A labelled array may have
            its heads split, and may have dims sample, guidance and timestep for a direction each.
        strength: The factor of the scaled direction, in units of the site.
    """

    direction: Array = field(repr=False)
    strength: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("strength", checks.number("strength", self.strength))

    def edited(self, tensor: Tensor, call: Call) -> Tensor | None:
        """Return the tensor moved along the direction.

        Raises:
            SiteError: The direction has another number of channels than the tensor, or is all
                zeros.
        """
        if isinstance(self.direction, xr.DataArray):
            found = direction_at(self.direction, call, len(tensor), self.site)
            if found is None:
                return None
            directions = found.flatten(0, 1).to(tensor)
        else:
            directions = torch.as_tensor(self.direction).to(tensor)[None]
        channels = tensor.shape[1] if tensor.ndim == 4 else tensor.shape[2]
        sizes = directions.square().mean(-1, keepdim=True).sqrt()
        if directions.shape[1:] != (channels,) or not (sizes > 0).all():
            raise SiteError(
                f"'{self.site}' has {channels} channels, and the direction has shape "
                f"{tuple(directions.shape[1:])}; give a nonzero vector of {channels} numbers"
            )
        units = directions / sizes
        shape = (-1, channels, 1, 1) if tensor.ndim == 4 else (-1, 1, channels)
        return tensor + self.strength * units.reshape(shape)


@dataclass(frozen=True, eq=False)
class Scale(SiteEdit):
    """Multiply by a number.

    Attributes:
        factor: The number to multiply by; 1 changes nothing.
    """

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("factor", checks.number("factor", self.factor))

    def edited(self, tensor: Tensor, call: Call) -> Tensor:
        """Return the tensor times the factor."""
        return tensor * self.factor


@dataclass(frozen=True, eq=False)
class Ablate(SiteEdit):
    """Remove the information at a site: where it varies between locations, or all of it.

    Attributes:
        how: "zero" sets everything to 0; "mean" gives every location (or token) the mean over all
            of them.
    """

    how: Literal["zero", "mean"] = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.how not in ("zero", "mean"):
            raise ConfigError(f"how is {self.how!r}; choose 'zero' or 'mean'")

    def edited(self, tensor: Tensor, call: Call) -> Tensor:
        """Return the tensor with its values replaced by zeros or by their mean over locations."""
        if self.how == "zero":
            return torch.zeros_like(tensor)
        return tensor.mean((2, 3) if tensor.ndim == 4 else 1, keepdim=True).expand_as(tensor)


@dataclass(frozen=True, eq=False)
class Noise(SiteEdit):
    """Add Gaussian noise: different at each timestep, identical in every row and every run.

    Attributes:
        strength: The standard deviation, in units of the site.
        seed: The seed of the noise.
    """

    strength: float
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("strength", checks.number("strength", self.strength))
        self._set("seed", checks.integer("seed", self.seed, 0, checks.MOST_SEED))

    def edited(self, tensor: Tensor, call: Call) -> Tensor:
        """Return the tensor with noise added."""
        # Timesteps that `same` tells apart get different noise.
        number = self.seed * 2**31 + round((call.timestep or 0) * 10_000)
        generator = torch.Generator().manual_seed(number)
        noise = torch.randn(tensor.shape[1:], generator=generator)
        return tensor + self.strength * noise.to(tensor)


@dataclass(frozen=True, eq=False)
class Replace(SiteEdit):
    """Replace the tensor of a site by another (activation patching).

    A recorded array is put back where it came from, as in ``Replace(site, ep.site(run, site))``: at
    its own timesteps (in order, where a scheduler calls twice per timestep), each guidance half and
    each sample in its own place. If the array was narrowed to one timestep or one half, the others
    are left alone, unless ``timesteps=`` says otherwise. Values recorded in float16 are rounded to
    that precision.

    Attributes:
        value: The replacement, in the site's own shape, with one row or as many as the call has; or
            a recorded array.
    """

    value: Array = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timesteps is None and (chosen := self._chosen(TIMESTEP)) is not None:
            self._set("timesteps", (checks.timestep("timestep", chosen),))

    def _chosen(self, dim: str) -> Any:
        """Return the coordinate that a recorded array was narrowed to along a dim, else None."""
        if not isinstance(self.value, xr.DataArray) or dim in self.value.dims:
            return None
        return self.value.coords[dim].item() if dim in self.value.coords else None

    def acts_at(self, timestep: float) -> bool:
        """Return whether there is a value for a timestep."""
        value = self.value
        if isinstance(value, xr.DataArray) and TIMESTEP in value.dims:
            there: list[float] = value[TIMESTEP].values.tolist()
            if not matching(there, timestep):
                return False
        return super().acts_at(timestep)

    def _text(self) -> Half | None:
        chosen: Half | None = self._chosen(GUIDANCE)
        return super()._text() or chosen

    def _half(self, call: Call) -> Half | None:
        chosen = self._chosen(GUIDANCE) if call.halves == 2 else None
        return super()._half(call) or chosen

    def edited(self, tensor: Tensor, call: Call) -> Tensor | None:
        """Return the replacement, or None where there is none for this call.

        Raises:
            SiteError: The replacement has another shape than the site.
        """
        if isinstance(self.value, xr.DataArray):
            found = values_at(self.value, call, tensor, self.site)
            if found is None:
                return None
            value = found.to(tensor)
        else:
            value = torch.as_tensor(self.value).to(tensor)
        if value.shape[-tensor.ndim + 1 :] != tensor.shape[1:]:
            raise SiteError(
                f"'{self.site}' has shape {tuple(tensor.shape)}, and the replacement "
                f"{tuple(value.shape)}; give one of the same shape, with or without rows"
            )
        return value.expand_as(tensor)
