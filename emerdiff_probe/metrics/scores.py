"""Define what every metric takes, labels and truth of one image, and what it returns."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import X, Y

__all__ = ["Labels", "Score", "as_labels", "counted", "pair"]

Labels = NDArray[np.integer] | xr.DataArray
"""Label of each pixel, integers (y, x)."""


class Score(float):
    """A number that carries the name of the protocol it was measured by.

    Attributes:
        protocol: Name of the protocol and the metric.

    >>> Score(0.5, "majority-class mIoU")
    0.5000 (majority-class mIoU)
    >>> f"{Score(0.5, 'majority-class mIoU'):.2f}"
    '0.50'
    """

    protocol: str

    def __new__(cls, value: float, protocol: str) -> Score:
        """Make a score from a number and its protocol's name."""
        score = super().__new__(cls, value)
        score.protocol = protocol
        return score

    def __getnewargs__(self) -> tuple[float, str]:  # type: ignore[override]
        """Return what pickle builds the score from."""
        return float(self), self.protocol

    def __repr__(self) -> str:
        return f"{float(self):.4f} ({self.protocol})"

    __str__ = __repr__


def pair(labels: Labels, truth: Labels) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return both as NumPy arrays (y, x).

    Raises:
        InputError: The arrays differ in shape or do not hold integers.
    """
    ours, theirs = as_labels(labels, "labels"), as_labels(truth, "truth")
    if ours.shape != theirs.shape:
        raise InputError(
            f"labels have shape {ours.shape} and truth {theirs.shape}; resize one to the other, "
            "labels by nearest neighbour"
        )
    return ours, theirs


def counted(
    labels: Labels, truth: Labels, ignore: int | None
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return labels and truth of the pixels where the truth is not ``ignore``, each flat (pixel,).

    Raises:
        InputError: As for :func:`pair`, or no pixel counts.
    """
    ours, theirs = pair(labels, truth)
    if ignore is None:
        return ours.ravel(), theirs.ravel()
    counts = theirs != ignore
    if not counts.any():
        raise InputError(f"all pixels of the truth are ignore={ignore}; leave the image out")
    return ours[counts], theirs[counts]


def as_labels(labels: Labels, what: str) -> NDArray[np.integer]:
    """Return labels as a NumPy array (y, x).

    Raises:
        InputError: The array has other dims or does not hold integers; ``what`` names it in the
            message.
    """
    if isinstance(labels, xr.DataArray) and set(labels.dims) == {Y, X}:
        labels = labels.transpose(Y, X)
    values = np.asarray(labels)
    if values.ndim != 2 or not values.size or not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"{what} of shape {values.shape} and type {values.dtype}; expected integers (y, x)"
        )
    return values
