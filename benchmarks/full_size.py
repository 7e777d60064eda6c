"""Build a model as large as Stable Diffusion v1 with random weights, to measure its costs."""

from __future__ import annotations

from typing import Any, Final

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.playground import architecture
from emerdiff_probe.playground.settings import Sizes

__all__ = ["UNET", "stable_diffusion_1"]

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

AUTOENCODER: Final = (128, 256, 512, 512)
"""Numbers of channels of its autoencoder."""


def stable_diffusion_1(
    dtype: torch.dtype, autoencoder: tuple[int, ...] = AUTOENCODER
) -> StableDiffusion:
    """Return its UNet and autoencoder with random weights, and a small text encoder of its width.

    Args:
        dtype: Type of all parts.
        autoencoder: Numbers of channels of the autoencoder; fewer where pictures are not measured.
    """
    text = Sizes(text_width=UNET["cross_attention_dim"], text_layers=1, text_length=77)
    words = architecture.tokenizer(["a red house"], text)
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=autoencoder,
        down_block_types=("DownEncoderBlock2D",) * len(autoencoder),
        up_block_types=("UpDecoderBlock2D",) * len(autoencoder),
        layers_per_block=2,
        norm_num_groups=min(32, *autoencoder),
        scaling_factor=0.18215,
    )
    pipeline = architecture.assemble(
        vae, UNet2DConditionModel(**UNET), architecture.text_encoder(words, text), words
    )
    pipeline.scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return StableDiffusion(pipeline.to(dtype), "random, as large as Stable Diffusion v1")
