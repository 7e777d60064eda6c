"""Pad by reflection, for which diffusers' UNets have no setting."""

from diffusers import UNet2DConditionModel
from torch import nn

__all__ = ["pad_as_configured", "pad_by_reflection"]

# diffusers keeps an entry of a configuration with this prefix, without a warning.
_KEY = "_padding_mode"


def pad_by_reflection(unet: UNet2DConditionModel) -> None:
    """Let a UNet's convolutions pad by reflection, and note it in the UNet's configuration.

    Zeros tell convolutions how far away the border is. Clusters of features are then strips along
    the frame, and much of what features hold is position.
    """
    unet.register_to_config(**{_KEY: "reflect"})
    pad_as_configured(unet)


def pad_as_configured(unet: UNet2DConditionModel) -> None:
    """Let a UNet's convolutions pad as its configuration says, if it does.

    The model's folder says how the model was trained, but a stock pipeline that loads it pads with
    zeros.
    """
    mode = unet.config.get(_KEY)
    if mode is None:
        return
    for part in unet.modules():
        if isinstance(part, nn.Conv2d) and not isinstance(part.padding, str) and any(part.padding):
            part.padding_mode = mode
            # PyTorch derives this from the two when a convolution is made.
            part._reversed_padding_repeated_twice = [
                pad for pad in reversed(part.padding) for _ in range(2)
            ]
