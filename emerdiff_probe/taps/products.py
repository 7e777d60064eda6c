"""Intercept Q, K and V where ``scaled_dot_product_attention`` multiplies them.

There, queries and keys are already normalised, rotated and joined. Attention that is computed in
another way, such as linear attention, cannot be seen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from emerdiff_probe.errors import CaptureError
from emerdiff_probe.models.locks import around

__all__ = ["Edit", "Mix", "multiplied"]

Edit = Callable[[Tensor], Tensor | None]
"""A function of a site's tensor that returns a replacement, or None to leave it unchanged."""

Mix = Callable[[Tensor], Tensor]
"""A function of values (row, head, place, channel) that returns them mixed, in the same shape."""

_FACTORS: Final = ("query", "key", "value")


@contextmanager
def multiplied(
    attention: nn.Module,
    path: str,
    edits: Mapping[str, Edit],
    *,
    masked: bool = True,
    mix: Mix | None = None,
) -> Iterator[None]:
    """Pass the factors and the product of an attention to functions, which may replace them.

    This is the first product within a forward pass of the attention: those of adapters follow it.

    Args:
        attention: The attention module.
        path: The path of the module, for errors.
        edits: The functions by port, "query", "key", "value" or "mix". Each is given shape (row,
            place, channel) with all heads side by side. If blocks are nested, the inner ones see
            the result of the outer ones.
        masked: Whether a mask is allowed, because the reader of the tensors knows it.
        mix: A function that mixes the values, so that queries and keys are not used.

    Raises:
        CaptureError: Within a call: the attention multiplies in another way, or under a mask.
    """

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*arguments: Any, **named: Any) -> Any:
            product = _OPEN.get()
            if product is not None and product.attention is attention:
                # A later block is already open on this attention; it acts after this one.
                product.edits.insert(0, edits)
                product.mix = product.mix or mix
                return original(*arguments, **named)
            product = _FirstProduct(attention, path, edits, masked, mix)
            token = _OPEN.set(product)
            try:
                with product:
                    output = original(*arguments, **named)
            finally:
                _OPEN.reset(token)
            if not product.seen:
                processor = type(getattr(attention, "processor", attention)).__name__
                raise CaptureError(
                    f"{path!r} does not multiply by scaled_dot_product_attention ({processor}), so "
                    f"its ports {', '.join(edits)} cannot be seen; choose its port 'out'"
                )
            return output

        return forward

    with around(attention, "forward", wrap):
        yield


class _FirstProduct(TorchFunctionMode):
    """Pass the first product within a block to functions, which may change it.

    Attributes:
        attention: The attention module whose forward pass the block is.
        path: The path of the module.
        edits: The functions by port, in the order in which they act.
        mix: The function that mixes the values, if any; see `multiplied`.
        seen: Whether the product has been computed.
    """

    def __init__(
        self,
        attention: nn.Module,
        path: str,
        edits: Mapping[str, Edit],
        masked: bool,
        mix: Mix | None,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.path = path
        self.edits = [edits]
        self.mix = mix
        self.seen = False
        self._masked = masked

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.seen or func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        self.seen = True
        given = dict(zip(_FACTORS, args, strict=False)) | kwargs
        self._check(given, *args[len(_FACTORS) :])
        if self.mix is not None:
            return self._edited("mix", self.mix(self._edited("value", given["value"])))
        factors: list[Any] = [self._edited(port, given.pop(port)) for port in _FACTORS]
        return self._edited("mix", func(*factors, *args[len(_FACTORS) :], **given))

    def _check(self, given: Mapping[str, Any], *further: Any) -> None:
        """Refuse a product whose probabilities do not follow from its factors in the usual way.

        Raises:
            CaptureError: A mask, causality or an unusual scale applies.
        """
        usual = given["query"].shape[-1] ** -0.5
        scale = given.get("scale")
        unusual = {
            "under a mask that is not known here": not self._masked
            and given.get("attn_mask", further[0] if further else None) is not None,
            "causally": bool(given.get("is_causal")),
            f"with scale {scale}": not math.isclose(scale or usual, usual, rel_tol=1e-5),
        }
        if found := [way for way, applies in unusual.items() if applies]:
            choice = "choose its port 'out'" if self.mix is None else "choose engine='literal'"
            raise CaptureError(
                f"{self.path!r} multiplies {' and '.join(found)}, so its probabilities would not "
                f"follow from queries and keys; {choice}"
            )

    def _edited(self, port: str, tensor: Tensor) -> Tensor:
        """Return a tensor of shape (row, head, place, channel) after all edits of a port."""
        for edits in self.edits:
            if port not in edits:
                continue
            edited = edits[port](tensor.transpose(1, 2).flatten(2))
            if edited is not None:
                tensor = edited.unflatten(2, (tensor.shape[1], -1)).transpose(1, 2)
        return tensor


_OPEN: Final[ContextVar[_FirstProduct | None]] = ContextVar("product", default=None)
"""The product of the attention that is being computed."""
