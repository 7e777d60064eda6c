"""Define networks as large as the published ones, to build with random weights or only to count."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.playground import architecture
from emerdiff_probe.playground.settings import Sizes

__all__ = ["AUTOENCODER", "SIZES", "UNET", "Size", "stable_diffusion_1", "stable_diffusion_xl"]

UNET: Final[dict[str, Any]] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
"""Configuration of the UNet, as published with Stable Diffusion v1.4: 860 million parameters."""

_XL: Final[dict[str, Any]] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
    "up_block_types": (*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 1280 + 6 * 256,
    "cross_attention_dim": 2048,
}

_SD3: Final[dict[str, Any]] = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "num_layers": 24,
    "attention_head_dim": 64,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "caption_projection_dim": 1536,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}

_FLUX: Final[dict[str, Any]] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}

AUTOENCODER: Final = (128, 256, 512, 512)
"""Numbers of channels of the autoencoder of all of them."""

_CLIP, _CLIP_G, _T5 = 123_060_480, 694_659_840, 4_762_310_656
"""Parameters of text encoders: CLIP ViT-L, OpenCLIP ViT-bigG, and the encoder of T5-XXL."""


@dataclass(frozen=True)
class Size:
    """Describe a published model by its numbers.

    Attributes:
        network: Class of the denoising network.
        config: Configuration of the network, as published.
        pixels: Side of its images.
        tokens: Number of tokens of a text.
        text_parameters: Number of parameters of its text encoders.
        site: Path of the attention that is shifted by default.
        shift: Shift of noise levels, of a flow; None of a diffusion.
        even: Whether its pipeline asks for evenly spaced noise levels.
        channels: Number of latent channels.
        autoencoder: Numbers of channels of its autoencoder.
    """

    network: Any
    config: Mapping[str, Any]
    pixels: int
    tokens: int
    text_parameters: int
    site: str
    shift: Mapping[str, Any] | None = None
    even: bool = False
    channels: int = 4
    autoencoder: tuple[int, ...] = AUTOENCODER

    def changed(self, pixels: int, **config: Any) -> Size:
        """Return a size with other images and settings of the network, and a small autoencoder."""
        return dataclasses.replace(
            self, pixels=pixels, config={**self.config, **config}, autoencoder=(32, 32, 32, 32)
        )

    def weightless(self) -> tuple[nn.Module, AutoencoderKL]:
        """Return network and autoencoder on the meta device, in bfloat16."""
        with torch.device("meta"):
            network, vae = self.network(**self.config), self.decoder()
        for part in (network, vae):
            # Not their own `to`, which warns; some buffers are made on the CPU.
            nn.Module.to(part.eval(), "meta", torch.bfloat16)
        return network, vae

    def decoder(self) -> AutoencoderKL:
        """Return the autoencoder with random weights."""
        levels = len(self.autoencoder)
        return AutoencoderKL(
            block_out_channels=self.autoencoder,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            layers_per_block=2,
            latent_channels=self.channels,
            norm_num_groups=min(32, *self.autoencoder),
            scaling_factor=0.18215,
        )


SIZES: Final[Mapping[str, Size]] = {
    "Stable Diffusion v1": Size(
        UNet2DConditionModel,
        UNET,
        512,
        77,
        _CLIP,
        "up_blocks.1.attentions.2.transformer_blocks.0.attn2",
    ),
    "Stable Diffusion XL": Size(
        UNet2DConditionModel,
        _XL,
        1024,
        77,
        _CLIP + _CLIP_G,
        "up_blocks.0.attentions.2.transformer_blocks.0.attn2",
    ),
    "Stable Diffusion 3 medium": Size(
        SD3Transformer2DModel,
        _SD3,
        1024,
        77 + 256,
        _CLIP + _CLIP_G + _T5,
        "transformer_blocks.12.attn",
        shift={"shift": 3.0},
        channels=16,
    ),
    "Flux.1-dev": Size(
        FluxTransformer2DModel,
        _FLUX,
        1024,
        512,
        _CLIP + _T5,
        "single_transformer_blocks.9.attn",
        shift={
            "shift": 3.0,
            "use_dynamic_shifting": True,
            "base_shift": 0.5,
            "max_shift": 1.15,
            "base_image_seq_len": 256,
            "max_image_seq_len": 4096,
        },
        even=True,
        channels=16,
    ),
}
"""Published models, each with the site of `EmerDiffConfig.for_model`."""


def stable_diffusion_1(
    dtype: torch.dtype,
    autoencoder: tuple[int, ...] = AUTOENCODER,
    size: Size | None = None,
) -> StableDiffusion:
    """Return its UNet and autoencoder with random weights, and a small text encoder of its width.

    Args:
        dtype: Type of all parts.
        autoencoder: Numbers of channels of the autoencoder; fewer where pictures are not measured.
        size: Other numbers than the published ones.
    """
    size = size or dataclasses.replace(
        SIZES["Stable Diffusion v1"], config=UNET, autoencoder=autoencoder
    )
    text = Sizes(text_width=size.config["cross_attention_dim"], text_layers=1, text_length=77)
    words = architecture.tokenizer(["a red house"], text)
    torch.manual_seed(0)
    pipeline = architecture.assemble(
        size.decoder(),
        UNet2DConditionModel(**size.config),
        architecture.text_encoder(words, text),
        words,
    )
    pipeline.scheduler = _scheduler()
    return StableDiffusion(pipeline.to(dtype), "random, as large as Stable Diffusion v1")


def stable_diffusion_xl(dtype: torch.dtype, size: Size | None = None) -> StableDiffusion:
    """Return Stable Diffusion XL in the same way, with two small text encoders."""
    size = size or SIZES["Stable Diffusion XL"]
    # Its first text encoder gives 768 channels, the second 1280 and the prompt in one vector.
    first = Sizes(text_width=768, text_layers=2, text_length=77)
    words = architecture.tokenizer(["a red house"], first)
    torch.manual_seed(0)
    second = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=1280,
        intermediate_size=1280,
        projection_dim=1280,
        num_hidden_layers=2,
        num_attention_heads=20,
        max_position_embeddings=77,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=size.decoder(),
        unet=UNet2DConditionModel(**size.config),
        text_encoder=architecture.text_encoder(words, first),
        text_encoder_2=CLIPTextModelWithProjection(second),
        tokenizer=words,
        tokenizer_2=words,
        scheduler=_scheduler(),
        add_watermarker=False,
    )
    return StableDiffusion(pipeline.to(dtype), "random, as large as Stable Diffusion XL")


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
