"""List a network's sites, what can be recorded there and how large it is, without running it."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor, nn

from emerdiff_probe.errors import ModelError, SiteError
from emerdiff_probe.models.layouts import LAYOUTS, Layout, layout_of, unwrapped
from emerdiff_probe.models.token_catalogue import Row, token_sites
from emerdiff_probe.schema import CHANNEL, HEAD, TOKEN, X, Y
from emerdiff_probe.sites import Site, select

__all__ = [
    "KINDS",
    "catalogue",
    "chosen",
    "is_laid_out_as_playground",
    "known_inputs",
    "text_width",
    "unwrapped",
]

_KINDS: Final = dict.fromkeys(part.kind for layout in LAYOUTS for part in layout.parts)

KINDS: Final = (*(each for each in _KINDS if each != "attention"), "self", "cross", "joint", "skip")
"""The kinds of sites. A "layer" is one of a transformer's ``transformer_blocks``."""

_PLAYGROUND_DOWN: Final = ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"]
_PLAYGROUND_UP: Final = ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"]

Shape = tuple[int, ...]


def is_laid_out_as_playground(config: Any) -> bool:
    """Return whether a UNet is configured like the bundled model, except for widths and details.

    Some of its versions have attention in the last upward block, others do not. Its upward 16 x 16
    block, which stands for the paper's, follows one of 8 x 8 that has cross-attention too.
    """
    return (
        config.get("sample_size") == 32
        and config.get("addition_embed_type", "none known") is None
        and list(config["down_block_types"]) == _PLAYGROUND_DOWN
        and list(config["up_block_types"])[:-1] == _PLAYGROUND_UP
    )


def catalogue(unet: nn.Module, latents: Shape, tokens: int) -> pd.DataFrame:
    """Return a table of all sites of a network, in the order in which they are computed.

    A copy of the network without weights is run on tensors without values, which takes no memory.

    Args:
        unet: A UNet or transformer with a layout, compiled or not; it is not run.
        latents: The shape (1, channel, y, x) of its input.
        tokens: The number of tokens of a text.

    Raises:
        ModelError: Its class has no layout, or it takes inputs that are not supported.

    Returns:
        A row for each site, by its name:

        - ``kind``, one of `KINDS`;
        - ``level``, the rows of the grid of latent locations that it belongs to;
        - ``dims`` and ``shape``, as recorded for one sample at one timestep: ``y x channel``, with
          ``head`` where an attention is projected, and ``token`` instead of ``y x`` for the keys
          and values of a text and for the text stream of a transformer;
        - ``bytes`` of that, in the network's own dtype.
    """
    original: Any = unwrapped(unet)
    config = known_inputs(original) if layout_of(original).is_unet else dict(original.config)
    text = json.dumps(config, sort_keys=True, default=str)
    item = original.dtype.itemsize
    kind: Any = type(original)
    return _table(kind, text, latents, tokens, item).copy()


@functools.lru_cache(maxsize=32)
def _table(kind_of_unet: Any, config: str, latents: Shape, tokens: int, item: int) -> pd.DataFrame:
    """Return the table of all UNets of a configuration, cached because it takes half a second."""
    with torch.device("meta"):
        copy = kind_of_unet.from_config(json.loads(config)).eval()
    layout = layout_of(copy)
    if layout.is_unet:
        rows = _map_sites(copy, layout, latents, tokens, item)
    else:
        rows = token_sites(copy, layout, latents, tokens, item)
    columns = ["site", "kind", "level", "dims", "shape", "bytes"]
    table = pd.DataFrame(rows, columns=columns).set_index("site")
    if is_laid_out_as_playground(json.loads(config)):
        table.attrs["reading_block"] = "up_blocks.1"
    return table


def _map_sites(
    copy: nn.Module, layout: Layout, latents: Shape, tokens: int, item: int
) -> list[Row]:
    """Return the sites of a UNet; see `emerdiff_probe.models.token_catalogue.token_sites`."""
    modules: dict[str, Any] = dict(copy.named_modules())
    shapes = _shapes(copy, latents, tokens)
    rows: list[Row] = []
    for site, shape in shapes.items():
        kind = _kind(layout, site, modules)
        if kind is None:
            continue
        if len(shape) == 4:
            dims: tuple[str, ...] = (Y, X, CHANNEL)
            sizes: Shape = (*shape[2:], shape[1])
            level = shape[2]
        else:
            transformer = site.path.partition(".transformer_blocks.")[0]
            grid = shapes[Site(transformer)][2:]
            level = grid[0]
            of_text = kind == "cross" and site.port in ("key", "value")
            dims, sizes = ((TOKEN,), (tokens,)) if of_text else ((Y, X), grid)
            if site.port != "out":
                heads = modules[site.path].heads
                dims, sizes = (*dims, HEAD), (*sizes, heads)
                shape = (*shape[:-1], shape[-1] // heads)
            dims, sizes = (*dims, CHANNEL), (*sizes, shape[-1])
        rows.append((str(site), kind, level, dims, sizes, math.prod(sizes) * item))
    return rows


def known_inputs(unet: Any) -> dict[str, Any]:
    """Return the configuration for a copy of a UNet, if all its inputs are supported.

    Raises:
        ModelError: The UNet takes inputs that are not supported.
    """
    config = dict(unet.config)
    if layout_of(unet).text is None:
        return config
    # An IP-Adapter adds to what attentions read, but no site of its own.
    if config["encoder_hid_dim_type"] == "ip_image_proj":
        config["encoder_hid_dim_type"] = None
    known: dict[str, tuple[tuple[Any, ...], str]] = {
        "encoder_hid_dim_type": ((None,), "a text or image encoded in another way, as Kandinsky"),
        "addition_embed_type": ((None, "text_time"), "further embeddings, as DeepFloyd IF"),
        "class_embed_type": ((None,), "an embedded image or sound, as unCLIP and AudioLDM"),
    }
    for name, (choices, reads) in known.items():
        if config[name] not in choices:
            raise ModelError(
                f"a UNet whose {name} is {config[name]!r} reads {reads} does, and is not "
                "supported; those of Stable Diffusion v1, v2 and XL are"
            )
    text_width(config["cross_attention_dim"])
    return config


def text_width(widths: int | Sequence[int]) -> int:
    """Return the channels of the text that all blocks read, from a UNet's ``cross_attention_dim``.

    diffusers allows a width for each block.

    Raises:
        ModelError: Blocks read texts of different widths.
    """
    if isinstance(widths, int):
        return widths
    first, *further = dict.fromkeys(widths)
    if further:
        raise ModelError(
            f"a UNet whose cross_attention_dim is {list(widths)} reads texts of several widths, "
            "which is not supported; choose a model whose blocks all read one text"
        )
    return first


def _kind(layout: Layout, site: Site, modules: dict[str, Any]) -> str | None:
    if site.port == "skip":
        return "skip"
    part = layout.part(site.path)
    if part is None:
        return None
    if part.kind == "attention":
        return "cross" if modules[site.path].is_cross_attention else "self"
    return part.kind


def _shapes(copy: Any, latents: Shape, tokens: int) -> dict[Site, Shape]:
    """Return the shapes at every module of a copy without weights, and every skip, in order."""
    shapes: dict[Site, Shape] = {}

    def note(path: str, output: Any) -> None:
        tensor = output if isinstance(output, Tensor) else output[0]
        shapes[Site.parse(path)] = tuple(tensor.shape)

    def note_skips(path: str, inputs: Any, named: dict[str, Any]) -> None:
        skips = named["res_hidden_states_tuple"] if named else inputs[1]
        for index, skip in enumerate(reversed(skips)):
            if f"{path}.resnets.{index}" in modules:
                shapes[Site(f"{path}.resnets.{index}", "skip")] = tuple(skip.shape)

    modules = dict(copy.named_modules())
    # The copy is discarded together with its hooks.
    for path, module in modules.items():
        if path:
            module.register_forward_hook(lambda _m, _i, output, path=path: note(path, output))
        if re.fullmatch(r"up_blocks\.\d+", path):
            module.register_forward_pre_hook(
                lambda _m, inputs, named, path=path: note_skips(path, inputs, named),
                with_kwargs=True,
            )
        if path.endswith(".to_out.0"):
            mix = Site(path.removesuffix(".to_out.0"), "mix")
            module.register_forward_pre_hook(
                lambda _m, inputs, mix=mix: shapes.update({mix: tuple(inputs[0].shape)})
            )
    with torch.inference_mode(), torch.device("meta"):
        inputs = _further_inputs(copy.config)
        if layout_of(copy).text is not None:
            width = text_width(copy.config.cross_attention_dim)
            inputs["encoder_hidden_states"] = torch.empty(1, tokens, width)
        copy(torch.empty(latents), 1, return_dict=False, **inputs)
    return shapes


def _further_inputs(config: Any) -> dict[str, Any]:
    """Return the inputs of a UNet besides latents, timestep and text, without values."""
    inputs: dict[str, Any] = {}
    if config.num_class_embeds is not None:
        inputs["class_labels"] = torch.zeros(1, dtype=torch.long)
    if config.get("addition_embed_type") == "text_time":
        # Stable Diffusion XL: a pooled text, and six numbers for the image's size and crop.
        numbers = 6
        pooled = config.projection_class_embeddings_input_dim
        pooled -= numbers * config.addition_time_embed_dim
        inputs["added_cond_kwargs"] = {
            "text_embeds": torch.empty(1, pooled),
            "time_ids": torch.empty(1, numbers),
        }
    return inputs


def chosen(
    table: pd.DataFrame,
    pattern: str,
    *,
    kind: str | Iterable[str] | None = None,
    level: int | Iterable[int] | None = None,
) -> pd.DataFrame:
    """Return the rows of a catalogue whose sites match a pattern and have the given properties.

    Args:
        table: A table from `catalogue`.
        pattern: A pattern, as for `emerdiff_probe.sites.select`.
        kind: One of `KINDS`, or several.
        level: The rows of the grid, one number or several.

    Raises:
        SiteError: A name in the pattern matches nothing, no site has such a property, or no site
            remains.
    """
    block = table.attrs.get("reading_block")
    found = select(map(Site.parse, table.index), pattern, reading=block)
    rows = table.loc[[str(site) for site in found]]
    properties: dict[str, Any] = {"kind": kind, "level": level}
    for name, wanted in properties.items():
        if wanted is None:
            continue
        values: set[Any] = set(wanted if pd.api.types.is_list_like(wanted) else [wanted])
        if unknown := values - set(table[name]):
            raise SiteError(
                f"no site has {name} {', '.join(map(repr, unknown))}; choose from "
                f"{', '.join(map(repr, table[name].unique()))}"
            )
        rows = rows[rows[name].isin(values)]
    if rows.empty:
        raise SiteError(
            f"no site of {pattern!r} has kind {kind!r} and level {level!r}. See model.sites()."
        )
    return rows
