"""What the two trainings minimise."""

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextModel

from emerdiff_probe.playground.architecture import SIDE, scheduler
from emerdiff_probe.playground.settings import TrainingSettings

__all__ = ["AutoencoderTask", "DenoiserTask", "autocast", "to_tensor"]


VALIDATED = 32
"""Pictures that the autoencoder is validated on: whole ones cost as much as many updates."""


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where it is safe: half as much memory to move, and matrix units that like it."""
    return torch.autocast(device.type, torch.bfloat16)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """uint8 (batch, y, x, rgb) as float32 (batch, rgb, y, x) in [-1, 1]."""
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1


class AutoencoderTask:
    """Reconstruct random crops: squared and absolute error, that of gradients, and a little KL.

    The squared error is what the validation measures; the others are meant to keep edges sharp.

    Crops instead of whole pictures show more pictures in the same time; the autoencoder has no
    attention, so what it learns does not depend on the size.

    Args:
        model: The autoencoder, where it is to be trained.
        pixels: uint8 (pictures, 128, 128, 3), to train on.
        validation: The same, to validate on.
        settings: Weights of the terms, sizes, learning rate.
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
        """Loss of a batch of random crops, half of them mirrored."""
        device = self.model.device
        images = self._crops(generator).to(device)
        with autocast(device):
            posterior = self.model.encode(images).latent_dist
            mean, deviation = posterior.mean.float(), posterior.std.float()
            noise = torch.randn(mean.shape, generator=generator).to(device)
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
            return torch.randint(below, (self.batch,), generator=generator).tolist()

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
        """Mean squared error of whole pictures with values in [0, 1]."""
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


class DenoiserTask:
    """Predict the velocity of noisy latents, given the caption or an empty text.

    The velocity sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) x0 (Salimans and Ho 2022, arXiv
    2202.00512, appendix D) asks for the picture where there is much noise, which is where a
    caption helps; the noise itself could be read off the latents there. Where there is little
    noise the weight is cut off, as if an error of x0 counted min(SNR + 1, gamma) times, after
    Hang et al. 2023 (arXiv 2303.09556). The noise levels of a batch are spread evenly over the
    schedule, which makes the loss less noisy.

    The text encoder is not trained, as that of Stable Diffusion is not: trained along, it soon gave
    the same for every text, since a constant was all that the UNet could use of it at first.

    Args:
        unet: The denoiser, where it is to be trained.
        text: The text encoder, at the same place; it stays as it is.
        latents: float16 (versions, pictures, 4, 32, 32) of unit variance, to train on; the second
            version, if there is one, is that of the mirrored pictures.
        tokens: int64 (pictures, length) of the captions.
        validation: Latents (pictures, 4, 32, 32) to validate on.
        validation_tokens: int64 (pictures, length).
        empty: int64 (length,), the empty text.
        settings: Weights, sizes, learning rate.
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
        self.latents, self.tokens, self.empty = latents, tokens, empty
        self.validation, self.validation_tokens = validation, validation_tokens
        self.settings = settings
        self.modules = nn.ModuleDict({"unet": unet})
        # Muon reaches a lower loss in the same time, but learns all directions of its matrices at
        # one speed, and clusters of features then show where a location is, not what is there.
        self.rate, self.matrix_rate = settings.rate, None
        self.batch = settings.batch
        self.alpha_bar: Tensor = scheduler().alphas_cumprod
        # Fused attention's backward pass on CPUs is slow for heads this narrow: with plain
        # attention a whole update takes 0.6 times as long. Processors are not saved with a model.
        unet.set_attn_processor(AttnProcessor())

    def loss(self, generator: torch.Generator) -> Tensor:
        """Loss of a batch of random pictures, noises and noise levels."""
        version = torch.randint(len(self.latents), (self.batch,), generator=generator)
        index = torch.randint(self.latents.shape[1], (self.batch,), generator=generator)
        hidden = torch.rand(self.batch, generator=generator) < self.settings.empty_captions
        tokens = torch.where(hidden[:, None], self.empty, self.tokens[index])
        return self._loss(self.latents[version, index].float(), tokens, generator)

    def _loss(self, latents: Tensor, tokens: Tensor, generator: torch.Generator) -> Tensor:
        count = len(latents)
        start = torch.rand(1, generator=generator)
        shares = (start + torch.arange(count) / count) % 1
        timesteps = (shares * len(self.alpha_bar)).long()
        noise = torch.randn(latents.shape, generator=generator)
        alpha_bar = self.alpha_bar[timesteps][:, None, None, None]
        noisy = alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents
        # The plain error of the velocity is SNR + 1 = 1 / (1 - alpha_bar) times that of x0.
        weight = (self.settings.gamma * (1 - alpha_bar)).clamp(max=1)
        device = self.unet.device
        with torch.no_grad(), autocast(device):
            states = self.text(input_ids=tokens.to(device)).last_hidden_state
        with autocast(device):
            predicted = self.unet(noisy.to(device), timesteps.to(device), states).sample
        error = predicted.float() - velocity.to(device)
        return (weight.to(device) * error.square()).mean()

    def validate(self) -> float:
        """The same loss, with captions, on the same pictures, noises and noise levels always."""
        generator = torch.Generator().manual_seed(0)
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
