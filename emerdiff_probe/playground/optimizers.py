"""Update weights: Muon for the matrices inside a network, AdamW for everything else."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Optimizers"]

OUTER = ("conv_in", "conv_out", "quant_conv", "post_quant_conv")
"""Layers at a network's edges, for which Muon is not meant."""


class Optimizers:
    """Combine Muon and AdamW, or use AdamW alone.

    Muon makes the update of a matrix orthogonal, so that all its directions are learnt at the same
    speed (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon). A convolution counts as
    the matrix (out, in * height * width), which PyTorch's Muon receives as a view of the weights.

    Args:
        parameters: Trained parameters, by name.
        rate: Highest learning rate of AdamW.
        matrix_rate: Highest learning rate of Muon; None leaves the matrices to AdamW.
    """

    def __init__(
        self, parameters: Mapping[str, nn.Parameter], rate: float, matrix_rate: float | None
    ) -> None:
        inner = {
            name: p
            for name, p in parameters.items()
            if matrix_rate is not None and _is_inner_matrix(name, p)
        }
        self._views: list[tuple[Tensor, nn.Parameter]] = [
            (p.detach().flatten(1), p) for p in inner.values()
        ]
        others = [p for name, p in parameters.items() if name not in inner]
        self._each: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.99), fused=True), rate)
        ]
        if matrix_rate is not None:
            views = [view for view, _ in self._views]
            muon = torch.optim.Muon(views, lr=matrix_rate, weight_decay=0)
            self._each.append((muon, matrix_rate))
        self._all = list(parameters.values())

    def step(self, share: float) -> None:
        """Update all parameters from their gradients, and clear these.

        Args:
            share: Share of the highest learning rates, in [0, 1].
        """
        for view, parameter in self._views:
            assert parameter.grad is not None
            view.grad = parameter.grad.flatten(1)
        for optimizer, rate in self._each:
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
        for parameter in self._all:
            parameter.grad = None

    def state_dict(self) -> list[dict[str, Any]]:
        """Return all that a resumed training needs."""
        return [optimizer.state_dict() for optimizer, _ in self._each]

    def load_state_dict(self, state: list[dict[str, Any]]) -> None:
        """Load what :meth:`state_dict` returned."""
        for (optimizer, _), each in zip(self._each, state, strict=True):
            optimizer.load_state_dict(each)


def _is_inner_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and not any(part in OUTER for part in name.split("."))
