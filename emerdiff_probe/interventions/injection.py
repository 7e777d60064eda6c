"""Inject attention: keep the queries and keys of one run and use them in another."""

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
"""The queries and keys of all attention modules in one network call.

They determine the products QK^T, which would be some 30 times larger in Stable Diffusion v1.
"""


@dataclass(frozen=True, eq=False)
class InjectAttention:
    """Compute attention with the queries and keys of another run and the run's own values.

    Attributes:
        products: The queries and keys by timestep, from `attention_kept`: those of each call in
            order, because some schedulers call twice per timestep. Other timesteps are left alone.
            If this batch is larger by a factor, each kept row serves that many consecutive rows.
        pattern: A pattern for the paths of attentions, with ``*`` for any characters, as in
            ``"*attn1"``.
    """

    products: Mapping[float, Sequence[AttentionProducts]] = field(repr=False)
    pattern: str = "*"

    def acts_at(self, timestep: float) -> bool:
        """Return whether products of a timestep were kept."""
        return any(same(each, timestep) for each in self.products)

    @contextmanager
    def installed(self, unet: nn.Module, call: Call) -> Iterator[Callable[[], int]]:
        """Inject within the block; yield a function that counts the calls that it took effect in.

        Only the factors are replaced. The model's own processors do the rest, so that masks and the
        contribution of an IP-Adapter stay as they are.

        Raises:
            SiteError: No attention matches the pattern.
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
    """Return the other run's queries or keys, repeated to the rows of the run's own.

    Raises:
        CaptureError: Their shapes do not fit.
    """
    repeats, rest = divmod(len(own), len(known))
    if rest or own.shape[1:] != known.shape[1:]:
        raise CaptureError(
            f"'{site}' has shape {tuple(own.shape)}, and that of the other run is "
            f"{tuple(known.shape)}; keep attention in a run of the same size and text length, "
            "whose number of rows divides that of this one"
        )
    return known.repeat_interleave(repeats, dim=0).to(own)


@contextmanager
def products_captured(unet: nn.Module) -> Iterator[Capture]:
    """Capture the queries and keys of all attentions; ``take()`` returns them after each call."""
    with capture(unet, product_sites(unet)) as kept:
        yield kept


@contextmanager
def attention_kept(
    model: Any, timesteps: Collection[float] | None = None
) -> Iterator[Mapping[float, Sequence[AttentionProducts]]]:
    """Keep the queries and keys of every attention in every call, for `InjectAttention`.

    Args:
        model: A model from `emerdiff_probe.load`, a diffusers pipeline, or its UNet or transformer.
        timesteps: The timesteps to keep; all by default, which takes about 130 MiB each for Stable
            Diffusion v1 in float32.

    Yields:
        The products by timestep, filled as the network is called: those of each call, in order. If
        there are several runs, the last one is kept.
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
                    calls.clear()  # products of an earlier run
                calls.extend({} for _ in range(len(calls), call.visit + 1))
                calls[call.visit][site] = tensor

            return keep

        with hooked(unet, {site: keeper(site) for site in product_sites(unet)}):
            yield kept
