"""Interventions: what is done to a model's tensors while it runs, as values that can be combined.

For example::

    with ep.intervene(model, [Shift(site, 10.0, mask=mask, timesteps=[281]), Ablate(other)]):
        model.predict(...)  # or a call of your own pipeline

Each names a site, as recording does, and may be limited to timesteps, samples, one half of guided
calls, heads, tokens, or locations by a mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from emerdiff_probe.errors import CaptureError, ConfigError, SiteError
from emerdiff_probe.models.active import activated
from emerdiff_probe.sites import Site
from emerdiff_probe.taps import Call, called, hooked, restored_after_errors

__all__ = [
    "Ablate",
    "Intervention",
    "Noise",
    "Replace",
    "Scale",
    "Shift",
    "SiteEdit",
    "Steer",
    "acting_at",
    "intervene",
]

Half = Literal["uncond", "cond"]


class Intervention(Protocol):
    """What `intervene` can do to a UNet."""

    def installed(
        self, unet: nn.Module, call: Call, guided: bool
    ) -> AbstractContextManager[Callable[[], int]]:
        """Works while open; gives a function that says how often it has taken effect."""

    def acts_at(self, timestep: float) -> bool:
        """Whether it changes anything at a timestep."""


def acting_at(
    interventions: Iterable[Intervention], timesteps: Iterable[float]
) -> tuple[Intervention, ...]:
    """Return the interventions that act at one of some timesteps, in order.

    The others would be refused by `intervene`, since they never take effect there.
    """
    timesteps = tuple(timesteps)
    return tuple(each for each in interventions if any(map(each.acts_at, timesteps)))


@contextmanager
def intervene(
    model: Any, interventions: Iterable[Intervention], *, guided: bool = False
) -> Iterator[None]:
    """Changes what happens inside a model as long as the ``with`` lasts.

    Of several at one site the later ones see what the earlier ones leave. Blocks may be nested; the
    model is left as it was found, whatever happens inside.

    Args:
        model: From `emerdiff_probe.load`, a diffusers pipeline with a UNet, or the UNet.
        interventions: In order.
        guided: Whether every UNet call has two halves, without and with the text (classifier-free
            guidance in one call, as Stable Diffusion pipelines do it). A call does not tell.

    Raises:
        SiteError: A site does not exist, or its tensor does not fit an intervention.
        ConfigError: One is limited to a guidance half, but calls are not guided.
        CaptureError: At the end: the UNet was called, and one of them never took effect.
    """
    unet, interventions = getattr(model, "unet", model), tuple(interventions)
    with ExitStack() as stack:
        stack.enter_context(restored_after_errors(model))
        call = stack.enter_context(called(unet))
        counts = {
            each: stack.enter_context(each.installed(unet, call, guided)) for each in interventions
        }
        stack.enter_context(activated(unet, interventions))
        yield
        idle = [each for each, count in counts.items() if count() == 0]
        if call.seen and idle:
            raise CaptureError(
                f"{idle[0]} never took effect: the UNet was called at timesteps "
                f"{sorted(call.seen, reverse=True)}"
            )


@dataclass(frozen=True, eq=False)
class SiteEdit(ABC):
    """A change of the tensor at one site.

    Attributes:
        site: Its name, as in ``model.sites()``.
        timesteps: Only at these; by default at all.
        samples: Only these samples of a batch, by number.
        guidance: Only this half of guided calls.
        heads: Only these heads of an attention; for queries, keys, values and ``mix``.
        tokens: Only these positions of a text's keys or values.
        mask: How much of the change each location gets, shape (source_y, source_x), or (sample,
            source_y, source_x) for masks of their own; 1 all of it, 0 none.
    """

    site: str
    timesteps: Collection[int] | None = field(default=None, kw_only=True)
    samples: Collection[int] | None = field(default=None, kw_only=True)
    guidance: Half | None = field(default=None, kw_only=True)
    heads: Collection[int] | None = field(default=None, kw_only=True)
    tokens: Collection[int] | None = field(default=None, kw_only=True)
    mask: ArrayLike | Tensor | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        Site.parse(self.site)
        if self.guidance not in (None, *get_args(Half)):
            raise ConfigError(f"guidance is {self.guidance!r}; choose 'uncond', 'cond' or None")

    @abstractmethod
    def edited(self, tensor: Tensor, timestep: int) -> Tensor:
        """The tensor in full after the change.

        Args:
            tensor: Shape (row, location or token, channel), or (row, channel, y, x).
            timestep: Of the call.
        """

    def acts_at(self, timestep: float) -> bool:
        """Whether it changes anything at a timestep."""
        return self.timesteps is None or timestep in self.timesteps

    @contextmanager
    def installed(self, unet: nn.Module, call: Call, guided: bool) -> Iterator[Callable[[], int]]:
        """Works while open."""
        if self.guidance is not None and not guided:
            raise ConfigError(
                f"{self} is for one half of guided calls; say intervene(..., guided=True) where "
                "each UNet call has both halves"
            )
        site, fired = Site.parse(self.site), 0
        heads = self._head_count(unet, site)

        def edit(tensor: Tensor) -> Tensor | None:
            nonlocal fired
            timestep = call.timestep
            if timestep is None:
                raise CaptureError(f"'{site}' was called outside a call of the UNet")
            if not self.acts_at(timestep):
                return None
            fired += 1
            weights = self._weights(tensor, 2 if guided else 1, heads)
            return torch.lerp(tensor, self.edited(tensor, timestep), weights.to(tensor))

        with hooked(unet, {site: edit}):
            yield lambda: fired

    def _head_count(self, unet: nn.Module, site: Site) -> int:
        if self.heads is None:
            return 0
        modules: dict[str, Any] = dict(unet.named_modules())
        if site.port in ("out", "skip") or site.path not in modules:
            raise SiteError(
                f"'{site}' has no heads; choose query, key, value or mix of an attention, as in "
                "'mid_block.attentions.0.transformer_blocks.0.attn1:mix'"
            )
        count: int = modules[site.path].heads
        _check_indices(self.heads, count, "heads", site)
        return count

    def _weights(self, tensor: Tensor, halves: int, heads: int) -> Tensor:
        """How much of the change everything in a tensor gets, broadcast against it."""
        count = len(tensor) // halves
        grid = tensor.shape[2:] if tensor.ndim == 4 else tensor.shape[1:2]
        places, channels = grid.numel(), tensor.shape[1 if tensor.ndim == 4 else 2]
        weights = torch.ones(halves, 1, 1, 1, device=tensor.device)
        if self.guidance is not None:
            weights = weights * _chosen([get_args(Half).index(self.guidance)], 2, (-1, 1, 1, 1))
        if self.samples is not None:
            _check_indices(self.samples, count, "samples", self.site)
            weights = weights * _chosen(self.samples, count, (1, -1, 1, 1)).to(weights)
        if self.mask is not None:
            weights = weights * self._mask(tuple(tensor.shape), tuple(grid), count).to(weights)
        if self.tokens is not None:
            _check_indices(self.tokens, places, "tokens", self.site)
            weights = weights * _chosen(self.tokens, places, (1, 1, -1, 1)).to(weights)
        if self.heads is not None:
            each = _chosen(self.heads, heads, (1, 1, 1, -1)).to(weights)
            weights = weights * each.repeat_interleave(channels // heads, dim=-1)
        if tensor.ndim == 3:
            return weights.expand(-1, count, -1, -1).flatten(0, 1)
        # Of maps the locations come last.
        whole = weights.expand(-1, count, places, -1).flatten(0, 1).transpose(1, 2)
        return whole.unflatten(2, tuple(grid))

    def _mask(self, shape: tuple[int, ...], grid: tuple[int, ...], count: int) -> Tensor:
        """The mask, shape (1, sample, location, 1)."""
        mask = torch.as_tensor(self.mask)
        mask = mask if mask.is_floating_point() else mask.float()
        fits = mask.ndim in (2, 3) and (
            mask.shape[-2:] == grid
            if len(grid) == 2
            else mask.shape[-2] * mask.shape[-1] == grid[0]
        )
        if not fits or (mask.ndim == 3 and len(mask) not in (1, count)):
            raise SiteError(
                f"'{self.site}' gives {shape}, which a mask of shape {tuple(mask.shape)} does not "
                "fit; a mask has the site's own locations (source_y, source_x), as model.sites() "
                "says, and may have one more axis of as many samples as the call"
            )
        return mask.reshape(1, -1, mask.shape[-2] * mask.shape[-1], 1)


def _chosen(indices: Collection[int], count: int, shape: tuple[int, ...]) -> Tensor:
    chosen = torch.zeros(count)
    chosen[list(indices)] = 1
    return chosen.reshape(shape)


def _check_indices(indices: Collection[int], count: int, what: str, site: object) -> None:
    if wrong := [each for each in indices if not 0 <= each < count]:
        raise SiteError(f"'{site}' has no {what} {wrong}; there are {count}, from 0")


@dataclass(frozen=True, eq=False)
class Shift(SiteEdit):
    """Adds the same number to all channels of a location: the paper's ``+ c M``.

    At an attention's ``out`` it is the paper's ``f(softmax(.) V) + c M``, at its ``mix``
    ``f(softmax(.) V + c M)`` (Namekata et al. 2024, section 3.2 and figure 14).

    Attributes:
        strength: c, in units of the site.
    """

    strength: float

    def edited(self, tensor: Tensor, timestep: int) -> Tensor:
        """Shifted."""
        return tensor + self.strength


@dataclass(frozen=True, eq=False)
class Steer(SiteEdit):
    """Adds a direction in channels, such as the difference of two mean features.

    Attributes:
        direction: Of any length but 0, shape (channel,). It is scaled to a root mean square of 1,
            so that a direction of ones does what `Shift` does.
        strength: In units of the site.
    """

    direction: ArrayLike | Tensor = field(repr=False)
    strength: float

    def edited(self, tensor: Tensor, timestep: int) -> Tensor:
        """Moved along the direction."""
        direction = torch.as_tensor(self.direction).to(tensor)
        channels = tensor.shape[1] if tensor.ndim == 4 else tensor.shape[2]
        size = direction.square().mean().sqrt()
        if direction.shape != (channels,) or not size > 0:
            raise SiteError(
                f"'{self.site}' has {channels} channels; a direction has that many numbers, not "
                f"all of them 0, and this one has shape {tuple(direction.shape)}"
            )
        unit = direction / size
        return tensor + self.strength * (unit[:, None, None] if tensor.ndim == 4 else unit)


@dataclass(frozen=True, eq=False)
class Scale(SiteEdit):
    """Multiplies by a number.

    Attributes:
        factor: 1 changes nothing.
    """

    factor: float

    def edited(self, tensor: Tensor, timestep: int) -> Tensor:
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

    def edited(self, tensor: Tensor, timestep: int) -> Tensor:
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

    def edited(self, tensor: Tensor, timestep: int) -> Tensor:
        """With noise."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + timestep)
        noise = torch.randn(tensor.shape[1:], generator=generator)
        return tensor + self.strength * noise.to(tensor)


@dataclass(frozen=True, eq=False)
class Replace(SiteEdit):
    """Puts another tensor in the place of a site's: patching.

    Attributes:
        value: In the site's own shape, of one row or of as many as the call has.
    """

    value: ArrayLike | Tensor = field(repr=False)

    def edited(self, tensor: Tensor, timestep: int) -> Tensor:
        """The other tensor."""
        value = torch.as_tensor(self.value).to(tensor)
        if value.shape[-tensor.ndim + 1 :] != tensor.shape[1:]:
            raise SiteError(
                f"'{self.site}' gives {tuple(tensor.shape)}, in whose place {tuple(value.shape)} "
                "cannot stand; give one of the same shape, with the rows or without"
            )
        return value.expand_as(tensor)
