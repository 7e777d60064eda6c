"""Count the pixels of each label in each class, from which every mIoU is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emerdiff_probe.errors import InputError
from emerdiff_probe.metrics.scores import Labels, counted

__all__ = ["Confusion"]


@dataclass(frozen=True, eq=False)
class Confusion:
    """Count the pixels of each label in each class, over one image or many.

    Instances never change: ``update`` and ``+`` return new ones.

    Attributes:
        counts: Numbers of pixels, int64 (label, class).
        ignore: Value of the truth whose pixels do not count.

    >>> one = Confusion.of(np.array([[0, 0, 1]]), np.array([[0, 1, 1]]), n_classes=2)
    >>> one.counts.tolist()
    [[1, 1], [0, 1]]
    >>> (one + one).counts.sum()
    np.int64(6)
    """

    counts: NDArray[np.int64]
    ignore: int | None = None

    @classmethod
    def empty(cls, n_classes: int, ignore: int | None = None) -> Confusion:
        """Return a count over no images.

        Args:
            n_classes: Number of classes.
            ignore: Value of the truth whose pixels do not count.
        """
        return cls(np.zeros((0, n_classes), np.int64), ignore)

    @classmethod
    def of(
        cls, labels: Labels, truth: Labels, n_classes: int, ignore: int | None = None
    ) -> Confusion:
        """Count the pixels of one image.

        Args:
            labels: Segments or classes, from 0 up.
            truth: Classes, from 0 to ``n_classes - 1``.
            n_classes: Number of classes.
            ignore: Value of the truth whose pixels do not count.

        Raises:
            InputError: The arrays differ in shape, do not hold integers or are out of range, or all
                pixels are ignored.
        """
        ours, theirs = counted(labels, truth, ignore)
        for what, values, end in (("labels", ours, None), ("truth", theirs, n_classes)):
            if values.min() < 0 or (end is not None and values.max() >= end):
                span = "from 0 up" if end is None else f"from 0 to {end - 1}, or set ignore="
                raise InputError(
                    f"{what} runs from {values.min()} to {values.max()}; give numbers {span}"
                )
        rows = int(ours.max()) + 1
        cells = ours.astype(np.int64) * n_classes + theirs
        counts = np.bincount(cells, minlength=rows * n_classes).reshape(rows, n_classes)
        return cls(counts, ignore)

    @property
    def n_classes(self) -> int:
        """Return the number of classes."""
        return self.counts.shape[1]

    def update(self, labels: Labels, truth: Labels) -> Confusion:
        """Return these counts plus those of one more image, as :meth:`of` counts them."""
        return self + Confusion.of(labels, truth, self.n_classes, self.ignore)

    def __add__(self, other: Confusion) -> Confusion:
        if other.n_classes != self.n_classes:
            raise InputError(
                f"one confusion has {self.n_classes} classes and the other {other.n_classes}; "
                "add only those of the same data set"
            )
        rows = max(len(self.counts), len(other.counts))
        padded = [
            np.pad(each.counts, ((0, rows - len(each.counts)), (0, 0))) for each in (self, other)
        ]
        return replace(self, counts=padded[0] + padded[1])

    def assigned(self, classes: ArrayLike) -> Confusion:
        """Replace labels by classes.

        Args:
            classes: Class of each label; -1 for a label without a class.

        Returns:
            Counts (class + 1, class): a row for each class assigned, then a last row for the pixels
            that were assigned none.
        """
        given = np.asarray(classes)
        counts = np.zeros((self.n_classes + 1, self.n_classes), np.int64)
        np.add.at(counts, given, self.counts)
        return replace(self, counts=counts)

    def iou(self) -> NDArray[np.float64]:
        """Return each class's intersection over union (Jaccard index), where labels are classes.

        Returns:
            Values from 0 to 1 (class,); NaN for a class that occurs neither in the truth nor among
            the labels, 0 for one that occurs in only one of them.

        Source: Everingham et al., IJCV 88, 2010, section 4.2.
        """
        correct, union = self._correct(), self.counts.sum(0).astype(np.float64)
        given = self.counts.sum(1)[: self.n_classes]
        union[: len(given)] += given
        union -= correct
        return np.divide(correct, union, out=np.full(len(union), np.nan), where=union > 0)

    def accuracy(self) -> float:
        """Return the share of pixels whose class is right (0 to 1), where labels are classes."""
        return float(self._correct().sum() / self.counts.sum())

    def _correct(self) -> NDArray[np.float64]:
        diagonal = np.zeros(self.n_classes)
        own = self.counts.diagonal()
        diagonal[: len(own)] = own
        return diagonal
