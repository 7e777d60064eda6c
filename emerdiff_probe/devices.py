"""Choose the device that a model runs on."""

from __future__ import annotations

import torch

from emerdiff_probe.errors import ModelError, first_line

__all__ = ["usable"]


def usable(device: str | torch.device | None) -> torch.device:
    """Return a device, or the default one: CUDA if available, else the CPU.

    Raises:
        ModelError: The device is not available on this machine or in this torch.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # A torch without CUDA raises an AssertionError, other missing devices the other two.
        raise ModelError(
            f"cannot run on device {str(device)!r} ({first_line(error)[:160]}); "
            "'cpu' always works, 'cuda' or 'mps' where there is one"
        ) from error
