"""Where models run."""

from __future__ import annotations

import torch

from emerdiff_probe.errors import ModelError, first_line

__all__ = ["usable"]


def usable(device: str | torch.device | None) -> torch.device:
    """A device, or the default one: CUDA if there is one, else the CPU.

    Raises:
        ModelError: This machine or this torch has not got it.
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # A torch without CUDA asserts; other missing devices raise the other two.
        raise ModelError(
            f"cannot run on device {str(device)!r} ({first_line(error)[:160]}); "
            "'cpu' always works, 'cuda' or 'mps' where there is one"
        ) from error
