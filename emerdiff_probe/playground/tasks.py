"""Define the losses of the three trainings."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextModel

from emerdiff_probe.playground.architecture import SIDE, scheduler
from emerdiff_probe.playground.settings import TrainingSettings

__all__ = ["AutoencoderTask", "DenoiserTask", "TextTask", "autocast", "to_tensor"]


VALIDATED = 32
"""Number of pictures to validate the autoencoder on: whole ones cost as much as many updates."""


def autocast(device: torch.device) -> torch.autocast:
    """Use bfloat16 where it is safe: it moves half the memory, and matrix units are fast in it."""
    return torch.autocast(device.type, torch.bfloat16)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """Return uint8 (batch, y, x, rgb) as float32 (batch, rgb, y, x) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


class AutoencoderTask:
    """Reconstruct random crops, by squared, absolute and gradient errors and a little KL.

    Validation measures the squared error; the other terms are meant to keep edges sharp. Crops show
    more pictures in the same time than whole pictures would; the autoencoder has no attention, so
    what it learns does not depend on the size.

    Args:
        model: Autoencoder, on the device it is trained on.
        pixels: Pictures to train on, uint8 (pictures, 128, 128, 3).
        validation: Pictures to validate on, of the same form.
        settings: Weights of the terms, sizes and learning rate.
    """

    def __init__(
        self,
        model: AutoencoderKL,
        pixels: NDArray[np.uint8],
        validation: NDArray[np.uint8],
        settings: TrainingSettings,
    ) -> None:
        self.model, self.pixels, self.validation = model, pixels, validation
        self.settings = settings
        self.modules = nn.ModuleDict({"autoencoder": model})
        self.rate, self.matrix_rate = settings.autoencoder_rate, settings.autoencoder_matrix_rate
        self.batch = settings.autoencoder_batch

    def loss(self, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch of random crops, half of them mirrored."""
        device = self.model.device
        images = self._crops(generator).to(device)
        with autocast(device):
            posterior = self.model.encode(images).latent_dist
            mean, deviation = posterior.mean.float(), posterior.std.float()
            noise = torch.randn(mean.shape, generator=generator, device=generator.device)
            rebuilt = self.model.decode(mean + deviation * noise).sample
        error = rebuilt.float() - images
        gradients = error.diff(dim=-1).square().mean() + error.diff(dim=-2).square().mean()
        variance = deviation.square()
        divergence = (mean.square() + variance - 1 - variance.log()).mean() / 2
        return (
            error.square().mean()
            + self.settings.absolute_weight * error.abs().mean()
            + self.settings.gradient_weight * gradients
            + self.settings.kl_weight * divergence
        )

    def _crops(self, generator: torch.Generator) -> Tensor:
        side = self.settings.crop

        def draw(below: int) -> list[int]:
            device = generator.device
            return torch.randint(below, (self.batch,), generator=generator, device=device).tolist()

        places = zip(
            draw(len(self.pixels)),
            draw(SIDE - side + 1),
            draw(SIDE - side + 1),
            draw(2),
            strict=True,
        )
        return to_tensor(
            np.stack(
                [
                    self.pixels[i, y : y + side, x : x + side][:, :: -1 if mirrored else 1]
                    for i, y, x, mirrored in places
                ]
            )
        )

    def validate(self) -> float:
        """Return the mean squared error of whole pictures with values in [0, 1]."""
        with torch.no_grad():
            errors = [
                self._squared_error(to_tensor(self.validation[i : i + 8]))
                for i in range(0, min(len(self.validation), VALIDATED), 8)
            ]
        return float(torch.cat(errors).mean())

    def _squared_error(self, images: Tensor) -> Tensor:
        images = images.to(self.model.device)
        with autocast(images.device):
            latents = self.model.encode(images).latent_dist.mean
            rebuilt = self.model.decode(latents).sample.float()
        return ((rebuilt.clamp(-1, 1) - images) / 2).square().mean((1, 2, 3))


class TextTask:
    """Tell which caption belongs to which picture, with its colours at the right words.

    This is a contrastive loss between captions and small pictures (Radford et al. 2021, arXiv
    2103.00020). Each caption also has a copy whose colour words are shuffled, which belongs to no
    picture (after Yuksekgonul et al. 2023, arXiv 2210.01936). Without these copies a bag of words
    would do, and no token would hold which colour belongs to it. The network that looks at the
    pictures is discarded afterwards.

    Args:
        text: Text encoder, on the device it is trained on.
        pixels: Pictures to train on, uint8 (pictures, 128, 128, 3).
        tokens: Tokens of their captions, int64 (pictures, length).
        validation, validation_tokens: Pictures and tokens to validate on, of the same form.
        colours: Tokens to shuffle, int64 (words,).
        settings: Batch and learning rate.
    """

    matrix_rate = None

    def __init__(
        self,
        text: CLIPTextModel,
        pixels: NDArray[np.uint8],
        tokens: Tensor,
        validation: NDArray[np.uint8],
        validation_tokens: Tensor,
        colours: Tensor,
        settings: TrainingSettings,
    ) -> None:
        self.text, self.colours = text, colours
        self.pixels, self.tokens = pixels, tokens
        self.validation, self.validation_tokens = validation, validation_tokens
        self.rate, self.batch = settings.text_rate, min(settings.text_batch, len(pixels))
        width = text.config.hidden_size
        self._sharpness = nn.Parameter(torch.tensor(2.5))
        self.modules = nn.ModuleDict(
            {
                "text": text,
                "project": nn.Linear(width, width),
                "look": _looking(width),
                "sharpness": nn.ParameterList([self._sharpness]),
            }
        ).to(text.device)

    def loss(self, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch of random pairs."""
        index = torch.randperm(
            len(self.tokens), generator=generator, device=generator.device
        ).cpu()[: self.batch]
        return self._loss(self.pixels[index.numpy()], self.tokens[index], generator)

    def _loss(
        self, pixels: NDArray[np.uint8], tokens: Tensor, generator: torch.Generator
    ) -> Tensor:
        device = self.text.device
        shuffled = _shuffled(tokens, self.colours, generator)
        images = F.avg_pool2d(to_tensor(pixels).to(device), 2)
        with autocast(device):
            seen = self.modules["look"](images)
            told = self.text(input_ids=torch.cat([tokens, shuffled]).to(device)).pooler_output
            told = self.modules["project"](told)
        sharpness = self._sharpness.clamp(max=4.6).exp()
        seen, told = F.normalize(seen.float(), dim=-1), F.normalize(told.float(), dim=-1)
        likeness = sharpness * seen @ told.T
        # A caption whose colours cannot be shuffled has no wrong copy.
        same = (tokens == shuffled).all(1).to(device)
        wrong = likeness[:, len(tokens) :].masked_fill(same, -torch.inf)
        right = likeness[:, : len(tokens)]
        target = torch.arange(len(tokens), device=device)
        return (
            F.cross_entropy(torch.cat([right, wrong], 1), target) + F.cross_entropy(right.T, target)
        ) / 2

    def validate(self) -> float:
        """Return the same loss over the first pictures of the validation, as one batch."""
        generator = torch.Generator(self.text.device).manual_seed(0)
        with torch.no_grad():
            return float(
                self._loss(
                    self.validation[: self.batch], self.validation_tokens[: self.batch], generator
                )
            )


def _looking(width: int) -> nn.Module:
    """Return a small network from pictures (batch, 3, 64, 64) to (batch, width)."""
    channels = (3, 32, 64, 128, 128)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.GroupNorm(8, after), nn.GELU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels[-1] * 16, width))


def _shuffled(tokens: Tensor, among: Tensor, generator: torch.Generator) -> Tensor:
    """Return captions (batch, length) with those of their tokens that are in `among` permuted."""
    shuffled = tokens.clone()
    for row in shuffled:
        places = torch.isin(row, among).nonzero()[:, 0]
        order = torch.randperm(len(places), generator=generator, device=generator.device)
        row[places] = row[places[order.cpu()]]
    return shuffled


class _PlainAttention:
    """Compute attention for training on CPUs, where the fused one's backward pass is slow.

    The softmax is computed in bfloat16 as well; autocast would widen it and take twice the time.
    """

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(states)
            for states in (attn.to_q(hidden_states), attn.to_k(read), attn.to_v(read))
        )
        with torch.autocast(hidden_states.device.type, enabled=False):
            probabilities = ((query * attn.scale) @ key.transpose(1, 2)).softmax(-1)
            mixed = attn.batch_to_head_dim(probabilities @ value)
        out, dropout = attn.to_out
        return dropout(out(mixed))


class DenoiserTask:
    """Predict the velocity of noisy latents, given the caption or an empty text.

    The velocity sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0 (Salimans and Ho 2022, arXiv
    2202.00512, appendix D) asks for the picture where there is much noise. That is where a caption
    helps; the noise itself could be read from the latents there. Where there is little noise the
    weight is limited, as if an error of x0 counted min(SNR + 1, gamma) times, after Hang et al.
    2023 (arXiv 2303.09556). The noise levels of a batch are spread evenly over the schedule, which
    makes the loss less noisy.

    The text encoder stays fixed, like that of Stable Diffusion. Trained along with the UNet, it
    soon gave the same output for every text, since the UNet could at first use only a constant from
    it.

    Args:
        unet: Denoiser, on the device it is trained on.
        text: Text encoder, on the same device; it is not trained.
        latents: Latents to train on, float16 (versions, pictures, 4, 32, 32), of unit variance; the
            second version, if there is one, is that of the mirrored pictures.
        tokens: Tokens of the captions, int64 (pictures, length).
        validation: Latents to validate on (pictures, 4, 32, 32).
        validation_tokens: Tokens of their captions, int64 (pictures, length).
        empty: Tokens of the empty text, int64 (length,).
        settings: Weights, sizes and learning rate.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text: CLIPTextModel,
        latents: Tensor,
        tokens: Tensor,
        validation: Tensor,
        validation_tokens: Tensor,
        empty: Tensor,
        settings: TrainingSettings,
    ) -> None:
        self.unet, self.text = unet, text
        device = unet.device
        self.latents, self.tokens, self.empty = (x.to(device) for x in (latents, tokens, empty))
        self.validation, self.validation_tokens = (
            validation.to(device),
            validation_tokens.to(device),
        )
        self.settings = settings
        self.modules = nn.ModuleDict({"unet": unet})
        # AdamW only. Muon reaches a lower loss in the same time, but learns all directions of its
        # matrices at one speed, and clusters of features then show where a location is, not what is
        # there.
        self.rate, self.matrix_rate = settings.rate, None
        self.batch = settings.batch
        self.alpha_bar: Tensor = scheduler().alphas_cumprod.to(device)
        self._predict: Callable[..., Any] = unet
        if device.type == "cpu":
            unet.set_attn_processor(_PlainAttention())  # processors are not saved with a model
        elif device.type == "cuda":
            self._predict = torch.compile(unet.to(memory_format=torch.channels_last))

    def loss(self, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch of random pictures, noises and noise levels."""
        device, size = generator.device, (self.batch,)
        version = torch.randint(len(self.latents), size, generator=generator, device=device)
        index = torch.randint(self.latents.shape[1], size, generator=generator, device=device)
        hidden = torch.rand(size, generator=generator, device=device) < self.settings.empty_captions
        tokens = torch.where(hidden[:, None], self.empty, self.tokens[index])
        return self._loss(self.latents[version, index].float(), tokens, generator)

    def _loss(self, latents: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        count, device = len(latents), generator.device
        start = torch.rand(1, generator=generator, device=device)
        shares = (start + torch.arange(count, device=device) / count) % 1
        timesteps = (shares * len(self.alpha_bar)).long()
        noise = torch.randn(latents.shape, generator=generator, device=device)
        alpha_bar = self.alpha_bar[timesteps][:, None, None, None]
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents
        # The plain error of the velocity is SNR + 1 = 1 / (1 - alpha_bar) times that of x0.
        weight = (self.settings.gamma * (1 - alpha_bar)).clamp(max=1)
        with torch.no_grad(), autocast(device):
            states = self.text(input_ids=tokens).last_hidden_state
        with autocast(device):
            predicted = self._predict(noisy, timesteps, states).sample
        error = predicted.float() - velocity
        return (weight * error.square()).mean()

    def validate(self) -> float:
        """Return the loss with captions, always on the same pictures, noises and levels."""
        generator = torch.Generator(self.unet.device).manual_seed(0)
        batches = zip(
            self.validation.split(self.batch),
            self.validation_tokens.split(self.batch),
            strict=True,
        )
        with torch.no_grad():
            losses = [
                (self._loss(latents.float(), tokens, generator).item(), len(latents))
                for latents, tokens in batches
            ]
        return sum(loss * count for loss, count in losses) / len(self.validation)
