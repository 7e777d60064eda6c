"""Describe the denoising networks of diffusers as data (layouts).

A layout states where a pipeline holds the network, how the arguments of its calls are named, in
which unit it takes timesteps, and where image and text lie in the outputs of its modules. Nothing
else in the package knows a network by its class; for the reasons see docs/decisions/0020.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from torch import nn

from emerdiff_probe.errors import ModelError, closest

__all__ = [
    "ATTRIBUTES",
    "IMAGE",
    "LAYOUTS",
    "OTHER_ATTRIBUTES",
    "TEXT",
    "Layout",
    "Part",
    "attention_kind",
    "joint_attentions",
    "layout_named",
    "layout_of",
    "network_of",
    "unwrapped",
]

IMAGE: Final = "image"
TEXT: Final = "text"


@dataclass(frozen=True)
class Part:
    """Modules of one kind, and the streams that they return.

    Attributes:
        kind: The kind, as in catalogues.
        path: A pattern that matches the whole path of a module.
        streams: The streams in the order of the module's output.
        joint: Whether the streams lie one after the other in a single tensor instead of a tuple.
        multiplied: The streams that an attention multiplies together, in their order; none if it
            multiplies no queries with keys, as in linear attention.
        normed: The module within a block whose output is the block's input after the block's own
            adaptive normalisation; an attention stands for its input. If the output has the tokens
            of all streams, they are in the order of `streams`.
    """

    kind: str
    path: str
    streams: tuple[str, ...] = (IMAGE,)
    joint: bool = False
    multiplied: tuple[str, ...] = (IMAGE,)
    normed: str = ""


@dataclass(frozen=True)
class Layout:
    """A description of a class of networks.

    Attributes:
        name: The name of the family.
        attribute: The attribute of pipelines that holds the network.
        classes: The names of the network's classes.
        parts: The modules with sites of their own; the first pattern that matches a path applies.
        latents: The name of the argument for the latents.
        time: The name of the argument for the timestep.
        text: The name of the argument for the encoded prompt; None if the network reads none.
        masks: The names of the arguments that mask attention.
        unit: The number of the scheduler's timesteps, of which there are 1000, in one unit of the
            network's.
        patch: The latent cells along the side of an image token; None if ``config.patch_size``
            states it, 0 if the network works on maps.
        packed: Whether callers join the cells of a token before the call.
        guidance: The way in which pipelines guide: "halves" of one call, unconditional first;
            "turned halves", unconditional last; "calls", one for each text; or "none".
        text_width: The name of the setting for the width of the encoded prompt.
        pooled_width: The name of the setting for the width of the prompt as one vector; None if
            there is none.
        encoded: The meaning of the first results of ``encode_prompt`` of its pipelines: "text",
            "pooled", "mask", or nothing that is read.
        tokenizers: The tokenizers whose tokens a text has, in order.
        kept: The tokens of an encoder that the network is given: "all"; "first and last", the first
            and those at the end, after instructions to the encoder; or "last".
        even: Whether its pipelines ask the scheduler for evenly spaced noise levels.
        registers: The number of the network's own tokens, which it puts before those of the text.
    """

    name: str
    attribute: str
    classes: tuple[str, ...]
    parts: tuple[Part, ...]
    latents: str = "hidden_states"
    time: str = "timestep"
    text: str | None = "encoder_hidden_states"
    masks: tuple[str, ...] = ()
    unit: float = 1.0
    patch: int | None = None
    packed: bool = False
    guidance: Literal["halves", "turned halves", "calls", "none"] = "halves"
    text_width: str = ""
    pooled_width: str | None = None
    encoded: tuple[str, ...] = ()
    tokenizers: tuple[str, ...] = ()
    kept: Literal["all", "first and last", "last"] = "all"
    even: bool = False
    registers: int = 0

    @property
    def is_unet(self) -> bool:
        """Return whether the network works on maps of several resolutions instead of tokens."""
        return self.patch == 0

    def part(self, path: str) -> Part | None:
        """Return the description of the module at a path, or None."""
        return next((each for each in self.parts if re.fullmatch(each.path, path)), None)

    def cells(self, config: Mapping[str, Any]) -> int:
        """Return the latent cells along the side of an image token."""
        return self.patch if self.patch is not None else int(config["patch_size"])

    def as_read(self, timestep: float, config: Mapping[str, Any]) -> float:
        """Return a timestep of the scheduler as the network reads it."""
        return timestep / self._unit(config)

    def timestep(self, read: float, config: Mapping[str, Any]) -> float:
        """Return a timestep that the network reads in the scheduler's unit."""
        unit = self._unit(config)
        # Of single precision seven digits are true.
        return read if unit == 1 else round(read * unit, 3)

    def _unit(self, config: Mapping[str, Any]) -> float:
        return self.unit / float(config.get("timestep_scale", 1))

    def latent_channels(self, config: Mapping[str, Any]) -> int:
        """Return the channels of the latents before they are packed."""
        channels = int(config["in_channels"])
        return channels // self.cells(config) ** 2 if self.packed else channels


_BLOCK: Final = r"(?:down_blocks\.\d+|mid_block|up_blocks\.\d+)"
_LAYER: Final = rf"{_BLOCK}\.attentions\.\d+\.transformer_blocks\.\d+"
_UNET_PARTS: Final = (
    Part("conv", r"conv_in|conv_out"),
    Part("block", _BLOCK),
    Part("resnet", rf"{_BLOCK}\.resnets\.\d+"),
    Part("transformer", rf"{_BLOCK}\.attentions\.\d+"),
    Part("layer", _LAYER),
    Part("attention", rf"{_LAYER}\.attn[12]"),
    Part("feed-forward", rf"{_LAYER}\.ff"),
    Part("downsampler", rf"{_BLOCK}\.downsamplers\.\d+"),
    Part("upsampler", rf"{_BLOCK}\.upsamplers\.\d+"),
)

_BOTH: Final = (IMAGE, TEXT)
_TEXT_FIRST: Final = (TEXT, IMAGE)


def _two_streams(
    multiplied: tuple[str, ...], block: str = r"transformer_blocks\.\d+"
) -> tuple[Part, ...]:
    """Return blocks that process image and text side by side, and return the text first."""
    return (
        Part("block", block, _TEXT_FIRST, normed="norm1"),
        Part("attention", rf"{block}\.attn", _BOTH, multiplied=multiplied),
        Part("attention", rf"{block}\.attn2"),
        Part("feed-forward", rf"{block}\.ff"),
        Part("feed-forward", rf"{block}\.ff_context", (TEXT,)),
    )


_SINGLE: Final = r"single_transformer_blocks\.\d+"
_ONE_TENSOR: Final = (
    Part("block", _SINGLE, _TEXT_FIRST, joint=True, normed="norm1"),
    Part("attention", rf"{_SINGLE}\.attn", _TEXT_FIRST, joint=True, multiplied=_TEXT_FIRST),
    Part("feed-forward", rf"{_SINGLE}\.ff", _TEXT_FIRST, joint=True),
)
"""Blocks that take the text and the image in one tensor."""


def _cross(normed: str, block: str = r"transformer_blocks\.\d+") -> tuple[Part, ...]:
    """Return blocks of the image alone; some read the text in a second attention."""
    return (
        Part("block", block, normed=normed),
        Part("attention", rf"{block}\.attn[12]"),
        Part("feed-forward", rf"{block}\.ff"),
    )


LAYOUTS: Final = (
    Layout(
        "unet",
        "unet",
        ("UNet2DConditionModel",),
        _UNET_PARTS,
        latents="sample",
        masks=("attention_mask", "encoder_attention_mask"),
        patch=0,
        text_width="cross_attention_dim",
    ),
    Layout(
        "unconditional-unet",
        "unet",
        ("UNet2DModel",),
        _UNET_PARTS,
        latents="sample",
        text=None,
        patch=0,
        guidance="none",
    ),
    Layout(
        "pixart",
        "transformer",
        ("PixArtTransformer2DModel",),
        # The scale and shift are applied between a plain norm and the attention.
        _cross("attn1"),
        masks=("encoder_attention_mask",),
        text_width="caption_channels",
        encoded=("text", "mask"),
        tokenizers=("tokenizer",),
    ),
    Layout(
        "stable-diffusion-3",
        "transformer",
        ("SD3Transformer2DModel",),
        _two_streams(_BOTH),
        text_width="joint_attention_dim",
        pooled_width="pooled_projection_dim",
        encoded=("text", "", "pooled"),
        tokenizers=("tokenizer", "tokenizer_3"),
    ),
    Layout(
        "flux",
        "transformer",
        ("FluxTransformer2DModel",),
        (
            *_two_streams(_TEXT_FIRST),
            Part("block", _SINGLE, _TEXT_FIRST, normed="norm"),
            *_ONE_TENSOR,
        ),
        unit=1000.0,
        patch=2,
        packed=True,
        guidance="calls",
        text_width="joint_attention_dim",
        pooled_width="pooled_projection_dim",
        encoded=("text", "pooled"),
        tokenizers=("tokenizer_2",),
        even=True,
    ),
    Layout(
        "dit",
        "transformer",
        ("DiTTransformer2DModel",),
        _cross("norm1"),
        text=None,
        guidance="turned halves",
    ),
    Layout(
        "auraflow",
        "transformer",
        ("AuraFlowTransformer2DModel",),
        (*_two_streams(_TEXT_FIRST, r"joint_transformer_blocks\.\d+"), *_ONE_TENSOR),
        unit=1000.0,
        text_width="joint_attention_dim",
        encoded=("text",),
        tokenizers=("tokenizer",),
        registers=8,
    ),
    Layout(
        "sana",
        "transformer",
        ("SanaTransformer2DModel",),
        (Part("attention", r"transformer_blocks\.\d+\.attn1", multiplied=()), *_cross("attn1")),
        masks=("encoder_attention_mask",),
        text_width="caption_channels",
        encoded=("text", "mask"),
        tokenizers=("tokenizer",),
        kept="first and last",
    ),
)
"""All known layouts."""

ATTRIBUTES: Final = tuple(dict.fromkeys(layout.attribute for layout in LAYOUTS))
"""The attributes in which pipelines hold a network that has a layout."""

OTHER_ATTRIBUTES: Final = ("prior", "decoder", "unet_1")
"""The attributes in which pipelines hold a network that is refused."""

_VIDEO: Final = "it draws films, and the dims of recordings have no time"
_REFUSED: Final[Mapping[str, str]] = {
    r"StableCascadeUNet|WuerstchenPrior|PaellaVQModel": (
        "Stable Cascade denoises embeddings of images and then a code of them, which have no "
        "latents of one grid"
    ),
    r".*(?:3D|Temporal|Motion|Video|Wan|Cosmos|Mochi|LTX|CogView|Skyreels|Allegro|Latte).*": _VIDEO,
    r".*(?:Audio|Music|T5Film|Ace).*": "it makes sound, which has no y and x",
    r"PriorTransformer|UnCLIP.*": "it denoises embeddings of images, which have no y and x",
    r"ControlNet.*|.*ControlNetModel|T2IAdapter|MultiAdapter": (
        "it adds to what another network predicts; probe the pipeline that has both"
    ),
    r"Autoencoder.*|VQModel": "it is an autoencoder, and predicts no noise",
}
"""The reasons by a pattern of class names."""


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside a ``torch.compile`` wrapper, or the network itself."""
    return getattr(network, "_orig_mod", network)


def layout_of(network: Any) -> Layout:
    """Return the layout of a network.

    Raises:
        ModelError: Its class is not supported; the message gives the reason, if there is one.
    """
    return layout_named(type(unwrapped(network)).__name__)


def layout_named(name: str) -> Layout:
    """Return the layout of a class of networks; see `layout_of`."""
    for layout in LAYOUTS:
        if name in layout.classes:
            return layout
    known = [each for layout in LAYOUTS for each in layout.classes]
    for pattern, reason in _REFUSED.items():
        if re.fullmatch(pattern, name):
            raise ModelError(
                f"a {name} is not supported: {reason}. Supported are {', '.join(known)}"
            )
    raise ModelError(
        f"a {name} is not supported: no layout describes where image and text lie in it; "
        f"{closest(name, known)}. Supported are {', '.join(known)}"
    )


def network_of(model: Any) -> Any:
    """Return the denoising network of a pipeline or a model, or a network itself.

    Raises:
        ModelError: It has none.
    """
    if isinstance(model, nn.Module):
        return model
    for attribute in ATTRIBUTES:
        network = getattr(model, attribute, None)
        if isinstance(network, nn.Module):
            return network
    for name in OTHER_ATTRIBUTES:
        if isinstance(part := getattr(model, name, None), nn.Module):
            layout_of(part)  # refused with its reason, if there is one
    raise ModelError(
        f"a {type(model).__name__} has no denoising network; choose a diffusers pipeline with a "
        "unet or a transformer, such a network, or a model from ep.load()"
    )


def attention_kind(network: nn.Module, path: str) -> str:
    """Return what an attention reads: "joint", "cross" or "self".

    These are image and text together, the text, and the image itself.

    Args:
        network: A network whose class has a layout.
        path: The path of the attention.
    """
    part = layout_of(network).part(path)
    if part is not None and len(part.multiplied) > 1:
        return "joint"
    attention: Any = unwrapped(network).get_submodule(path)
    return "cross" if getattr(attention, "is_cross_attention", False) else "self"


def joint_attentions(network: nn.Module, paths: Iterable[str]) -> list[str]:
    """Return the modules among those given that multiply image and text together, each once.

    Args:
        network: A network whose class has a layout.
        paths: The paths of modules.
    """
    parts = {path: layout_of(network).part(path) for path in paths}
    return [path for path, part in parts.items() if part is not None and TEXT in part.multiplied]
