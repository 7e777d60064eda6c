"""Define all settings that decide the result of a training, in one frozen record."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from emerdiff_probe.errors import InputError

__all__ = ["Sizes", "TrainingSettings"]


@dataclass(frozen=True)
class Sizes:
    """Set the sizes of the untrained parts.

    Args:
        autoencoder_channels: Number of channels at each level; the picture shrinks by 2 between
            levels.
        denoiser_channels: Number of channels of the UNet at each level.
        head_width: Number of channels of one attention head of the UNet; divides those of every
            level.
        groups: Number of groups of the UNet's normalisation; divides the channels of every level.
        text_width: Number of channels of the text encoder.
        text_layers: Number of layers of the text encoder.
        text_length: Number of tokens of a prompt, including the marks of beginning and end.
    """

    autoencoder_channels: tuple[int, ...] = (16, 32, 64)
    denoiser_channels: tuple[int, int, int] = (48, 96, 192)
    head_width: int = 48
    groups: int = 12
    text_width: int = 128
    text_layers: int = 3
    text_length: int = 64


@dataclass(frozen=True)
class TrainingSettings:
    """Set how a model is trained.

    Learning rates rise over ``warmup`` updates, stay, and fall linearly over the last ``tail`` of
    the budget, so that a training ends annealed however fast the machine is, and a longer budget
    only moves the end. The budget is a time. Where ``autoencoder_steps``, ``text_steps`` and
    ``denoiser_steps`` are given it is a number of updates, and the same settings then give the same
    weights on the same machine.

    Args:
        seed: Seed of all random numbers.
        minutes: Time for all trainings together, in minutes. Rendering and encoding come on top.
        autoencoder_share: Share of the time that the autoencoder gets.
        autoencoder_minutes: Longest time of the autoencoder, in minutes.
        text_share: Share of the time that the text encoder gets.
        text_minutes: Longest time of the text encoder, in minutes.
        autoencoder_steps: Number of updates of the autoencoder, instead of a time.
        text_steps: Number of updates of the text encoder, instead of a time.
        denoiser_steps: Number of updates of the UNet, instead of a time.
        pictures: Number of scenes to train on (pictures of your own are all used).
        validation_pictures: Largest number of scenes to validate on.
        autoencoder_batch: Number of crops in an update of the autoencoder.
        crop: Side of such a crop in pixels, a multiple of 8.
        autoencoder_rate: Highest learning rate of the autoencoder, for AdamW.
        autoencoder_matrix_rate: Highest learning rate of the autoencoder, for Muon, which updates
            its matrices.
        kl_weight: Weight of the mean divergence of a latent value from the unit normal.
        text_batch: Number of pairs of picture and caption in an update of the text encoder.
        text_rate: Highest learning rate of the text encoder.
        absolute_weight: Weight of the absolute error beside the squared one.
        gradient_weight: Weight of the squared error of differences between neighbouring pixels.
        batch: Number of pictures in an update of the UNet.
        rate: Highest learning rate of the UNet, all of it by AdamW.
        decay: Largest decay of the average of weights in one update. At first, while a tenth of the
            updates so far is less than that decay averages over, the average is over that tenth.
        warmup: Number of updates until the learning rate is reached.
        tail: Share of the budget over which learning rates fall to nothing.
        gamma: Limit of the weight of a noise level, as a signal-to-noise ratio plus 1.
        empty_captions: Share of pictures that are shown without their caption.
        validate_every: Number of updates between validations.
        sizes: Sizes of the parts.

    Raises:
        InputError: A number is outside its range.
    """

    seed: int = 0
    minutes: float = 105
    autoencoder_share: float = 0.11
    autoencoder_minutes: float = 20
    text_share: float = 0.06
    text_minutes: float = 25
    autoencoder_steps: int | None = None
    text_steps: int | None = None
    denoiser_steps: int | None = None
    pictures: int = 64_000
    validation_pictures: int = 256
    autoencoder_batch: int = 8
    crop: int = 64
    autoencoder_rate: float = 3e-3
    autoencoder_matrix_rate: float = 0.02
    kl_weight: float = 1e-5
    text_batch: int = 256
    text_rate: float = 1e-3
    absolute_weight: float = 0.15
    gradient_weight: float = 0.5
    batch: int = 32
    rate: float = 1e-3
    decay: float = 0.9999
    warmup: int = 100
    tail: float = 0.25
    gamma: float = 20
    empty_captions: float = 0.1
    validate_every: int = 250
    sizes: Sizes = field(default_factory=Sizes)

    def __post_init__(self) -> None:
        ranges = {
            "seed": (0, 2**63 - 1),
            "minutes": (1e-3, 1e6),
            "autoencoder_share": (0, 0.9),
            "text_share": (0, 0.09),
            "text_batch": (1, 65_536),
            "tail": (1e-6, 1),
            "pictures": (1, 1_000_000),
            "validation_pictures": (1, 100_000),
            "autoencoder_batch": (1, 65_536),
            "crop": (16, 128),
            "batch": (1, 65_536),
            "decay": (0, 1),
            "empty_captions": (0, 1),
            "validate_every": (1, 10**9),
        }
        for name, (least, most) in ranges.items():
            if not least <= getattr(self, name) <= most:
                raise InputError(
                    f"{name}={getattr(self, name)!r} is outside {least} to {most}; "
                    "give a value in that range"
                )
        if self.crop % 8:
            raise InputError(f"crop={self.crop} is not a multiple of 8; try {self.crop // 8 * 8}")

    @property
    def autoencoder_seconds(self) -> float:
        """Return the time for the autoencoder, in seconds."""
        return 60 * min(self.minutes * self.autoencoder_share, self.autoencoder_minutes)

    @property
    def text_seconds(self) -> float:
        """Return the time for the text encoder, in seconds."""
        return 60 * min(self.minutes * self.text_share, self.text_minutes)

    @property
    def denoiser_seconds(self) -> float:
        """Return the time for the UNet, which is what the others leave, in seconds."""
        return 60 * self.minutes - self.autoencoder_seconds - self.text_seconds

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON values, with lists in place of tuples."""
        return json.loads(json.dumps(dataclasses.asdict(self)))
