"""Small random-weight pipelines of diffusers' transformers, each in its family's own layout.

Widths and depths are small; blocks, streams, packing, schedules and calls are those of the family.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderDC,
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    UNet2DModel,
)
from numpy.typing import NDArray
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    T5Config,
    T5EncoderModel,
)

from emerdiff_probe import scenes
from emerdiff_probe.playground import architecture
from tests.checkpoints import TINY

__all__ = [
    "FAMILIES",
    "PROBED",
    "attentive",
    "draw",
    "flux",
    "pixart",
    "stable_diffusion_3",
    "unconditional",
]


def _tokenizer() -> Any:
    return architecture.tokenizer([" ".join(scenes.CAPTION_WORDS)], TINY)


def _autoencoder(channels: int, **options: Any) -> AutoencoderKL:
    """A factor of 8, as in all families here."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=128,
        **options,
    ).eval()


def _clip(words: Any, kind: Any = CLIPTextModel, width: int = 16) -> Any:
    return kind(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=words.model_max_length,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
            projection_dim=width,
        )
    ).eval()


def _t5(words: Any, width: int = 32) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(words), d_model=width, d_kv=8, d_ff=2 * width, num_layers=1, num_heads=2
    )
    return T5EncoderModel(config).eval()


def _alive(network: Any) -> Any:
    """A network whose last layers, which begin at zero, say something."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.05)
    return network.eval()


def _seeded(make: Callable[..., Any]) -> Callable[..., Any]:
    def seeded(seed: int = 0, **options: Any) -> Any:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            pipeline = make(**options)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    return seeded


@_seeded
def unconditional(**options: Any) -> DDPMPipeline:
    """A UNet that reads no text."""
    unet = UNet2DModel(
        **{
            "sample_size": 16,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 8,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            **options,
        }
    )
    return DDPMPipeline(unet.eval(), DDPMScheduler())


@_seeded
def pixart(**options: Any) -> PixArtSigmaPipeline:
    """PixArt: one stream of the image, cross-attention to masked T5, a learned variance."""
    words = _tokenizer()
    network = PixArtTransformer2DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 3,
            "cross_attention_dim": 24,
            "caption_channels": 32,
            "sample_size": 16,
            "patch_size": 2,
            "use_additional_conditions": False,
            **options,
        }
    )
    return PixArtSigmaPipeline(
        tokenizer=words,
        text_encoder=_t5(words),
        vae=_autoencoder(4),
        transformer=_alive(network),
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.0001, beta_end=0.02, beta_schedule="linear"
        ),
    )


@_seeded
def stable_diffusion_3(**options: Any) -> StableDiffusion3Pipeline:
    """Stable Diffusion 3.5: two streams, three text encoders, some dual attention."""
    words = _tokenizer()
    network = SD3Transformer2DModel(
        **{
            "sample_size": 16,
            "patch_size": 2,
            "in_channels": 16,
            "num_layers": 3,
            "attention_head_dim": 12,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "caption_projection_dim": 24,
            "pooled_projection_dim": 32,
            "out_channels": 16,
            "pos_embed_max_size": 32,
            "dual_attention_layers": (0,),
            "qk_norm": "rms_norm",
            **options,
        }
    )
    return StableDiffusion3Pipeline(
        transformer=_alive(network),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=_autoencoder(16, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(words, CLIPTextModelWithProjection),
        tokenizer=words,
        text_encoder_2=_clip(words, CLIPTextModelWithProjection),
        tokenizer_2=words,
        text_encoder_3=_t5(words),
        tokenizer_3=words,
    )


@_seeded
def flux(guidance_embeds: bool = True, **options: Any) -> FluxPipeline:
    """Flux.1: packed latents, two streams, then both in one sequence; distilled guidance."""
    words = _tokenizer()
    network = FluxTransformer2DModel(
        **{
            "patch_size": 1,
            "in_channels": 64,
            "num_layers": 2,
            "num_single_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "pooled_projection_dim": 16,
            "axes_dims_rope": (4, 6, 6),
            "guidance_embeds": guidance_embeds,
            **options,
        }
    )
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(
            shift=3.0,
            use_dynamic_shifting=True,
            base_shift=0.5,
            max_shift=1.15,
            base_image_seq_len=256,
            max_image_seq_len=4096,
        ),
        vae=_autoencoder(16, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=_clip(words),
        tokenizer=words,
        text_encoder_2=_t5(words),
        tokenizer_2=words,
        transformer=_alive(network),
    )


@_seeded
def dit(**options: Any) -> DiTPipeline:
    """DiT: the image alone, classes in place of texts, a learned variance."""
    network = DiTTransformer2DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 3,
            "num_embeds_ada_norm": 1000,
            "sample_size": 8,
            "patch_size": 2,
            **options,
        }
    )
    return DiTPipeline(
        transformer=_alive(network),
        vae=_autoencoder(4),
        scheduler=DDIMScheduler(),
        id2label={"0": "house, home", "1": "tree"},
    )


@_seeded
def auraflow(**options: Any) -> AuraFlowPipeline:
    """AuraFlow: two streams, then one tensor of both; tokens of its own before the text's."""
    words = _tokenizer()
    network = AuraFlowTransformer2DModel(
        **{
            "sample_size": 16,
            "patch_size": 2,
            "in_channels": 4,
            "num_mmdit_layers": 2,
            "num_single_dit_layers": 2,
            "attention_head_dim": 12,
            "num_attention_heads": 2,
            "joint_attention_dim": 32,
            "caption_projection_dim": 24,
            "pos_embed_max_size": 256,
            **options,
        }
    )
    return AuraFlowPipeline(
        tokenizer=words,
        text_encoder=_t5(words),
        vae=_autoencoder(4),
        transformer=_alive(network),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.73),
    )


@_seeded
def sana(**options: Any) -> SanaPipeline:
    """Sana: linear attention within the image, and cross-attention; cells of 16 pixels, not 32."""
    words = _tokenizer()
    network = SanaTransformer2DModel(
        **{
            "patch_size": 1,
            "in_channels": 4,
            "out_channels": 4,
            "num_layers": 3,
            "num_attention_heads": 2,
            "attention_head_dim": 12,
            "num_cross_attention_heads": 2,
            "cross_attention_head_dim": 12,
            "cross_attention_dim": 24,
            "caption_channels": 32,
            "sample_size": 8,
            **options,
        }
    )
    text = Gemma2Config(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=512,
    )
    autoencoder = AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        encoder_block_types=("ResBlock",) * 5,
        decoder_block_types=("ResBlock",) * 5,
        encoder_block_out_channels=(8,) * 5,
        decoder_block_out_channels=(8,) * 5,
        encoder_layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
    )
    return SanaPipeline(
        tokenizer=words,
        text_encoder=Gemma2Model(text).eval(),
        vae=autoencoder.eval(),
        transformer=_alive(network),
        scheduler=DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )


FAMILIES: dict[str, Callable[..., Any]] = {
    "pixart": pixart,
    "stable-diffusion-3": stable_diffusion_3,
    "flux": flux,
    "auraflow": auraflow,
    "sana": sana,
}
"""Makers of those that read text, by name; each takes a seed and options for its network."""

PROBED: dict[str, Callable[..., Any]] = {**FAMILIES, "dit": dit}
"""Makers of all."""


def attentive(pipeline: Any) -> Any:
    """Return a pipeline whose attention is large and differs between places, unlike a new one's."""
    large = dict.fromkeys(("norm_q", "norm_added_q", "to_q", "to_out", "proj_out"), 8)
    if isinstance(pipeline, AuraFlowPipeline):  # whose queries are normalised without weights
        large["norm1.linear"] = 4
    with torch.no_grad():
        for name, parameter in pipeline.transformer.named_parameters():
            for part, factor in large.items():
                if part in name:
                    parameter.mul_(factor)
    return pipeline


def draw(
    pipeline: Any, prompt: str = "a red house", height: int = 64, width: int = 96, **options: Any
) -> NDArray[np.float32]:
    """Draws an image of two steps, always of the same noise; some pipelines know one size alone."""
    asked = {
        "prompt": prompt,
        "class_labels": [len(prompt) % 5],
        "height": height,
        "width": width,
        "num_inference_steps": 2,
        "max_sequence_length": 12,
        "use_resolution_binning": False,
        "generator": torch.Generator().manual_seed(0),
        "output_type": "np",
    }
    known = inspect.signature(type(pipeline).__call__).parameters
    named = {name: value for name, value in asked.items() if name in known}
    images: NDArray[np.float32] = pipeline(**named | options).images
    return images
