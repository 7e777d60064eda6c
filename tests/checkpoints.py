"""Random-weight checkpoints in the layouts of published models, small enough for a test."""

import re
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from diffusers.models.embeddings import ImageProjection, MultiIPAdapterImageProjection
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from emerdiff_probe import scenes
from emerdiff_probe.playground import architecture
from emerdiff_probe.playground.settings import Sizes

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


def _autoencoder() -> AutoencoderKL:
    """Stable Diffusion's, with narrow channels: a factor of 8."""
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=128,
    ).eval()


def _text_config(words: Any, width: int, layers: int, **further: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=words.model_max_length,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        **further,
    )


_SCHEDULE: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def stable_diffusion_xl(seed: int = 0) -> StableDiffusionXLPipeline:
    """Stable Diffusion XL's blocks, two text encoders and schedule, with narrow channels.

    The deepest blocks have two layers a transformer in place of ten. Pictures are 128 x 128, so
    that the first upward block has 4 x 4 locations.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=16,
            block_out_channels=(16, 32, 64),
            layers_per_block=2,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 2),
            up_block_types=(*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"),
            transformer_layers_per_block=[1, 1, 2],
            attention_head_dim=[1, 2, 4],
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=24 + 6 * 8,
            cross_attention_dim=16 + 32,
            norm_num_groups=8,
        )
        words = architecture.tokenizer([" ".join(scenes.CAPTION_WORDS)], TINY)
        return StableDiffusionXLPipeline(
            vae=_autoencoder(),
            unet=unet.eval(),
            text_encoder=CLIPTextModel(_text_config(words, 16, 2)).eval(),
            text_encoder_2=CLIPTextModelWithProjection(
                _text_config(words, 32, 3, projection_dim=24)
            ).eval(),
            tokenizer=words,
            tokenizer_2=words,
            scheduler=EulerDiscreteScheduler(**_SCHEDULE),
            add_watermarker=False,
        )


THREE_LEVELS: dict[str, Any] = {
    "block_out_channels": (32, 64, 64),
    "down_block_types": (*["CrossAttnDownBlock2D"] * 2, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 2),
}


def stable_diffusion(
    version: Literal["v1", "v2"], seed: int = 0, **unet_options: Any
) -> StableDiffusionPipeline:
    """Stable Diffusion's blocks, layers, heads and schedule, with narrow channels.

    v1 has convolutional projections, 8 heads everywhere and predicts epsilon; v2 has linear
    projections, heads of one width and predicts v. Pictures are 128 x 128, so that the upward block
    of features has 4 x 4 locations. Options are for the UNet, in the place of those of the version.
    """
    layout: dict[str, dict[str, Any]] = {
        "v1": {"attention_head_dim": 8},
        "v2": {"attention_head_dim": [2, 4, 8, 8], "use_linear_projection": True},
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        defaults = {
            "sample_size": 16,
            "block_out_channels": (32, 64, 64, 64),
            "layers_per_block": 2,
            "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
            "cross_attention_dim": 32,
            "norm_num_groups": 16,
        }
        unet = UNet2DConditionModel(**{**defaults, **layout[version], **unet_options})
        vae = _autoencoder()
        words = architecture.tokenizer([" ".join(scenes.CAPTION_WORDS)], TINY)
        text = CLIPTextModel(_text_config(words, 32, 1))
    scheduler = DDIMScheduler(
        **_SCHEDULE,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type="v_prediction" if version == "v2" else "epsilon",
    )
    return StableDiffusionPipeline(
        vae=vae,
        unet=unet.eval(),
        text_encoder=text.eval(),
        tokenizer=words,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def image_adapted(unet: Any, seed: int = 0) -> Tensor:
    """Gives a UNet an untrained IP-Adapter of four tokens, and embeddings of an image for it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        width = unet.config.cross_attention_dim
        processors = {
            name: IPAdapterAttnProcessor2_0(
                unet.get_submodule(name.removesuffix(".processor")).inner_dim, width, (4,)
            )
            if "attn2" in name
            else processor
            for name, processor in unet.attn_processors.items()
        }
        projection = ImageProjection(8, width, num_image_text_embeds=4)
        embeddings = torch.randn(2, 1, 8)
    unet.set_attn_processor(processors)
    unet.encoder_hid_proj = MultiIPAdapterImageProjection([projection])
    unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    return embeddings


def save_as_one_file(pipeline: Any, path: Path) -> None:
    """Writes a checkpoint with the names of the original code, as models are handed around."""
    state = {
        f"model.diffusion_model.{_original_unet(pipeline.unet, name)}": tensor
        for name, tensor in pipeline.unet.state_dict().items()
    }
    for name, tensor in pipeline.vae.state_dict().items():
        name = _original_vae(len(pipeline.vae.config.block_out_channels), name)
        is_projection = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", name)
        state[f"first_stage_model.{name}"] = tensor[..., None, None] if is_projection else tensor
    second = getattr(pipeline, "text_encoder_2", None)
    first = "conditioner.embedders.0" if second is not None else "cond_stage_model"
    for name, tensor in pipeline.text_encoder.state_dict().items():
        state[f"{first}.transformer.text_model.{name.removeprefix('text_model.')}"] = tensor
    if second is not None:
        prefix = "conditioner.embedders.1.model."
        state |= {prefix + name: tensor for name, tensor in _open_clip(second).items()}
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _original_unet(unet: Any, name: str) -> str:
    """``down_blocks.0.resnets.1.norm1`` as ``input_blocks.2.0.in_layers.0``."""
    each = unet.config.layers_per_block + 1
    for ours, theirs in _UNET_ENDS.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    parts = re.fullmatch(r"(down|mid|up)_blocks?(?:\.(\d))?\.(\w+)\.(\d)\.(.+)", name)
    assert parts is not None, name
    half, level, kind, number, rest = parts.groups()
    level, number, attention = int(level or 0), int(number), int(kind == "attentions")
    if kind == "resnets":
        part, dot, parameter = rest.partition(".")
        rest = _RESNET[part] + dot + parameter
    if half == "mid":
        return f"middle_block.{1 if attention else 2 * number}.{rest}"
    if half == "down":
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * each}.0.{rest.replace('conv', 'op')}"
        return f"input_blocks.{1 + level * each + number}.{attention}.{rest}"
    if kind == "upsamplers":
        after = 1 + hasattr(unet.up_blocks[level], "attentions")
        return f"output_blocks.{level * each + each - 1}.{after}.{rest}"
    return f"output_blocks.{level * each + number}.{attention}.{rest}"


def _original_vae(levels: int, name: str) -> str:
    """``decoder.up_blocks.0.resnets.1.norm1`` as ``decoder.up.3.block.1.norm1``."""
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}", name)
    name = name.replace("down_blocks.", "down.").replace("samplers.0.", "sample.")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("resnets.", "block.").replace("mid_block.attentions.0", "mid.attn_1")
    for ours, theirs in {"group_norm": "norm", "to_out.0": "proj_out"}.items():
        name = name.replace(ours, theirs)
    return re.sub(r"\.to_(q|k|v)\.", r".\1.", name)


def _open_clip(encoder: Any) -> dict[str, Tensor]:
    """A text encoder's weights with OpenCLIP's names."""
    text = encoder.text_model
    state = {
        "token_embedding.weight": text.embeddings.token_embedding.weight,
        "positional_embedding": text.embeddings.position_embedding.weight,
        "ln_final.weight": text.final_layer_norm.weight,
        "ln_final.bias": text.final_layer_norm.bias,
        "text_projection": encoder.text_projection.weight.T,
    }
    for number, layer in enumerate(text.encoder.layers):
        own = layer.self_attn
        parts = {
            "ln_1": layer.layer_norm1,
            "ln_2": layer.layer_norm2,
            "mlp.c_fc": layer.mlp.fc1,
            "mlp.c_proj": layer.mlp.fc2,
            "attn.out_proj": own.out_proj,
        }
        block = f"transformer.resblocks.{number}"
        for name, part in parts.items():
            state |= {f"{block}.{name}.weight": part.weight, f"{block}.{name}.bias": part.bias}
        for kind in ("weight", "bias"):
            joined = [getattr(each, kind) for each in (own.q_proj, own.k_proj, own.v_proj)]
            state[f"{block}.attn.in_proj_{kind}"] = torch.cat(joined)
    return {name: tensor.detach() for name, tensor in state.items()}
