"""Limit the edit of a site: to timesteps, samples, a guidance half, heads, tokens or locations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

import torch
import xarray as xr
from numpy.typing import ArrayLike
from torch import Tensor, nn

from emerdiff_probe import checks
from emerdiff_probe.errors import CaptureError, ConfigError, SiteError
from emerdiff_probe.interventions.labelled import mask_at
from emerdiff_probe.locations import LABELLED, one_array
from emerdiff_probe.models.beside import TEXT, role_of, text_read
from emerdiff_probe.sites import TEXT_PORTS, Site
from emerdiff_probe.taps import Call, check_rows, hooked, hooked_beside
from emerdiff_probe.timesteps import same

__all__ = ["Array", "Half", "SiteEdit"]

Half = Literal["uncond", "cond"]

Array: TypeAlias = ArrayLike | Tensor | xr.DataArray
"""Numbers in a fixed order of axes, or a labelled array."""


@dataclass(frozen=True, eq=False)
class SiteEdit(ABC):
    """A change of the tensor at one site.

    Attributes:
        site: The name of the site, as in ``model.sites()`` or ``model.sites("text_encoder.*")``.
            Text encoders and the autoencoder run once a run, each sample alone: their changes take
            neither timesteps nor samples nor heads.
        timesteps: The timesteps to act at, not necessarily whole (946.42); all by default.
        samples: The images of a batch to change, by index; with guidance, both halves of each.
        guidance: The half of guided calls to change, "uncond" or "cond"; both by default. In a text
            encoder, the text that is changed, "cond" being the prompt.
        heads: The heads of an attention to change, by index; for queries, keys, values and ``mix``.
        tokens: The token positions of a text to change, in its keys or values, or in a text stream.
        mask: The share of the change that each location receives, from 0 (none) to 1 (all), shape
            (source_y, source_x), or (sample, source_y, source_x) for a mask each. A labelled array
            may have its dims in any order, and may have sample, guidance and timestep.
    """

    site: str
    timesteps: Collection[float] | None = field(default=None, kw_only=True)
    samples: Collection[int] | None = field(default=None, kw_only=True)
    guidance: Half | None = field(default=None, kw_only=True)
    heads: Collection[int] | None = field(default=None, kw_only=True)
    tokens: Collection[int] | None = field(default=None, kw_only=True)
    mask: Array | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        Site.parse(self.site)
        if self.guidance not in (None, *get_args(Half)):
            raise ConfigError(f"guidance is {self.guidance!r}; choose 'uncond', 'cond' or None")
        role, port = role_of(self.site), Site.parse(self.site).port
        if self.mask is not None and (role == TEXT or port in ("text", *TEXT_PORTS)):
            raise ConfigError(f"masks are for locations, and '{self.site}' has tokens; use tokens=")
        if role is not None:
            self._check_beside(role)
        for value in vars(self).values():
            if isinstance(value, LABELLED):
                one_array(value)
        if self.timesteps is not None:
            self._set("timesteps", checks.timesteps("timesteps", self.timesteps))
        for name in ("samples", "heads", "tokens"):
            if getattr(self, name) is not None:
                self._set(name, checks.integers(name, getattr(self, name)))

    def _check_beside(self, role: str) -> None:
        """Refuse limits that have no meaning for a part that runs once a run, sample by sample."""
        limits = (
            "timesteps",
            "samples",
            "heads",
            *(() if role == TEXT else ("guidance", "tokens")),
        )
        given = [name for name in limits if getattr(self, name) is not None]
        if given:
            raise ConfigError(
                f"{given[0]} is {getattr(self, given[0])!r}, but '{self.site}' is beside the "
                "denoiser and runs once a run, each sample alone; leave it out"
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @abstractmethod
    def edited(self, tensor: Tensor, call: Call) -> Tensor | None:
        """Return the tensor after the full change, or None to leave this call alone.

        Args:
            tensor: The tensor, shape (row, location or token, channel) or (row, channel, y, x).
            call: The network call in progress.
        """

    def acts_at(self, timestep: float) -> bool:
        """Return whether it changes anything at a timestep."""
        return self.timesteps is None or any(same(each, timestep) for each in self.timesteps)

    @contextmanager
    def installed(self, unet: nn.Module, call: Call) -> Iterator[Callable[[], int]]:
        """Apply the change within a block; yield a counter of the times it took effect."""
        site, fired = Site.parse(self.site), 0
        heads = self._head_count(unet, site)

        def edit(tensor: Tensor) -> Tensor | None:
            nonlocal fired
            timestep = call.timestep
            if timestep is None:
                raise CaptureError(f"'{site}' was called outside a call of the UNet")
            if not self.acts_at(timestep):
                return None
            check_rows(site, tensor, call.rows)
            weights, edited = self._weights(tensor, call, heads), self.edited(tensor, call)
            if weights is None or edited is None:
                return None
            fired += 1
            return torch.lerp(tensor, edited, weights.to(tensor))

        with hooked(unet, {site: edit}):
            yield lambda: fired

    @contextmanager
    def installed_beside(self, model: Any) -> Iterator[Callable[[], int]]:
        """Apply the change within a block to a part beside a model's denoiser; see `installed`."""
        site, fired = Site.parse(self.site), 0

        def edit(tensor: Tensor) -> Tensor | None:
            nonlocal fired
            call = Call(rows=len(tensor), text=text_read())
            if not self._is_for(call):
                return None
            weights, edited = self._weights(tensor, call, 0), self.edited(tensor, call)
            if weights is None or edited is None:
                return None
            fired += 1
            return torch.lerp(tensor, edited, weights.to(tensor))

        with hooked_beside(model, {site: edit}):
            yield lambda: fired

    def _is_for(self, call: Call) -> bool:
        """Return whether the text that is encoded is one that is changed.

        Raises:
            ConfigError: The caller does not report which text it is.
        """
        text = self._text()
        if text is not None and call.text is None and role_of(self.site) == TEXT:
            raise ConfigError(
                f"{self} changes the text {text!r} of guidance, and the pipeline does not report "
                "which text it encodes; draw with ep.generate(), or change both texts"
            )
        return text is None or text == call.text

    def _text(self) -> Half | None:
        """Return the only text of guidance that is changed in a text encoder, else None."""
        return self.guidance

    def _head_count(self, unet: nn.Module, site: Site) -> int:
        if self.heads is None:
            return 0
        modules: dict[str, Any] = dict(unet.named_modules())
        if site.port in ("out", "skip", "text", "normed") or site.path not in modules:
            raise SiteError(
                f"'{site}' has no heads; choose query, key, value or mix of an attention, as in "
                "'mid_block.attentions.0.transformer_blocks.0.attn1:mix'"
            )
        count: int = modules[site.path].heads
        _check_indices(self.heads, count, "heads", site)
        return count

    def _half(self, call: Call) -> Half | None:
        """Return the only half of a guided call that is changed, or None if both are.

        Raises:
            ConfigError: The call is not known to have two halves.
        """
        if role_of(self.site) is not None:
            return None
        if self.guidance is not None and call.halves != 2:
            raise ConfigError(
                f"{self} changes one half of guided calls, and this call is not known to have two; "
                "call the pipeline with guidance, or pass guided=True to intervene() around a loop "
                "of your own"
            )
        return self.guidance

    def _weights(self, tensor: Tensor, call: Call, heads: int) -> Tensor | None:
        """Return the share of the change for each entry of a tensor, broadcast against it.

        None stands for the whole change everywhere.
        """
        half = self._half(call)
        if call.halves is None and self.samples is not None:
            raise ConfigError(
                f"{self} changes some samples, and the pipeline does not report which of the "
                f"{len(tensor)} rows belong to them; omit samples=, or pass guided= to intervene()"
            )
        halves = call.halves or 1
        count, rest = divmod(len(tensor), halves)
        if rest:
            raise ConfigError(f"{len(tensor)} rows of '{self.site}' are not two guidance halves")
        grid = tensor.shape[2:] if tensor.ndim == 4 else tensor.shape[1:2]
        places, channels = grid.numel(), tensor.shape[1 if tensor.ndim == 4 else 2]
        weights = torch.ones(halves, 1, 1, 1, device=tensor.device)
        if half is not None:
            weights = weights * _chosen([call.order.index(half)], 2, (-1, 1, 1, 1))
        if self.samples is not None:
            _check_indices(self.samples, count, "samples", self.site)
            weights = weights * _chosen(self.samples, count, (1, -1, 1, 1)).to(weights)
        if self.mask is not None:
            mask = self._mask(tuple(tensor.shape), tuple(grid), count, call)
            if mask is None:
                return None
            weights = weights * mask.to(weights)
        if self.tokens is not None:
            _check_indices(self.tokens, places, "tokens", self.site)
            weights = weights * _chosen(self.tokens, places, (1, 1, -1, 1)).to(weights)
        if self.heads is not None:
            each = _chosen(self.heads, heads, (1, 1, 1, -1)).to(weights)
            weights = weights * each.repeat_interleave(channels // heads, dim=-1)
        if tensor.ndim == 3:
            return weights.expand(-1, count, -1, -1).flatten(0, 1)
        # The locations of maps come last.
        whole = weights.expand(-1, count, places, -1).flatten(0, 1).transpose(1, 2)
        return whole.unflatten(2, tuple(grid))

    def _mask(
        self, shape: tuple[int, ...], grid: tuple[int, ...], count: int, call: Call
    ) -> Tensor | None:
        """Return the mask, shape (half or 1, sample or 1, location, 1).

        Raises:
            SiteError: The mask does not fit the site.
        """
        if isinstance(self.mask, xr.DataArray):
            found = mask_at(self.mask, call, shape[0], self.site)
            if found is None:
                return None
            mask, leading = found.flatten(0, 1), found.shape[:2]
        else:
            mask = torch.as_tensor(self.mask)
            leading = None
        mask = mask if mask.is_floating_point() else mask.float()
        fits = mask.ndim in (2, 3) and (
            mask.shape[-2:] == grid
            if len(grid) == 2
            else mask.shape[-2] * mask.shape[-1] == grid[0]
        )
        if not fits or (leading is None and mask.ndim == 3 and len(mask) not in (1, count)):
            raise SiteError(
                f"a mask of shape {tuple(mask.shape)} does not fit '{self.site}', which has shape "
                f"{shape}; give a mask over the site's own locations (source_y, source_x), as "
                "model.sites() lists them, optionally with a leading axis of the call's samples"
            )
        return mask.reshape(*(leading or (1, -1)), mask.shape[-2] * mask.shape[-1], 1)


def _chosen(indices: Collection[int], count: int, shape: tuple[int, ...]) -> Tensor:
    chosen = torch.zeros(count)
    chosen[list(indices)] = 1
    return chosen.reshape(shape)


def _check_indices(indices: Collection[int], count: int, what: str, site: object) -> None:
    if wrong := [each for each in indices if not 0 <= each < count]:
        raise SiteError(f"'{site}' has no {what} {wrong}; there are {count}, from 0")
