"""Parts beside the denoiser: text encoders and the autoencoder, whose sites bear the part's name.

``text_encoder.layers.3`` is the same site in CLIP, T5 and decoders of language, in any version of
transformers: what their modules are called stands in tables here. Sites of an autoencoder keep the
paths of diffusers. These parts run once a run, before the first timestep or after the last.
"""

from __future__ import annotations

import functools
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

import pandas as pd
import torch
from torch import Tensor, nn

from emerdiff_probe.errors import SiteError, closest
from emerdiff_probe.models.layouts import unwrapped
from emerdiff_probe.schema import CHANNEL, TOKEN, X, Y
from emerdiff_probe.sites import Site

__all__ = [
    "DECODER",
    "ENCODER",
    "TEXT",
    "Text",
    "beside_table",
    "module_beside",
    "named_beside",
    "parts_beside",
    "reading",
    "role_of",
    "text_read",
]

TEXT: Final = "text"
ENCODER: Final = "encoder"
DECODER: Final = "decoder"

Text = Literal["uncond", "cond"]
"""Which of the two texts of guidance is encoded; without guidance there is "cond" alone."""

Shape = tuple[int, ...]

_PART: Final = re.compile(r"(text_encoder(?:_\d+)?|vae|decoder)\.(.+)")
_BEGINNING: Final = re.compile(r"(?:text_encoder|vae|decoder)(?![a-z])")
_PARTS: Final = ("text_encoder", *(f"text_encoder_{n}" for n in range(2, 10)), "vae", "decoder")

_WITHIN: Final = r"(?:(?:text_model|language_model|model|encoder)\.)*"
_LAYER: Final = rf"{_WITHIN}(?:layers|block)\.(\d+)"
_TEXT_SITES: Final = (
    ("embedding", rf"{_WITHIN}(?:embeddings|embed_tokens|shared)", "embeddings"),
    ("layer", _LAYER, r"layers.\1"),
    ("self", rf"{_LAYER}\.(?:self_attn|layer\.0\.SelfAttention)", r"layers.\1.attn"),
    ("feed-forward", rf"{_LAYER}\.(?:mlp|layer\.1\.DenseReluDense)", r"layers.\1.ff"),
    ("norm", rf"{_WITHIN}(?:final_layer_norm|norm)", "norm"),
)
"""Kind, pattern of paths and name of the modules of text encoders."""

_ROOM: Final = rf"(?:{ENCODER}|{DECODER})"
_BLOCK: Final = rf"{_ROOM}\.(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)"
_AUTOENCODER_SITES: Final = (
    ("conv", rf"({_ROOM}\.(?:conv_in|conv_out))", r"\1"),
    ("block", rf"({_BLOCK}|{_ROOM}\.layers\.\d+)", r"\1"),
    ("resnet", rf"({_BLOCK}\.resnets\.\d+)", r"\1"),
    ("self", rf"({_BLOCK}\.attentions\.\d+)", r"\1"),
)
"""The same of autoencoders, tiny ones included."""


@dataclass(frozen=True, eq=False)
class _Place:
    """A site's kind and its module."""

    kind: str
    module: nn.Module


def role_of(site: Site | str) -> str | None:
    """Return "text", "encoder" or "decoder": what a site's part is for; None of the denoiser's.

    >>> role_of("text_encoder_2.layers.0"), role_of("vae.decoder.conv_in"), role_of("mid_block")
    ('text', 'decoder', None)
    """
    found = _PART.fullmatch(site.path if isinstance(site, Site) else site.partition(":")[0])
    if found is None:
        return None
    if found[1].startswith("text_encoder"):
        return TEXT
    return ENCODER if found[2].startswith(ENCODER) else DECODER


def named_beside(pattern: str) -> bool:
    """Return whether a pattern of sites names those of parts beside the denoiser.

    ``*`` and all patterns that do not begin with the name of such a part are the denoiser's.

    Raises:
        SiteError: It names both.

    >>> named_beside("text_encoder*.layers.*"), named_beside("*"), named_beside("mid_block")
    (True, False, False)
    """
    names = [each.strip().removeprefix("!").strip() for each in pattern.split(",")]
    beside = [each for each in names if _BEGINNING.match(each)]
    if beside and len(beside) < len(names):
        other = next(each for each in names if each not in beside)
        raise SiteError(
            f"{beside[0]!r} is beside the denoiser and runs once a run, and {other!r} is the "
            "denoiser's; choose them in two calls"
        )
    return bool(beside)


def parts_beside(model: Any) -> dict[str, nn.Module]:
    """Return the text encoders and autoencoders of a model or pipeline by name.

    Of a bare network there are none.
    """
    parts: Mapping[str, Any] = getattr(model, "parts", None) or getattr(model, "components", {})
    return {
        name: part for name, part in parts.items() if name in _PARTS and isinstance(part, nn.Module)
    }


def module_beside(model: Any, site: Site) -> nn.Module:
    """Return the module that gives a site's tensor.

    Raises:
        SiteError: The model has no such site; gives the closest.
    """
    places = _places(parts_beside(model))
    if site.port != "out" or site.path not in places:
        hint = closest(site.path, places) if places else "it has no part beside its network"
        raise SiteError(
            f"no site '{site}' in this {type(model).__name__}; {hint}. Parts beside the denoiser "
            "have port 'out' alone; see model.sites('text_encoder*.*') and model.sites('vae.*')"
        )
    return places[site.path].module


def _places(parts: Mapping[str, nn.Module]) -> dict[str, _Place]:
    """All sites that there may be, by path."""
    found: dict[str, _Place] = {}
    for name, part in parts.items():
        for path, module in unwrapped(part).named_modules():
            place = _named(name, path)
            # Another decoder takes the place of the autoencoder's own.
            unused = {"vae": DECODER if "decoder" in parts else "", "decoder": ENCODER}
            if place is None or (unused.get(name) and place[1].startswith(unused[name])):
                continue
            # Of several modules of one name the last is called: T5 keeps a "shared" embedding, too.
            found[f"{name}.{place[1]}"] = _Place(place[0], module)
    return found


def _named(part: str, path: str) -> tuple[str, str] | None:
    """Return kind and name of the site that a module of a part is."""
    table = _TEXT_SITES if part.startswith("text_encoder") else _AUTOENCODER_SITES
    for kind, pattern, name in table:
        if (found := re.fullmatch(pattern, path)) is not None:
            return kind, found.expand(name)
    return None


def beside_table(model: Any, pattern: str, height: int, width: int) -> pd.DataFrame:
    """Return the sites of the parts that a pattern names, in the order of computing.

    Text encoders read the empty prompt for it; of the autoencoder a copy without weights is run.

    Args:
        model: Model from `emerdiff_probe.load`.
        pattern: Names of sites, all of parts beside the denoiser.
        height, width: Size of the image in pixels.

    Returns:
        The columns of `emerdiff_probe.models.catalogue.catalogue`. What an encoder of text gives
        lies on no grid, and its ``level`` is 0.
    """
    parts = parts_beside(model)
    wanted = {
        name: part
        for name, part in parts.items()
        for each in pattern.split(",")
        if fnmatchcase(name, re.split("[.:]", each.strip().lstrip("! "))[0])
    }
    if not wanted:
        raise SiteError(f"no part of this model matches {pattern!r}; it has {', '.join(parts)}")
    rows = []
    shapes = _shapes(model, wanted, height, width)
    places = _places(parts)
    for path, (dims, shape) in shapes.items():
        level = shape[0] if dims[0] == Y else 0
        item = next(iter(places[path].module.parameters()), torch.empty(())).dtype.itemsize
        size = math.prod(shape) * item
        rows.append((f"{path}:out", places[path].kind, level, dims, shape, size))
    columns = ["site", "kind", "level", "dims", "shape", "bytes"]
    return pd.DataFrame(rows, columns=columns).set_index("site")


def _shapes(
    model: Any, parts: Mapping[str, nn.Module], height: int, width: int
) -> dict[str, tuple[tuple[str, ...], Shape]]:
    """Dims and shape of each site of some parts, in the order of computing."""
    found: dict[str, tuple[tuple[str, ...], Shape]] = {}
    texts = [name for name in parts if name.startswith("text_encoder")]
    if texts:
        thread = threading.get_ident()
        places = _places({name: parts[name] for name in texts})

        def note(path: str, output: Any) -> None:
            if threading.get_ident() == thread:
                tensor = output if isinstance(output, Tensor) else output[0]
                found[path] = (TOKEN, CHANNEL), tuple(tensor.shape[1:])

        with _noted(places, note):
            model.condition("")
    for name, role in (("vae", ENCODER), ("vae", DECODER), ("decoder", DECODER)):
        if name not in parts:
            continue
        own: Any = unwrapped(parts[name])
        kind: Any = type(own)
        config = json.dumps(dict(own.config), sort_keys=True, default=str)
        kept = {each.removeprefix(f"{name}.") for each in _places(parts_beside(model))}
        for path, shape in _map_shapes(kind, config, height, width).items():
            if path.startswith(role) and path in kept:
                found[f"{name}.{path}"] = (Y, X, CHANNEL), (*shape[1:], shape[0])
    return found


@contextmanager
def _noted(places: Mapping[str, _Place], note: Callable[[str, Any], None]) -> Iterator[None]:
    with ExitStack() as stack:
        for path, place in places.items():
            handle = place.module.register_forward_hook(
                lambda _m, _i, output, path=path: note(path, output)
            )
            stack.callback(handle.remove)
        yield


@functools.lru_cache(maxsize=16)
def _map_shapes(kind: Any, config: str, height: int, width: int) -> dict[str, Shape]:
    """Shape (channel, y, x) of what the modules of an autoencoder give, by path."""
    found: dict[str, Shape] = {}

    def note(path: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            found[path] = tuple(output.shape[1:])

    with torch.inference_mode(), torch.device("meta"):
        copy = kind.from_config(json.loads(config)).eval()
        places = {path.removeprefix("vae."): each for path, each in _places({"vae": copy}).items()}
        with _noted(places, note):
            encoded = copy.encode(torch.empty(1, copy.config.in_channels, height, width))
            tiny = hasattr(encoded, "latents")
            copy.decode(encoded.latents if tiny else encoded.latent_dist.mode())
    return found


_READING: Final[ContextVar[Text | None]] = ContextVar("reading", default=None)


@contextmanager
def reading(text: Text) -> Iterator[None]:
    """Tell which of the texts of guidance is encoded while the context lasts."""
    token = _READING.set(text)
    try:
        yield
    finally:
        _READING.reset(token)


def text_read() -> Text | None:
    """Return which of the texts of guidance a model encodes at this moment.

    None where nobody tells, as in a pipeline's own call.
    """
    return _READING.get()
