"""Interventions on sites: what is done to a model's tensors while it runs, as values.

Each names a site, as recording does. Masks, directions and values may be labelled arrays, from
memory or from an opened store; see `emerdiff_probe.interventions.labelled`.
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
    """Adds the same number to all channels of a location: the paper's ``+ c M``.

    At an attention's ``out`` it is the paper's ``f(softmax(.) V) + c M``, at its ``mix``
    ``f(softmax(.) V + c M)`` (Namekata et al. 2024, section 3.2 and figure 14).

    Attributes:
        strength: c, in units of the site.
    """

    strength: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("strength", checks.number("strength", self.strength))

    def edited(self, tensor: Tensor, call: Call) -> Tensor:
        """Shifted."""
        return tensor + self.strength


@dataclass(frozen=True, eq=False)
class Steer(SiteEdit):
    """Adds a direction in channels, such as the difference of two mean features.

    Attributes:
        direction: Of any length but 0, shape (channel,). It is scaled to a root mean square of 1,
            so that a direction of ones does what `Shift` does. A labelled array may have its heads
            split, and sample, guidance and timestep: a direction for each.
        strength: In units of the site.
    """

    direction: Array = field(repr=False)
    strength: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("strength", checks.number("strength", self.strength))

    def edited(self, tensor: Tensor, call: Call) -> Tensor | None:
        """Moved along the direction."""
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
                f"'{self.site}' has {channels} channels; a direction has that many numbers, not "
                f"all of them 0, and this one has shape {tuple(directions.shape[1:])}"
            )
        units = directions / sizes
        shape = (-1, channels, 1, 1) if tensor.ndim == 4 else (-1, 1, channels)
        return tensor + self.strength * units.reshape(shape)


@dataclass(frozen=True, eq=False)
class Scale(SiteEdit):
    """Multiplies by a number.

    Attributes:
        factor: 1 changes nothing.
    """

    factor: float

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("factor", checks.number("factor", self.factor))

    def edited(self, tensor: Tensor, call: Call) -> Tensor:
        """Scaled."""
        return tensor * self.factor


@dataclass(frozen=True, eq=False)
class Ablate(SiteEdit):
    """Takes away what a site says: of its place, or altogether.

    Attributes:
        how: "zero", or "mean": every location (or token) gets the mean over all of them.
    """

    how: Literal["zero", "mean"] = "zero"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.how not in ("zero", "mean"):
            raise ConfigError(f"how is {self.how!r}; choose 'zero' or 'mean'")

    def edited(self, tensor: Tensor, call: Call) -> Tensor:
        """Ablated."""
        if self.how == "zero":
            return torch.zeros_like(tensor)
        return tensor.mean((2, 3) if tensor.ndim == 4 else 1, keepdim=True).expand_as(tensor)


@dataclass(frozen=True, eq=False)
class Noise(SiteEdit):
    """Adds Gaussian noise: at each timestep its own, in every row and every run the same.

    Attributes:
        strength: Standard deviation, in units of the site.
        seed: Of the noise.
    """

    strength: float
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("strength", checks.number("strength", self.strength))
        self._set("seed", checks.integer("seed", self.seed, 0, checks.MOST_SEED))

    def edited(self, tensor: Tensor, call: Call) -> Tensor:
        """With noise."""
        # Timesteps that `same` tells apart differ here, too.
        number = self.seed * 2**31 + round((call.timestep or 0) * 10_000)
        generator = torch.Generator().manual_seed(number)
        noise = torch.randn(tensor.shape[1:], generator=generator)
        return tensor + self.strength * noise.to(tensor)


@dataclass(frozen=True, eq=False)
class Replace(SiteEdit):
    """Puts another tensor in the place of a site's: patching.

    A recorded array goes back as it came, as in ``Replace(site, ep.site(run, site))``: at the
    timesteps that it has, in order where a scheduler calls twice at one, each half and each sample
    to its own. What was chosen from it counts, too: of one timestep or one half, the others are
    left alone (``timesteps=`` says otherwise). Values that were recorded in float16 are rounded.

    Attributes:
        value: In the site's own shape, of one row or of as many as the call has; or recorded.
    """

    value: Array = field(repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.timesteps is None and (chosen := self._chosen(TIMESTEP)) is not None:
            self._set("timesteps", (checks.timestep("timestep", chosen),))

    def _chosen(self, dim: str) -> Any:
        """What was chosen from a dim of a recorded array."""
        if not isinstance(self.value, xr.DataArray) or dim in self.value.dims:
            return None
        return self.value.coords[dim].item() if dim in self.value.coords else None

    def acts_at(self, timestep: float) -> bool:
        """Whether there is a value for a timestep."""
        value = self.value
        if isinstance(value, xr.DataArray) and TIMESTEP in value.dims:
            there: list[float] = value[TIMESTEP].values.tolist()
            if not matching(there, timestep):
                return False
        return super().acts_at(timestep)

    def _half(self, call: Call) -> Half | None:
        chosen = self._chosen(GUIDANCE) if call.halves == 2 else None
        return super()._half(call) or chosen

    def edited(self, tensor: Tensor, call: Call) -> Tensor | None:
        """The other tensor."""
        if isinstance(self.value, xr.DataArray):
            found = values_at(self.value, call, tensor, self.site)
            if found is None:
                return None
            value = found.to(tensor)
        else:
            value = torch.as_tensor(self.value).to(tensor)
        if value.shape[-tensor.ndim + 1 :] != tensor.shape[1:]:
            raise SiteError(
                f"'{self.site}' gives {tuple(tensor.shape)}, in whose place {tuple(value.shape)} "
                "cannot stand; give one of the same shape, with the rows or without"
            )
        return value.expand_as(tensor)
