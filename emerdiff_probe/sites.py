"""Sites: the names of single tensors inside a denoiser, ``module.path:port``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from emerdiff_probe.errors import SiteError

__all__ = ["ATTENTION_PORTS", "Site"]

ATTENTION_PORTS: Final = ("query", "key", "value", "out")
"""Ports of an attention module: its three projections and its output."""

_PROJECTIONS: Final = {"query": "to_q", "key": "to_k", "value": "to_v"}


@dataclass(frozen=True, order=True)
class Site:
    """One tensor of a model.

    Attributes:
        path: Dotted path of the module within the UNet.
        port: ``out`` for the output of any module; ``query``, ``key`` or ``value`` for what the
            projections of an attention module give.

    >>> Site.parse("up_blocks.1.attentions.0.transformer_blocks.0.attn2:query").port
    'query'
    >>> str(Site.parse("mid_block"))
    'mid_block:out'
    """

    path: str
    port: str = "out"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Reads ``path:port``; without a port it means ``out``.

        Aliases resolve to one name: ``attn2.to_q:out`` is ``attn2:query``.

        Raises:
            SiteError: No path, or a port that no module has.
        """
        path, _, port = text.partition(":")
        port = port or "out"
        if not path or port not in ATTENTION_PORTS:
            raise SiteError(
                f"no site {text!r}; a site is a module's path and one of the ports "
                f"{', '.join(ATTENTION_PORTS)}, as in 'mid_block:out'."
            )
        parent, _, leaf = path.rpartition(".")
        for name, projection in _PROJECTIONS.items():
            if leaf == projection and port == "out":
                return cls(parent, name)
        return cls(path, port)

    @property
    def module(self) -> str:
        """Dotted path of the module whose output is this tensor."""
        return f"{self.path}.{_PROJECTIONS[self.port]}" if self.port != "out" else self.path

    def __str__(self) -> str:
        return f"{self.path}:{self.port}"
