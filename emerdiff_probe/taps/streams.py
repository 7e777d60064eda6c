"""Find the image's and the text's part in the output of a module.

Transformer blocks return a tuple of both, in an order that differs between networks, or one tensor
that holds the tokens of one after those of the other. Layouts describe which; a tuple that no
layout describes is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from emerdiff_probe.errors import CaptureError, SiteError
from emerdiff_probe.models.arguments import image_tokens
from emerdiff_probe.models.layouts import IMAGE, TEXT, Layout, Part, layout_of
from emerdiff_probe.sites import TEXT_PORTS, Site

__all__ = ["Stream", "Tokens", "is_multiplied", "stream_at"]


@dataclass
class Tokens:
    """The number of image tokens in the call in progress."""

    image: int = 0

    def note(self, network: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        """Note the number of image tokens of a call; a forward pre-hook of the network."""
        self.image = image_tokens(network, inputs, named)


@dataclass(frozen=True, eq=False)
class Stream:
    """One stream in the output of a module, or among the factors of an attention.

    Attributes:
        site: The site, for errors.
        index: The position of the stream among the tensors that the module returns; None if
            unknown.
        joint: The order of the streams that share one tensor; empty if each has its own.
        tokens: The tokens of the call in progress.
    """

    site: Site
    index: int | None
    joint: tuple[str, ...] = ()
    tokens: Tokens = field(default_factory=Tokens)

    def of(self, output: Any) -> Tensor:
        """Return the stream's own tensor, rows first.

        Raises:
            SiteError: The module returns several tensors, and the layout does not say which is
                meant.
            CaptureError: The module returned None for this stream.
        """
        if self.joint:
            own: Tensor = output[:, self._places(output)]
            return own
        if isinstance(output, Tensor):
            return output
        if self.index is None:
            raise SiteError(
                f"'{self.site}' returns {len(output)} tensors, and no layout says which holds the "
                "image; choose a site of model.sites(), or a module within this one"
            )
        found = output[self.index]
        if found is None:
            raise CaptureError(
                f"'{self.site}' returns nothing: the last blocks of some models drop the text; "
                "choose an earlier block"
            )
        return found

    def put(self, output: Any, tensor: Tensor) -> Any:
        """Return an output with another tensor in the stream's place."""
        if self.joint:
            edited = output.clone()
            edited[:, self._places(output)] = tensor
            return edited
        if isinstance(output, Tensor):
            return tensor
        kept = list(output)
        kept[self.index or 0] = tensor
        return tuple(kept)

    def _places(self, output: Tensor) -> slice:
        first, image = self.joint[0], self.tokens.image
        of_image = not self.site.port.startswith(TEXT)
        if first == IMAGE:
            return slice(0, image) if of_image else slice(image, None)
        text = output.shape[1] - image
        return slice(text, None) if of_image else slice(0, text)


def stream_at(network: nn.Module, site: Site, tokens: Tokens) -> Stream:
    """Return the stream of a site in the output of its module.

    Args:
        network: The network that has the site.
        site: The site.
        tokens: The tokens of the call in progress; whoever opens the taps keeps them up to date.

    Raises:
        SiteError: The module has no text stream, or is no attention.
    """
    layout = layout_of(network)
    if site.port in TEXT_PORTS or is_multiplied(network, site):
        part = layout.part(site.path)
        if part is None or part.kind != "attention":
            raise SiteError(f"'{site.path}' is not an attention; see model.sites('*:query')")
        if site.port in TEXT_PORTS and TEXT not in part.multiplied:
            raise SiteError(
                f"'{site.path}' does not attend to text and image jointly; see "
                "model.sites(kind='joint')"
            )
        if not part.multiplied:
            raise SiteError(
                f"'{site.path}' is a linear attention, which multiplies no queries with keys; "
                "choose its port 'out'"
            )
        return Stream(site, 0, part.multiplied if len(part.multiplied) > 1 else (), tokens)
    if site.port == "normed":
        return _of_block(layout, site, tokens)
    part = layout.part(site.path) if site.port in ("out", TEXT) else None
    if site.port == TEXT and (part is None or TEXT not in part.streams):
        raise SiteError(f"'{site.path}' has no text stream; see model.sites('*:text')")
    return _in(layout, part, site, tokens)


def is_multiplied(network: nn.Module, site: Site) -> bool:
    """Return whether a site is read where its attention is multiplied, rather than at a projection.

    This holds for transformers, which normalise, rotate and join queries and keys after projecting
    them. In UNets the projections are what is multiplied, whichever processor is used.
    """
    of_attention = site.port in TEXT_PORTS or site.port in ("query", "key", "value", "mix")
    return of_attention and not layout_of(network).is_unet


def _of_block(layout: Layout, site: Site, tokens: Tokens) -> Stream:
    part = layout.part(site.path)
    if part is None or not part.normed:
        raise SiteError(
            f"'{site.path}' has no adaptive normalisation of its own; blocks of transformers have, "
            "see model.sites('*:normed')"
        )
    return Stream(site, 0, part.streams if len(part.streams) > 1 else (), tokens)


def _in(layout: Layout, part: Part | None, site: Site, tokens: Tokens) -> Stream:
    if part is None:
        # Blocks of UNets return their maps first, and then what the skip connections need.
        return Stream(site, 0 if layout.is_unet else None)
    wanted = TEXT if site.port == TEXT or part.streams == (TEXT,) else IMAGE
    return Stream(site, part.streams.index(wanted), part.streams if part.joint else (), tokens)
