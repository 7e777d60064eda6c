"""Name single tensors inside a denoiser (sites), ``module.path:port``, and match their patterns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from emerdiff_probe.errors import SiteError, closest

__all__ = [
    "ATTENTION_PORTS",
    "PORTS",
    "PRESETS",
    "TEXT_PORTS",
    "Site",
    "reading_block",
    "select",
]

ATTENTION_PORTS: Final = ("query", "key", "value", "mix", "out")
"""Ports of an attention module: its three projections, ``softmax(Q K^T) V``, and its output."""

TEXT_PORTS: Final = ("text_query", "text_key", "text_value", "text_mix")
"""Ports of a joint attention: the text's part of what image and text multiply together."""

PORTS: Final = (*ATTENTION_PORTS, *TEXT_PORTS, "skip", "text", "normed")
"""All ports; ``skip`` is the skip connection into a resnet of an upward block, ``text`` the text
stream of a transformer module with two streams, and ``normed`` the input of a transformer block
after the block's own adaptive normalisation.
"""

PRESETS: Final = {
    "blocks": "down_blocks.?, mid_block, up_blocks.?, transformer_blocks.{number}, "
    "joint_transformer_blocks.{number}, single_transformer_blocks.{number}",
    "semantic": "{reading_block}.*:query",
    "attention": "*.attn?:*, *.attn:*",
}
"""Named patterns: the outputs of whole blocks; the queries of the upward block that the paper reads
(see `reading_block`); all ports of all attentions. Each matches those of its sites that exist.
"""

_PROJECTIONS: Final = {"query": "to_q", "key": "to_k", "value": "to_v"}
_OUTWARD: Final = "to_out.0"
_UPWARD_RESNET: Final = re.compile(r"(up_blocks\.\d+)\.resnets\.(\d+)")


@dataclass(frozen=True, order=True)
class Site:
    """One tensor of a model.

    Attributes:
        path: The dotted path of the module within the network.
        port: ``out`` for the output of any module; ``query``, ``key`` or ``value`` for the factors
            of an attention module, which in UNets are the outputs of its projections, and in
            transformers are normalised and rotated, too; ``mix`` for its mixed values, with all
            heads side by side, before its output projection; ``skip`` for the skip connection into
            a resnet of an upward block; ``text`` for the text stream of a module whose ``out`` is
            that of the image; ``normed`` for the image input of a transformer block, normalised,
            scaled and shifted for the timestep as the block reads it.

    >>> Site.parse("up_blocks.1.attentions.0.transformer_blocks.0.attn2:query").port
    'query'
    >>> str(Site.parse("mid_block"))
    'mid_block:out'
    """

    path: str
    port: str = "out"

    @classmethod
    def parse(cls, text: str) -> Site:
        """Read ``path:port``; without a port, it means ``out``.

        Aliases resolve to one name: ``attn2.to_q:out`` is ``attn2:query``.

        Raises:
            SiteError: There is no path, or no module has the port.
        """
        if not isinstance(text, str):
            raise SiteError(f"the name of a site is a text, not {text!r}; see model.sites()")
        path, _, port = text.partition(":")
        port = port or "out"
        if not path or port not in PORTS or (port == "skip" and not _UPWARD_RESNET.fullmatch(path)):
            raise SiteError(
                f"no site {text!r}; a site is a module's path and one of the ports "
                f"{', '.join(ATTENTION_PORTS)}, as in 'mid_block:out'; a skip connection, as in "
                "'up_blocks.1.resnets.0:skip'; a stream of text, as in "
                "'transformer_blocks.0:text'; or what a block reads, as in "
                "'transformer_blocks.0:normed'."
            )
        return cls(*_canonical(path, port))

    @property
    def module(self) -> str:
        """Return the path of the module whose output (for mix and skip: input) this tensor is.

        A skip connection enters at the whole upward block.
        """
        if self.port == "skip":
            return self.path.rpartition(".resnets.")[0]
        if self.port == "mix":
            return f"{self.path}.{_OUTWARD}"
        projection = _PROJECTIONS.get(self.port)
        return self.path if projection is None else f"{self.path}.{projection}"

    @property
    def skip_index(self) -> int:
        """Return the index of this skip in its upward block, which takes the last first."""
        return -1 - int(self.path.rpartition(".")[2])

    def __str__(self) -> str:
        return f"{self.path}:{self.port}"


def _canonical(path: str, port: str) -> tuple[str, str]:
    """Return ``attn.to_q:out`` as ``attn:query``."""
    parent, _, leaf = path.rpartition(".")
    for name, projection in _PROJECTIONS.items():
        if leaf == projection and port == "out":
            return parent, name
    return path, port


def reading_block(sites: Iterable[Site]) -> str | None:
    """Return the path of the first upward block with cross-attention, the one that the paper reads.

    >>> reading_block([Site("up_blocks.0"), Site("up_blocks.1.attn2"), Site("up_blocks.2.attn2")])
    'up_blocks.1'
    """
    found = (re.match(r"up_blocks\.(\d+)\b.*\battn2$", site.path) for site in sites)
    numbers = [int(match[1]) for match in found if match]
    return f"up_blocks.{min(numbers)}" if numbers else None


def select(sites: Iterable[Site], pattern: str, *, reading: str | None = None) -> list[Site]:
    """Return the sites that match a pattern, in their own order, each once.

    Args:
        sites: The sites to choose from.
        pattern: Names separated by commas, in which ``*`` stands for any characters and ``?`` for
            one. Without a port a name means ``out``; ``*`` alone means every site. A name after
            ``!`` is excluded. One of `PRESETS` stands for those of its sites that exist.
        reading: The path of the upward block that stands in for the one the paper reads; by default
            `reading_block` of the sites.

    Raises:
        SiteError: A name, or a preset as a whole, matches no site; the message gives the closest.

    >>> sites = [Site("mid_block"), Site("up.attn1", "query"), Site("up.attn2", "query")]
    >>> [str(site) for site in select(sites, "*:query, !*attn2:query")]
    ['up.attn1:query']
    """
    names = {str(site): site for site in sites}
    wanted: set[str] = set()
    unwanted: set[str] = set()
    parts = list(_parts(pattern))
    if all(excluded for _, excluded in parts):
        wanted = set(names)
    block = reading or reading_block(names.values())
    for text, excluded in parts:
        preset = PRESETS.get(text, text).replace("{reading_block}", block or "up_blocks.none")
        globs = [_glob(each) for each in _numbered(preset).split(",")]
        matching = {name for name in names for glob in globs if fnmatchcase(name, glob)}
        if not matching:
            hint = _hint(globs[0], names)
            raise SiteError(f"no site matches {text!r}; {hint}. See model.sites().")
        (unwanted if excluded else wanted).update(matching)
    return [site for name, site in names.items() if name in wanted - unwanted]


def _parts(pattern: str) -> Iterator[tuple[str, bool]]:
    """Yield the names in a pattern, and whether each is excluded."""
    for part in pattern.split(","):
        excluded = part.strip().startswith("!")
        yield part.strip().removeprefix("!").strip(), excluded


def _hint(glob: str, names: Iterable[str]) -> str:
    """Return names close to the first unknown word of a pattern, or to all of it."""
    names = list(names)
    # A number out of range is no spelling mistake; compare whole names then.
    told = [word for word in re.findall(r"\w+", glob) if not word.isdecimal()]
    unknown = [word for word in told if not any(word in name for name in names)]
    words = (word for name in names for word in re.split("[.:]", name))
    return closest(unknown[0], words) if unknown else closest(glob, names)


def _numbered(preset: str) -> str:
    """Return a preset with patterns for numbers of one and of two digits instead of any number."""
    numbers = (
        each.replace("{number}", digits) for each in preset.split(",") for digits in ("?", "??")
    )
    return ",".join(dict.fromkeys(numbers))


def _glob(text: str) -> str:
    text = text.strip()
    if text == "*":
        return "*"
    path, _, port = text.partition(":")
    return ":".join(_canonical(path, port or "out"))
