"""Build the untrained parts of the bundled model and assemble a Stable Diffusion pipeline.

The model is a latent diffusion model (Rombach et al. 2022, arXiv 2112.10752): an autoencoder
shrinks a picture by 4, a UNet denoises its latents, and a text encoder steers the UNet. In the UNet
``up_blocks.1`` is the upward 16 x 16 block with three cross-attention layers, as it is in Stable
Diffusion 1, and the block above it, at 32 x 32, has attention too.
"""

import itertools
from collections.abc import Iterable

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from emerdiff_probe.playground.clip import clip_tokenizer, words_of
from emerdiff_probe.playground.padding import pad_by_reflection
from emerdiff_probe.playground.settings import Sizes

__all__ = ["FACTOR", "SIDE", "assemble", "autoencoder", "denoiser", "scheduler", "text_encoder"]
__all__ += ["standardise", "tokenizer"]

SIDE = 128
"""Height and width of a picture in pixels."""

FACTOR = 4
"""Ratio of a picture's sides to those of its latents."""

CHANNELS = 4
"""Number of channels of the latents."""

CAPTION_DEVIATION = 0.5
"""Standard deviation over captions of the text encoder's output; single words have 1 to 2."""

BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def autoencoder(sizes: Sizes) -> AutoencoderKL:
    """Return an untrained autoencoder, between pictures and latents (batch, 4, 32, 32).

    Pictures are (batch, 3, 128, 128) in [-1, 1]. It has no attention in the middle, so that what it
    learns on crops holds for whole pictures.
    """
    levels = len(sizes.autoencoder_channels)
    model = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=sizes.autoencoder_channels,
        layers_per_block=1,
        latent_channels=CHANNELS,
        norm_num_groups=8,
        sample_size=SIDE,
        force_upcast=False,
        mid_block_add_attention=False,
    )
    # Start with latents that are nearly certain: with the usual start, a standard deviation of 1,
    # the decoder at first sees mostly noise.
    with torch.no_grad():
        model.quant_conv.weight[CHANNELS:] *= 0.1
        model.quant_conv.bias[CHANNELS:] = -6
    return model


def denoiser(sizes: Sizes) -> UNet2DConditionModel:
    """Return an untrained UNet on latents (batch, 4, 32, 32), which pads by reflection.

    Attention at 32 x 32 costs as much as everything else at that level, so the way down does
    without it, and the level has one layer fewer than the others.
    """
    unet = UNet2DConditionModel(
        sample_size=SIDE // FACTOR,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        layers_per_block=(1, 2, 2),
        block_out_channels=sizes.denoiser_channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=sizes.text_width,
        # Despite its name, diffusers takes this as the number of heads at each level.
        attention_head_dim=tuple(
            channels // sizes.head_width for channels in sizes.denoiser_channels
        ),
        norm_num_groups=sizes.groups,
    )
    pad_by_reflection(unet)
    return unet


def tokenizer(texts: Iterable[str], sizes: Sizes) -> CLIPTokenizer:
    """Return a CLIP tokenizer that knows each word of some texts as one token.

    Any other word is cut into several tokens, down to single characters.

    Args:
        texts: Texts with the words to know.
        sizes: Sizes of the model, with the length of a prompt in tokens.
    """
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = [*alphabet, *(character + "</w>" for character in alphabet)]
    merges: dict[tuple[str, str], int] = {}
    for word in sorted(_words(texts)):
        # A merge added now ranks behind all those of earlier words and acts only when none of
        # theirs can, so every earlier word stays one token.
        tokens = _merged([*word[:-1], word[-1] + "</w>"], merges)
        while len(tokens) > 1:
            merges[tokens[0], tokens[1]] = len(merges)
            vocabulary.append(tokens[0] + tokens[1])
            tokens = _merged(tokens, merges)
    vocabulary = [*dict.fromkeys(vocabulary), BEGIN, END]
    numbers = {token: index for index, token in enumerate(vocabulary)}
    return clip_tokenizer(numbers, merges, model_max_length=sizes.text_length)


def _words(texts: Iterable[str]) -> set[str]:
    """Return the words of texts, in letters that each stand for one byte."""
    as_bytes = ByteLevel(add_prefix_space=False, use_regex=False)
    words = {word for text in texts for word in words_of(text)}
    return {letters for word in words for letters, _ in as_bytes.pre_tokenize_str(word)}


def _merged(tokens: list[str], merges: dict[tuple[str, str], int]) -> list[str]:
    """Encode one word by byte pairs: merge the pair of lowest rank until none is left."""
    while True:
        pairs = [pair for pair in itertools.pairwise(tokens) if pair in merges]
        if not pairs:
            return tokens
        pair = min(pairs, key=merges.__getitem__)
        joined: list[str] = []
        for token in tokens:
            if joined and (joined[-1], token) == pair:
                joined[-1] += token
            else:
                joined.append(token)
        tokens = joined


def text_encoder(words: CLIPTokenizer, sizes: Sizes) -> CLIPTextModel:
    """Return an untrained text encoder: ids (batch, tokens) to (batch, tokens, text_width)."""
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=sizes.text_width,
            intermediate_size=sizes.text_width * 4,
            projection_dim=sizes.text_width,
            num_hidden_layers=sizes.text_layers,
            num_attention_heads=max(1, sizes.text_width // 32),
            max_position_embeddings=sizes.text_length,
            bos_token_id=words.bos_token_id,
            eos_token_id=words.eos_token_id,
            pad_token_id=words.pad_token_id,
        )
    )
    # CLIP's own start, a deviation of 0.02, would be lost in what the layers add.
    torch.nn.init.normal_(model.get_input_embeddings().weight)
    places = next(p for name, p in model.named_parameters() if "position_embedding" in name)
    torch.nn.init.normal_(places, std=0.3)
    return model


@torch.no_grad()
def standardise(text: CLIPTextModel, tokens: Tensor) -> None:
    """Scale a text encoder's output so that captions differ by more than they have in common.

    Afterwards the mean over the tokens of a caption has, over captions, a mean of 0 and a standard
    deviation of `CAPTION_DEVIATION`. Without this, the part that all captions share is several
    times as large as what tells them apart, and the UNet learns to ignore both.

    Args:
        text: Text encoder; the normalisation of its last layer is changed.
        tokens: Tokens of captions, int64 (captions, tokens). If all captions are equal, nothing is
            changed.
    """
    # Compare tokens, not outputs, which can differ in the last bit when batches differ in size.
    if (tokens == tokens[0]).all():
        return
    means = torch.cat([text(input_ids=part).last_hidden_state.mean(1) for part in tokens.split(64)])
    scale = CAPTION_DEVIATION / means.std(0, correction=0).mean()
    # Its place in the model has changed between versions of transformers.
    last = next(part for name, part in text.named_modules() if "final_layer_norm" in name)
    last.weight *= scale
    last.bias -= means.mean(0) * scale


def scheduler() -> DDPMScheduler:
    """Return the noise schedule of Stable Diffusion, with nothing of the picture left at its end.

    Fifty steps visit 981, 961, ..., 1. The UNet predicts the velocity, as that of Stable Diffusion
    2. Stable Diffusion leaves a little of the picture at t = 999 (a signal-to-noise ratio of
    0.005). In pictures as small and flat as these that is enough to read their colours, and
    captions are then not needed. The rescaling of Lin et al. 2024 (arXiv 2305.08891) removes the
    rest.
    """
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    )


def assemble(
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text: CLIPTextModel,
    words: CLIPTokenizer,
) -> StableDiffusionPipeline:
    """Assemble the parts into a pipeline, without a safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        unet=unet,
        text_encoder=text,
        tokenizer=words,
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
