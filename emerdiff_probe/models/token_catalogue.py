"""List the sites of transformers, and how image and text tokens lie in them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from emerdiff_probe.models.arguments import Reading, network_arguments
from emerdiff_probe.models.layouts import IMAGE, TEXT, Layout, Part, attention_kind
from emerdiff_probe.models.normed import on_normed
from emerdiff_probe.schema import CHANNEL, HEAD, TOKEN, X, Y

__all__ = ["Row", "token_sites"]

Shape = tuple[int, ...]
Row = tuple[str, str, int, tuple[str, ...], Shape, int]
"""The name, kind, level, dims, shape and bytes of a site."""


def token_sites(
    copy: nn.Module, layout: Layout, latents: Shape, tokens: int, item: int
) -> list[Row]:
    """Return the sites of a transformer in the order in which they are computed.

    Args:
        copy: A copy of the network on the meta device; it keeps hooks, so discard it.
        layout: The layout of the network.
        latents: The shape (1, channel, y, x) of its input.
        tokens: The number of tokens of a text.
        item: The number of bytes of a value.
    """
    config: Any = copy.config
    cells = layout.cells(config)
    grid = (latents[2] // cells, latents[3] // cells)
    rows: list[Row] = []

    def note(path: str, part: Part, output: Any) -> None:
        if part.kind == "attention":
            rows.extend(_multiplied(copy, path, part, grid, tokens, item))
        for port, stream, shape in _streams(part, output, math.prod(grid)):
            dims = (Y, X, CHANNEL) if stream == IMAGE else (TOKEN, CHANNEL)
            sizes = (*grid, shape[-1]) if stream == IMAGE else shape[1:]
            kind = part.kind if part.kind != "attention" else attention_kind(copy, path)
            size = math.prod(sizes) * item
            rows.append((f"{path}:{port}", kind, grid[0], dims, sizes, size))

    def note_normed(path: str, kind: str, tensor: Tensor) -> None:
        sizes = (*grid, tensor.shape[-1])
        size = math.prod(sizes) * item
        rows.append((f"{path}:normed", kind, grid[0], (Y, X, CHANNEL), sizes, size))

    for path, module in copy.named_modules():
        if (part := layout.part(path)) is None:
            continue
        if part.normed:
            on_normed(copy, layout, path, functools.partial(note_normed, path, part.kind))
        module.register_forward_hook(
            lambda _m, _i, output, path=path, part=part: note(path, part, output)
        )
    with torch.inference_mode(), torch.device("meta"):
        copy(**network_arguments(copy, torch.empty(latents), 1, _reading(layout, config, tokens)))
    return rows


def _reading(layout: Layout, config: Any, tokens: int) -> Reading:
    if layout.text is None:
        return Reading(torch.empty(1, 0, 1))
    tokens = max(tokens - layout.registers, 0)
    pooled = torch.empty(1, config[layout.pooled_width]) if layout.pooled_width else None
    mask = torch.ones(1, tokens) if layout.masks else None
    return Reading(torch.empty(1, tokens, config[layout.text_width]), pooled, mask)


def _streams(part: Part, output: Any, image: int) -> Iterator[tuple[str, str, Shape]]:
    """Yield port, stream and shape (row, token, channel) of each output of a module."""
    alone = part.streams == (TEXT,)
    if isinstance(output, Tensor) and output.ndim == 4:
        output = output.flatten(2).transpose(1, 2)  # a map
    if part.joint:
        _, count, channels = output.shape
        lengths = {IMAGE: image, TEXT: count - image}
        shapes = {stream: (1, lengths[stream], channels) for stream in part.streams}
    else:
        outputs = (output,) if isinstance(output, Tensor) else output
        # The last blocks may drop the text, which nothing reads after them.
        shapes = {
            stream: tuple(each.shape)
            for stream, each in zip(part.streams, outputs, strict=False)
            if each is not None
        }
    for stream in (IMAGE, TEXT):
        if stream in shapes:
            yield "out" if stream == IMAGE or alone else "text", stream, shapes[stream]


def _multiplied(
    copy: nn.Module, path: str, part: Part, grid: tuple[int, int], tokens: int, item: int
) -> Iterator[Row]:
    """Yield the rows for the factors and the product of an attention, for each stream."""
    module: Any = copy.get_submodule(path)
    kind = attention_kind(copy, path)
    for stream in (IMAGE, TEXT):
        if stream not in part.multiplied:
            continue
        for port in ("query", "key", "value", "mix"):
            of_text = stream == TEXT or (kind == "cross" and port in ("key", "value"))
            dims, sizes = ((TOKEN,), (tokens,)) if of_text else ((Y, X), grid)
            # Where several heads share keys and values, each has them in what is multiplied.
            shape = (*sizes, module.heads, module.inner_dim // module.heads)
            name = f"text_{port}" if stream == TEXT else port
            size = math.prod(shape) * item
            yield f"{path}:{name}", kind, grid[0], (*dims, HEAD, CHANNEL), shape, size
