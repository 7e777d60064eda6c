"""The base of all models made from a diffusers pipeline: guidance, autoencoder, sizes and sites."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from emerdiff_probe.errors import InputError, ModelError
from emerdiff_probe.inputs import Prompt
from emerdiff_probe.models.beside import beside_table, named_beside
from emerdiff_probe.models.catalogue import catalogue, chosen
from emerdiff_probe.models.denoiser import Condition, Family
from emerdiff_probe.models.identity import unet_weights
from emerdiff_probe.models.layouts import layout_of, unwrapped
from emerdiff_probe.models.locks import exclusively
from emerdiff_probe.models.modes import evaluating
from emerdiff_probe.models.schedule import Schedule

__all__ = ["PipelineModel", "pixels_of_a_cell", "rows_of"]


class PipelineModel(ABC):
    """A pipeline's denoising network, autoencoder and text encoders, used as they are.

    Args:
        pipeline: A diffusers pipeline.
        network: Its UNet or transformer.
        name: The name it was loaded by, part of every dataset's provenance.

    Attributes:
        unet: The denoising network, a UNet or a transformer.
        decoder: The autoencoder that decodes: the pipeline's own, unless another for the same
            latents replaces it.
    """

    family: Family
    image_size: int
    size_multiple: int
    _widens = False
    """Set if the values of the autoencoder exceed the range of float16."""
    _reads_guidance = False
    """Set if the guidance scale is an input of the network, as in distilled models."""
    _usual_guidance = ""
    """A hint about the guidance scale, for messages."""

    def __init__(self, pipeline: Any, network: Any, name: str) -> None:
        self.name = name
        self.pipeline = pipeline
        self.unet = network
        self.vae = pipeline.vae
        self.decoder: Any = self.vae
        self._factor = pixels_of_a_cell(pipeline)

    @property
    def schedule(self) -> Schedule:
        """Return the schedule of the pipeline's scheduler, which may be replaced after loading."""
        return Schedule.from_scheduler(self.pipeline.scheduler)

    def timesteps(self, steps: int, size: tuple[int, int]) -> tuple[int, ...]:
        """Return the sampling grid, from the most noise to the least.

        Args:
            steps: The number of steps.
            size: The height and width of the image in pixels.

        Raises:
            ConfigError: The schedule has fewer timesteps.
        """
        return self.schedule.timesteps(steps)

    @abstractmethod
    def condition(self, prompt: str | Prompt = "", guidance: float = 1.0) -> Condition:
        """Encode a prompt as the pipeline does."""

    def predict(self, latents: Tensor, timestep: int, condition: Condition) -> Tensor:
        """Return the predicted noise, with gradients if the latents require them.

        The call waits while another thread records or intervenes.

        Args:
            latents: The latents x_t, float32, shape (sample, channel, y, x).
            timestep: The timestep t.
            condition: The encoded text. With guidance, the network is called on twice the samples,
                the unconditional ones first.

        Returns:
            The noise, float32, in the latents' shape.
        """
        with (
            exclusively(self.unet),
            evaluating(self.unet),
            torch.set_grad_enabled(latents.requires_grad),
        ):
            eps = self._noise(latents, timestep, condition)
            if condition.halves == 1:
                return eps
            without, with_text = eps.chunk(2)
            return without + condition.guidance * (with_text - without)

    @abstractmethod
    def _noise(self, latents: Tensor, timestep: int, condition: Condition) -> Tensor:
        """Return the noise that the network predicts in every row of one call."""

    def _is_guided(self, prompt: Prompt, guidance: float) -> bool:
        """Return whether guidance takes two texts.

        Raises:
            InputError: The guidance is below 1, or has no effect for a negative prompt.
        """
        hint = self._usual_guidance
        if not guidance >= 1:
            raise InputError(f"guidance is {guidance}; choose 1 (none) or larger{hint}")
        guided = guidance > 1 and not self._reads_guidance
        if prompt.negative_prompt and not guided:
            raise InputError(
                f"negative_prompt is {prompt.negative_prompt!r}, and has no effect: "
                + (
                    "this model reads guidance as a number and sees one text"
                    if self._reads_guidance
                    else f"guidance is {guidance}; choose a larger one{hint}"
                )
            )
        return guided

    @property
    @abstractmethod
    def text_parts(self) -> dict[str, nn.Module]:
        """Return the text encoders by name."""

    @property
    @abstractmethod
    def text_length(self) -> int:
        """Return the number of tokens of a text."""

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Return all networks that determine its answers, by name."""
        attribute = layout_of(self.unet).attribute
        own = {attribute: self.unet, **self.text_parts, "vae": self.vae}
        return own if self.decoder is self.vae else {**own, "decoder": self.decoder}

    @property
    def device(self) -> torch.device:
        """Return the device that the network runs on, even while it is offloaded."""
        return torch.device(self.pipeline._execution_device)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype that the network computes in; its weights may be stored in another."""
        network: Any = unwrapped(self.unet)
        dtype: torch.dtype = network.dtype
        return dtype

    @property
    def weights(self) -> str:
        """Return a hash of the network's current weights: equal for equal values and dtypes.

        Weights of adapters are excluded; `emerdiff_probe.models.identity.identity` includes them.
        """
        return unet_weights(self.unet)

    def decode_with(self, folder: str) -> None:
        """Decode with a tiny autoencoder for the same latents from now on.

        Args:
            folder: A folder or hub id of diffusers' ``AutoencoderTiny``.

        Raises:
            ModelError: It is made for other latents.
        """
        from diffusers import AutoencoderTiny

        tiny = AutoencoderTiny.from_pretrained(
            folder, torch_dtype=self.dtype, use_safetensors=True
        ).eval()
        channels, own = tiny.config.latent_channels, self.latent_shape(8, 8)[1]
        factor = 2 ** (len(tiny.config.block_out_channels) - 1)
        if (channels, factor) != (own, self._factor):
            raise ModelError(
                f"the decoder {folder!r} is for latents of {channels} channels, {factor} times "
                f"smaller than images; the model's have {own}, {self._factor} times smaller"
            )
        self.decoder = tiny.to(self.device)

    def drawn_size(self, prompt: Prompt) -> tuple[int, int]:
        """Return the height and width in pixels of the image of a prompt.

        Raises:
            InputError: One is not a multiple of `size_multiple`; the message names the nearest that
                are.
        """
        size = []
        for name in ("height", "width"):
            side = getattr(prompt, name) or self.image_size
            below, rest = divmod(side, self.size_multiple)
            if rest:
                near = [each * self.size_multiple for each in (below, below + 1) if each]
                raise InputError(
                    f"{name} is {side}; choose a multiple of {self.size_multiple}, such as "
                    f"{' or '.join(map(str, near))}"
                )
            size.append(int(side))
        return size[0], size[1]

    @contextmanager
    def _precise(self, autoencoder: Any) -> Iterator[torch.dtype]:
        """Run an autoencoder in evaluation mode within the block, and XL's own not in float16."""
        dtype = next(autoencoder.parameters()).dtype
        widen = self._widens and dtype == torch.float16 and autoencoder.config.force_upcast
        if widen:
            autoencoder.float()
        try:
            with evaluating(autoencoder):
                yield torch.float32 if widen else dtype
        finally:
            if widen:
                autoencoder.to(dtype)

    @torch.no_grad()
    def encode(self, pictures: Tensor) -> Tensor:
        """Encode images (sample, 3, y, x) in [0, 1] as latents: the posterior's mean, scaled."""
        with self._precise(self.vae) as dtype:
            encoded = self.vae.encode((pictures * 2 - 1).to(self.device, dtype))
        # Some autoencoders return no distribution, such as tiny ones.
        names = (each for each in ("latents", "latent") if hasattr(encoded, each))
        name = next(names, None)
        mean = (encoded.latent_dist.mode() if name is None else encoded[name]).float()
        centre, scale = _centre_and_scale(self.vae, mean)
        return (mean - centre) * scale

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to images, shape (sample, 3, y, x), with gradients if they require them.

        Images are not clamped: a response is a difference of two, and clamping would hide it
        wherever an image is white or black.
        """
        centre, scale = _centre_and_scale(self.decoder, latents)
        latents = latents / scale + centre
        with self._precise(self.decoder) as dtype, torch.set_grad_enabled(latents.requires_grad):
            decoded = self.decoder.decode(latents.to(dtype), return_dict=False)[0]
        return decoded.float() / 2 + 0.5

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the shape (1, channel, y, x) of the latents of an image of that size."""
        network: Any = unwrapped(self.unet)
        channels = layout_of(network).latent_channels(network.config)
        return 1, channels, height // self._factor, width // self._factor

    def sites(
        self,
        pattern: str = "*",
        *,
        kind: str | Iterable[str] | None = None,
        level: int | Iterable[int] | None = None,
        height: int | None = None,
        width: int | None = None,
    ) -> pd.DataFrame:
        """Return a table of the network's sites that can be recorded, without running it.

        Text encoders and the autoencoder are listed where the pattern names them, as
        ``text_encoder*.*`` and ``vae.decoder.*`` do; text encoders then read the empty prompt.

        Args:
            pattern: The names of sites separated by commas, with ``*`` for any characters; without
                a port a name means ``out``, after ``!`` it is excluded, and ``*`` is every site
                of the network.
            kind: The kind or kinds of sites to list: "block", "resnet", "self", "cross", ...; by
                default all.
            level: The number or numbers of rows of the grids of sites to list, such as 16; by
                default all.
            height: The height of the image in pixels; by default that of the model's training.
            width: The width of the image in pixels; by default that of the model's training.

        Returns:
            A row for each site, in the order of computation: ``kind``, ``level``, ``dims``,
            ``shape`` and ``bytes`` of one sample at one timestep in the model's dtype.

        Raises:
            SiteError: A name in the pattern matches nothing, or there is no such kind or level.
        """
        size = (height or self.image_size, width or self.image_size)
        if named_beside(pattern):
            table = beside_table(self, pattern, *size)
        else:
            table = catalogue(self.unet, self.latent_shape(*size), self.text_length)
        return chosen(table, pattern, kind=kind, level=level)

    def __repr__(self) -> str:
        kind = type(self).__name__
        return f"{kind}({self.name!r}, {self.image_size} px, {self.dtype}, {self.device})"


def pixels_of_a_cell(pipeline: Any) -> int:
    """Return the pixels of an image along the side of one cell of a pipeline's latents."""
    autoencoder = getattr(pipeline, "vae", None)
    # The pipeline knows it too, but of the autoencoder that it was made with.
    channels = None if autoencoder is None else autoencoder.config.get("block_out_channels")
    return 2 ** (len(channels) - 1) if channels else getattr(pipeline, "vae_scale_factor", 1)


def _centre_and_scale(autoencoder: Any, latents: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """Return the mean to subtract from an autoencoder's latents, and the factor to apply next."""
    config = autoencoder.config
    mean, deviation = (getattr(config, f"latents_{each}", None) for each in ("mean", "std"))
    if mean is None or deviation is None:
        return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor
    centre, widths = latents.new_tensor([mean, deviation])[..., None, None]
    return centre, config.scaling_factor / widths


def rows_of(count: int, unconditional: Tensor | None, conditional: Tensor) -> Tensor:
    """Return the rows of a call for a number of samples, those without the prompt first."""
    parts = [conditional] if unconditional is None else [unconditional, conditional]
    return torch.cat([part.expand(count, *part.shape[1:]) for part in parts])
