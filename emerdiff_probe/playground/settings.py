"""Everything that decides what a training leads to, in one frozen record."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from emerdiff_probe.errors import InputError

__all__ = ["Sizes", "TrainingSettings"]


@dataclass(frozen=True)
class Sizes:
    """How large the untrained parts are.

    Args:
        autoencoder_channels: Channels at each level; the picture shrinks by 2 between levels.
        denoiser_channels: Channels of the UNet at each level.
        head_width: Channels of one attention head of the UNet; divides every level.
        groups: Groups of the UNet's normalisation; divides every level.
        text_width: Channels of the text encoder.
        text_layers: Layers of the text encoder.
        text_length: Tokens of a prompt, the two marks of beginning and end among them.
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
    """How a model is trained.

    Learning rates rise over ``warmup`` updates, stay, and fall in a line over the last ``tail`` of
    the budget, so that a training ends annealed however fast the machine is, and a longer budget
    only moves the end. The budget is time; where ``autoencoder_steps``, ``text_steps`` and
    ``denoiser_steps`` are given it is updates, and the same settings then give the same weights
    on the same machine.

    Args:
        seed: Start of all random numbers.
        minutes: Time for all trainings together. Rendering and encoding come on top.
        autoencoder_share: Share of the time that the autoencoder gets.
        autoencoder_minutes: Longest time of the autoencoder.
        text_share: Share of the time that the text encoder gets.
        text_minutes: Longest time of the text encoder.
        autoencoder_steps: Updates of the autoencoder, instead of a time.
        text_steps: Updates of the text encoder, instead of a time.
        denoiser_steps: Updates of the UNet, instead of a time.
        pictures: Scenes to train on (pictures of one's own are all used).
        validation_pictures: Scenes to validate on, at most.
        autoencoder_batch: Crops in an update of the autoencoder.
        crop: Side of such a crop in pixels.
        autoencoder_rate: Highest learning rate of the autoencoder, for AdamW.
        autoencoder_matrix_rate: The same for Muon, which updates its matrices.
        kl_weight: Weight of the mean divergence of a latent value from the unit normal.
        text_batch: Pairs of picture and caption in an update of the text encoder.
        text_rate: Highest learning rate of the text encoder.
        absolute_weight: Weight of the absolute error beside the squared one.
        gradient_weight: Weight of the squared error of differences between neighbouring pixels.
        batch: Pictures in an update of the UNet.
        rate: Highest learning rate of the UNet, all by AdamW.
        decay: Largest decay of the average of weights in an update; while a tenth of the updates so
            far is less than it averages over, the average is over that tenth.
        warmup: Updates until the learning rate is reached.
        tail: Share of the budget over which learning rates fall to nothing.
        gamma: Where the weight of a noise level is cut off, as a signal-to-noise ratio plus 1.
        empty_captions: Share of pictures that are shown without their caption.
        validate_every: Updates between validations.
        sizes: How large the parts are.

    Raises:
        InputError: A number outside its range.
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
                    "give a value inside"
                )
        if self.crop % 8:
            raise InputError(f"crop={self.crop} is no multiple of 8; e.g. {self.crop // 8 * 8}")

    @property
    def autoencoder_seconds(self) -> float:
        """Time for the autoencoder."""
        return 60 * min(self.minutes * self.autoencoder_share, self.autoencoder_minutes)

    @property
    def text_seconds(self) -> float:
        """Time for the text encoder."""
        return 60 * min(self.minutes * self.text_share, self.text_minutes)

    @property
    def denoiser_seconds(self) -> float:
        """Time for the UNet: what the others leave."""
        return 60 * self.minutes - self.autoencoder_seconds - self.text_seconds

    def as_json(self) -> dict[str, Any]:
        """The settings as JSON can hold them: tuples have become lists."""
        return json.loads(json.dumps(dataclasses.asdict(self)))
