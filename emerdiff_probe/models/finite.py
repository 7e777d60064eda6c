"""Report values that are not finite where they arise, with the cure."""

from __future__ import annotations

from typing import Final

from torch import Tensor

from emerdiff_probe.errors import CaptureError

__all__ = ["IN_FLOAT32", "finite"]

IN_FLOAT32: Final = "run the model in float32, as ep.load(..., dtype='float32') does"
"""The cure."""


def finite(decoded: Tensor) -> Tensor:
    """Return decoded images as they are.

    Args:
        decoded: Images from `Denoiser.decode`.

    Raises:
        CaptureError: Some values are not finite; they would appear black.
    """
    if not decoded.isfinite().all():
        raise CaptureError(
            "the decoded image has values that are not finite, which arise after the last "
            "timestep: the latents do, or the autoencoder's own values are too large, as those of "
            f"some autoencoders are in float16; {IN_FLOAT32}"
        )
    return decoded
