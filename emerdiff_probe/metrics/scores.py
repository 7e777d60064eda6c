"""What every metric gives, and what it takes: labels and truth of one picture."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import X, Y

__all__ = ["Labels", "Score", "as_labels", "counted", "pair"]

Labels = NDArray[np.integer] | xr.DataArray
"""Integers (y, x)."""


class Score(float):
    """A number that says which protocol it was measured by.

    Attributes:
        protocol: Its name, with the metric's.

    >>> Score(0.5, "majority-class mIoU")
    0.5000 (majority-class mIoU)
    >>> f"{Score(0.5, 'majority-class mIoU'):.2f}"
    '0.50'
    """

    protocol: str

    def __new__(cls, value: float, protocol: str) -> Score:
        """A number and its protocol's name."""
        score = super().__new__(cls, value)
        score.protocol = protocol
        return score

    def __getnewargs__(self) -> tuple[float, str]:  # type: ignore[override]
        """What pickle makes it anew from."""
        return float(self), self.protocol

    def __repr__(self) -> str:
        return f"{float(self):.4f} ({self.protocol})"

    __str__ = __repr__


def pair(labels: Labels, truth: Labels) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Both as NumPy arrays (y, x).

    Raises:
        InputError: Arrays of different shape, or not of integers.
    """
    ours, theirs = as_labels(labels, "labels"), as_labels(truth, "truth")
    if ours.shape != theirs.shape:
        raise InputError(
            f"labels have shape {ours.shape} and truth {theirs.shape}; bring them to one size, "
            "labels by nearest neighbour"
        )
    return ours, theirs


def counted(
    labels: Labels, truth: Labels, ignore: int | None
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """The pixels that count, flat: those where the truth is not ``ignore``.

    Raises:
        InputError: As :func:`pair`; or no pixel counts.
    """
    ours, theirs = pair(labels, truth)
    if ignore is None:
        return ours.ravel(), theirs.ravel()
    counts = theirs != ignore
    if not counts.any():
        raise InputError(f"all pixels of the truth are ignore={ignore}; leave the picture out")
    return ours[counts], theirs[counts]


def as_labels(labels: Labels, what: str) -> NDArray[np.integer]:
    """Labels as a NumPy array (y, x).

    Raises:
        InputError: Other dims, or not of integers; ``what`` names them.
    """
    if isinstance(labels, xr.DataArray) and set(labels.dims) == {Y, X}:
        labels = labels.transpose(Y, X)
    values = np.asarray(labels)
    if values.ndim != 2 or not values.size or not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"{what} of shape {values.shape} and type {values.dtype}; expected integers (y, x)"
        )
    return values
