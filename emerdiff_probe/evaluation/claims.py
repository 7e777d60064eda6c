"""Define the paper's claims as contrasts of settings, and when a contrast holds."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from emerdiff_probe.evaluation.ablations import BASELINES, BILINEAR, name
from emerdiff_probe.evaluation.methods import METHOD

__all__ = ["MARGIN", "MEASURES", "Claim", "Contrast", "Interval", "Outcome", "Verdict"]
__all__ += ["claims", "outcomes", "together", "verdict"]

MEASURES: Final = {
    "class-mean": "class-mean mIoU, data set",
    "dataset-hungarian": "dataset-hungarian mIoU",
    "majority-class": "majority-class mIoU, per picture",
    "boundary-f": "boundary F, per picture, 2 px",
}
"""Scores by protocol, in words. The first is the paper's modified protocol, an oracle, as
is the third; the second is its traditional protocol."""

MARGIN: Final = 0.05
"""Share of the frozen settings' score within which a difference matters little."""

Verdict = Literal["holds", "does not hold", "undecided"]

Interval = tuple[float, float]
"""Ends of a 95 % interval."""

Draws = Mapping[str, NDArray[np.float64]]
"""Scores (model, draw) of every method: first over all scenes, then over scenes drawn again."""


class Contrast(NamedTuple):
    """Hold two sides of a table, each the mean of some settings.

    Attributes:
        above: Labels of the settings that the paper calls better, or as good.
        below: Labels of the other settings.
    """

    above: tuple[str, ...]
    below: tuple[str, ...]

    def __str__(self) -> str:
        return " minus ".join(
            f"mean of {', '.join(side)}" if len(side) > 1 else side[0] for side in self
        )


@dataclass(frozen=True)
class Claim:
    """Hold what the paper says about a table.

    Attributes:
        table: Name of the table, whose settings `ablations.tables` returns.
        words: Claim in words.
        paper: Figures of the paper, as far as they could be read.
        contrasts: Contrasts of the claim. It holds if all of them do, and does not if one does not.
        little: Whether the paper says that the two sides of a contrast are alike.
        measures: Measures from `MEASURES` in which it is tested.
    """

    table: str
    words: str
    paper: str
    contrasts: tuple[Contrast, ...]
    little: bool = False
    measures: tuple[str, ...] = ("class-mean", "majority-class")


def _pairs(labels: Sequence[str]) -> tuple[Contrast, ...]:
    return tuple(Contrast((one,), (two,)) for one, two in itertools.combinations(labels, 2))


def _over(best: str, others: Sequence[str]) -> tuple[Contrast, ...]:
    return tuple(Contrast((best,), (other,)) for other in others)


def claims(labels: Mapping[str, Sequence[str]]) -> list[Claim]:
    """Return the claims of Tables 1, 2, 4 to 9 and Figure 14, for these labels by table."""
    least, *_, frozen, most = labels["Table 8"]
    middle = tuple(each for each in labels["Table 7"] if 281 <= int(each) <= 481)
    first, *larger = labels["Table 6"]
    after = [each for each in labels["Fig. 14"] if "after" in each]
    before = [each for each in labels["Fig. 14"] if "before" in each]
    return [
        Claim(
            BASELINES,
            "Table 1: in the traditional protocol it reaches a method that is trained to segment "
            "(which is not here: bilinear upsampling of the same masks is, which it should exceed)",
            "COCO-Stuff-27: 26.6; STEGO 26.8",
            _over(METHOD, [BILINEAR]),
            measures=("dataset-hungarian",),
        ),
        Claim(
            BASELINES,
            "Table 2: it exceeds bilinear upsampling of the same low-resolution masks",
            "ADE20K-150: 33.1 over 29.1; COCO-Stuff-171: 30.5 over 27.6",
            _over(METHOD, [BILINEAR]),
            measures=("class-mean", "majority-class", "boundary-f"),
        ),
        Claim(
            "Table 4",
            "K from 10 to 40 matters little",
            "not read",
            _pairs(labels["Table 4"]),
            little=True,
            # Majority-class scores rise with the number of segments alone.
            measures=("class-mean",),
        ),
        Claim(
            "Table 5",
            "which cross-attention of the block gives the features matters little",
            "not read",
            _pairs(labels["Table 5"]),
            little=True,
        ),
        Claim(
            "Table 6",
            "t_f = 1 is best, larger ones are markedly worse",
            "not read",
            _over(first, larger),
        ),
        Claim(
            "Table 7",
            "t_m of 281 to 481 is best, both ends are worse",
            "not read",
            tuple(Contrast(middle, (labels["Table 7"][end],)) for end in (0, -1)),
        ),
        Claim(
            "Table 8",
            "lambda has a best value, smaller and larger ones are worse",
            "peak at 10, slightly lower above",
            _over(frozen, [least, most]),
        ),
        Claim(
            "Table 9",
            "without attention injection it is worse",
            "not read",
            _over("with", ["without"]),
        ),
        Claim(
            "Fig. 14",
            "it matters little whether the shift comes before or after the output projection f",
            "not read",
            tuple(Contrast((one,), (two,)) for one, two in zip(after, before, strict=True)),
            little=True,
        ),
        Claim(
            "Fig. 14",
            "which cross-attention of the block is shifted matters: the third is the best",
            "not read; the third by an uncertain memory",
            _over(after[-1], after[:-1]),
        ),
    ]


class Outcome(NamedTuple):
    """Hold a measured contrast.

    Attributes:
        contrast: Contrast that was measured.
        values: Difference for each model, over all scenes.
        scenes: Interval of the models' mean over scenes, by percentile bootstrap.
        models: Interval of the models' mean over models, by Student's t, as there are too few to
            resample. None for one model.
        verdicts: Verdicts over scenes and, where there are several models, over models.
    """

    contrast: Contrast
    values: NDArray[np.float64]
    scenes: Interval
    models: Interval | None
    verdicts: tuple[Verdict, ...]

    @property
    def verdict(self) -> Verdict:
        """Return the verdict that scenes and models agree on, else "undecided"."""
        return self.verdicts[0] if len(set(self.verdicts)) == 1 else "undecided"


def outcomes(claim: Claim, draws: Draws, margin: float) -> list[Outcome]:
    """Measure the contrasts of a claim.

    Args:
        claim: Claim on a table whose settings all have draws.
        draws: Scores in one measure.
        margin: Difference within which two scores count as alike.
    """
    found = []
    for contrast in claim.contrasts:
        above, below = (
            np.mean([draws[name(claim.table, label)] for label in side], axis=0)
            for side in contrast
        )
        effect = above - below
        low, high = np.percentile(effect.mean(0)[1:], (2.5, 97.5))
        intervals: list[Interval] = [(float(low), float(high))]
        values = effect[:, 0]
        if len(values) > 1:
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
            intervals.append((float(values.mean() - half), float(values.mean() + half)))
        verdicts = tuple(verdict(each, margin, little=claim.little) for each in intervals)
        models = intervals[1] if len(intervals) > 1 else None
        found.append(Outcome(contrast, values, intervals[0], models, verdicts))
    return found


def verdict(interval: Interval, margin: float, *, little: bool) -> Verdict:
    """Decide a claim from the interval of a difference.

    A claim that something is better holds if the whole interval is above zero. It does not hold if
    the interval reaches zero and stays below the margin, as the difference is then small at best. A
    claim that something matters little is a test of equivalence (Schuirmann 1987): it holds if the
    whole interval is within the margin on both sides, and does not hold if all of it is beyond.

    >>> verdict((0.01, 0.05), 0.02, little=False), verdict((-0.01, 0.01), 0.02, little=False)
    ('holds', 'does not hold')
    >>> verdict((-0.01, 0.01), 0.02, little=True), verdict((-0.01, 0.05), 0.02, little=True)
    ('holds', 'undecided')
    """
    low, high = interval
    if little:
        if -margin < low and high < margin:
            return "holds"
        return "does not hold" if low > margin or high < -margin else "undecided"
    if low > 0:
        return "holds"
    return "does not hold" if high < margin else "undecided"


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Combine the verdicts of a claim's contrasts: all must hold, and one can refute it."""
    every = set(verdicts)
    if "does not hold" in every:
        return "does not hold"
    return "holds" if every == {"holds"} else "undecided"
