"""Streams: which part of what a module gives is the image's, and which the text's.

Blocks of transformers give a tuple of both, in an order of their own, or one tensor with the
tokens of one behind those of the other. Layouts say which; where none does, a tuple is refused.
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
    """Count the tokens of an image in the call in progress."""

    image: int = 0

    def note(self, network: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        """Takes it from a call, as a forward pre-hook of the network."""
        self.image = image_tokens(network, inputs, named)


@dataclass(frozen=True, eq=False)
class Stream:
    """One stream in the output of a module, or in what an attention multiplies.

    Attributes:
        site: Where, for errors.
        index: Its place among those that the module gives; None where nothing says.
        joint: Order of the streams that lie in one tensor; none where each has its own.
        tokens: Tokens of the call in progress.
    """

    site: Site
    index: int | None
    joint: tuple[str, ...] = ()
    tokens: Tokens = field(default_factory=Tokens)

    def of(self, output: Any) -> Tensor:
        """Return the stream's own tensor, rows first.

        Raises:
            SiteError: Nothing says which of several tensors it is.
            CaptureError: The module left it out.
        """
        if self.joint:
            own: Tensor = output[:, self._places(output)]
            return own
        if isinstance(output, Tensor):
            return output
        if self.index is None:
            raise SiteError(
                f"'{self.site}' gives {len(output)} tensors, and nothing says which is of the "
                "image; choose a site of model.sites(), or a module within this one"
            )
        found = output[self.index]
        if found is None:
            raise CaptureError(
                f"'{self.site}' gives nothing: the last blocks of some models leave the text out"
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
    """Return where the stream of a site lies in what its module gives.

    Args:
        network: Whose site it is.
        site: The site.
        tokens: Tokens of the call in progress; who opens the taps notes them.

    Raises:
        SiteError: The module gives no text, or multiplies nothing.
    """
    layout = layout_of(network)
    if site.port in TEXT_PORTS or is_multiplied(network, site):
        part = layout.part(site.path)
        if part is None or part.kind != "attention":
            raise SiteError(f"'{site.path}' is no attention; see model.sites('*:query')")
        if site.port in TEXT_PORTS and TEXT not in part.multiplied:
            raise SiteError(
                f"'{site.path}' multiplies no text together with the image; see "
                "model.sites(kind='joint')"
            )
        return Stream(site, 0, part.multiplied if len(part.multiplied) > 1 else (), tokens)
    part = layout.part(site.path) if site.port in ("out", TEXT) else None
    if site.port == TEXT and (part is None or TEXT not in part.streams):
        raise SiteError(f"'{site.path}' gives no text of its own; see model.sites('*:text')")
    return _in(layout, part, site, tokens)


def is_multiplied(network: nn.Module, site: Site) -> bool:
    """Return whether a site is seen where its attention is multiplied, and not at a projection.

    So it is in transformers, which normalise, rotate and join queries and keys; in UNets what is
    projected is what is multiplied, by whichever processor.
    """
    of_attention = site.port in TEXT_PORTS or site.port in ("query", "key", "value", "mix")
    return of_attention and not layout_of(network).is_unet


def _in(layout: Layout, part: Part | None, site: Site, tokens: Tokens) -> Stream:
    if part is None:
        # Blocks of UNets give their maps first, and then what skips need.
        return Stream(site, 0 if layout.is_unet else None)
    wanted = TEXT if site.port == TEXT or part.streams == (TEXT,) else IMAGE
    return Stream(site, part.streams.index(wanted), part.streams if part.joint else (), tokens)
