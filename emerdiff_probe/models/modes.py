"""Use networks in evaluation mode, and leave them in the mode they were in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Switch networks and all their modules to evaluation mode within the block.

    A pipeline from diffusers is in evaluation mode; one that is being trained has dropout.
    """
    training = [module for each in networks for module in each.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
