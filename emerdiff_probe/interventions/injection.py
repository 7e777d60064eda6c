"""Attention injection: queries and keys of one run, kept and given to another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from emerdiff_probe import checks
from emerdiff_probe.errors import CaptureError, SiteError
from emerdiff_probe.models.layouts import network_of
from emerdiff_probe.sites import Site
from emerdiff_probe.taps import (
    Call,
    Capture,
    capture,
    current_call,
    hooked,
    product_sites,
    restored_after_errors,
)
from emerdiff_probe.timesteps import same

__all__ = ["AttentionProducts", "InjectAttention", "attention_kept", "products_captured"]

AttentionProducts = Mapping[Site, Tensor]
"""Queries and keys of all attention modules in one UNet call.

The products QK^T follow from them and would be some 30 times larger in Stable Diffusion v1.
"""


@dataclass(frozen=True, eq=False)
class InjectAttention:
    """Computes attention with the queries and keys of another run; values stay the run's own.

    Attributes:
        products: By timestep, from `attention_kept`, those of each call at it in order: where a
            scheduler calls twice at one, each call gets its own. At other timesteps nothing is
            done. Each row serves as many rows here as the batch is larger.
        pattern: Which attentions, by path, with ``*`` for any characters, as ``"*attn1"``.
    """

    products: Mapping[float, Sequence[AttentionProducts]] = field(repr=False)
    pattern: str = "*"

    def acts_at(self, timestep: float) -> bool:
        """Whether there are products of a timestep."""
        return any(same(each, timestep) for each in self.products)

    @contextmanager
    def installed(self, unet: nn.Module, call: Call) -> Iterator[Callable[[], int]]:
        """Works while open.

        What is multiplied is replaced and all else left to the model's own processors, so that
        masks, and what an IP-Adapter adds, stay as they are.
        """
        sites = [site for site in product_sites(unet) if fnmatchcase(site.path, self.pattern)]
        if not sites:
            raise SiteError(f"no attention matches {self.pattern!r}; see model.sites(kind='self')")
        fired = 0

        def giving(site: Site) -> Callable[[Tensor], Tensor | None]:
            def give(own: Tensor) -> Tensor | None:
                nonlocal fired
                products = self._at(call)
                if products is None:
                    return None
                fired += 1
                return _in_place_of(own, products[site], site)

            return give

        with hooked(unet, {site: giving(site) for site in sites}):
            yield lambda: fired

    def _at(self, call: Call) -> AttentionProducts | None:
        timestep = call.timestep or 0
        known = self.products.get(timestep)
        if known is None:
            known = next((self.products[t] for t in self.products if same(t, timestep)), ())
        return known[call.visit % len(known)] if known else None


def _in_place_of(own: Tensor, known: Tensor, site: Site) -> Tensor:
    """Queries or keys of another run in the place of a run's own."""
    repeats, rest = divmod(len(own), len(known))
    if rest or own.shape[1:] != known.shape[1:]:
        raise CaptureError(
            f"'{site}' gives {tuple(own.shape)}, in whose place {tuple(known.shape)} of the other "
            "run cannot stand; keep attention in a run of the same size and text length, whose "
            "rows divide those of this one"
        )
    return known.repeat_interleave(repeats, dim=0).to(own)


@contextmanager
def products_captured(unet: nn.Module) -> Iterator[Capture]:
    """Keeps queries and keys of every attention; ``take()`` after each call gives the products."""
    with capture(unet, product_sites(unet)) as kept:
        yield kept


@contextmanager
def attention_kept(
    model: Any, timesteps: Collection[float] | None = None
) -> Iterator[Mapping[float, Sequence[AttentionProducts]]]:
    """Keeps queries and keys of every attention at every call, for `InjectAttention`.

    Args:
        model: From `emerdiff_probe.load`, a diffusers pipeline, or its UNet or transformer.
        timesteps: Only of these; by default of all, which is about 130 MiB a timestep for Stable
            Diffusion v1 in float32.

    Yields:
        Products by timestep, filled as the UNet is called: those of each call at it, in order. Of
        several runs the last is kept.
    """
    unet = network_of(model)
    kept: dict[float, list[dict[Site, Tensor]]] = {}
    wanted = None if timesteps is None else checks.timesteps("timesteps", timesteps)
    with restored_after_errors(model), current_call(unet) as call:

        def keeper(site: Site) -> Callable[[Tensor], None]:
            def keep(tensor: Tensor) -> None:
                timestep = call.timestep
                if timestep is None or not (
                    wanted is None or any(same(each, timestep) for each in wanted)
                ):
                    return
                calls = kept.setdefault(timestep, [])
                if call.visit == 0 and calls and site in calls[0]:
                    calls.clear()  # of a run before this one
                calls.extend({} for _ in range(len(calls), call.visit + 1))
                calls[call.visit][site] = tensor

            return keep

        with hooked(unet, {site: keeper(site) for site in product_sites(unet)}):
            yield kept
