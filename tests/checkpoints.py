"""Random-weight checkpoints in the layouts of published models, small enough for a test."""

from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from emerdiff_probe import scenes
from emerdiff_probe.models.playground import architecture
from emerdiff_probe.models.playground.settings import Sizes

TINY = Sizes(
    autoencoder_channels=(8, 8, 8),
    denoiser_channels=(12, 24, 24),
    head_width=12,
    text_width=24,
    text_layers=1,
)


def tiny_playground(seed: int = 0) -> StableDiffusionPipeline:
    """The layout of the bundled model: three levels, factor 4, 128 pixels, 16x16 locations."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        words = architecture.tokenizer([" ".join(scenes.CAPTION_WORDS)], TINY)
        return architecture.assemble(
            architecture.autoencoder(TINY),
            architecture.denoiser(TINY),
            architecture.text_encoder(words, TINY),
            words,
        )


def stable_diffusion(version: Literal["v1", "v2"], seed: int = 0) -> StableDiffusionPipeline:
    """Stable Diffusion's blocks, layers, heads and schedule, with narrow channels.

    v1 has convolutional projections, 8 heads everywhere and predicts epsilon; v2 has linear
    projections, heads of one width and predicts v. Pictures are 128 x 128, so that the upward block
    of features has 4 x 4 locations.
    """
    layout: dict[str, dict[str, Any]] = {
        "v1": {"attention_head_dim": 8},
        "v2": {"attention_head_dim": [2, 4, 8, 8], "use_linear_projection": True},
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(32, 64, 64, 64),
            layers_per_block=2,
            down_block_types=(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
            up_block_types=("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
            cross_attention_dim=32,
            norm_num_groups=16,
            **layout[version],
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=1,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=128,
        )
        words = architecture.tokenizer([" ".join(scenes.CAPTION_WORDS)], TINY)
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=words.model_max_length,
                bos_token_id=words.bos_token_id,
                eos_token_id=words.eos_token_id,
                pad_token_id=words.pad_token_id,
            )
        )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction" if version == "v2" else "epsilon",
    )
    return StableDiffusionPipeline(
        vae=vae.eval(),
        unet=unet.eval(),
        text_encoder=text.eval(),
        tokenizer=words,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
