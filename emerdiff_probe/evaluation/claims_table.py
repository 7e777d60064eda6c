"""Make the claims table: every ablation on several models, and which of the paper's claims hold."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots
from tqdm.auto import tqdm

from emerdiff_probe import playground
from emerdiff_probe.emerdiff import EmerDiffConfig
from emerdiff_probe.errors import InputError
from emerdiff_probe.evaluation import reports
from emerdiff_probe.evaluation.ablations import (
    BASELINES,
    BILINEAR,
    FROZEN,
    Setting,
    ablated,
    identity,
    name,
    tables,
)
from emerdiff_probe.evaluation.claims import (
    MARGIN,
    MEASURES,
    Claim,
    Interval,
    Outcome,
    claims,
    outcomes,
    together,
)
from emerdiff_probe.evaluation.datasets import Dataset, scene_dataset
from emerdiff_probe.evaluation.evaluate import counted, evaluate
from emerdiff_probe.evaluation.failures import section
from emerdiff_probe.evaluation.journal import SEGMENTS
from emerdiff_probe.evaluation.protocols import OVER_DATASET, Counted
from emerdiff_probe.metrics import Score
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.playground.export import read_record
from emerdiff_probe.scenes import TEST_START, scene

__all__ = ["CLAIM_SEEDS", "Measured", "Scores", "benchmark", "measured", "write"]

CLAIM_SEEDS: Final = range(TEST_START + 200_000, TEST_START + 200_100)
"""Scenes that nothing else was measured on."""

TRADITIONAL: Final = "dataset-hungarian"
"""Protocol that clusters again for every draw, so only the first table has its intervals."""

RESAMPLES: Final = 200

TITLES: Final = {
    "Tables 1 and 2": "1, 2: EmerDiff and the baseline",
    "Table 4": "4: number of masks K",
    "Table 5": "5: cross-attention of the features",
    "Table 6": "6: t_f",
    "Table 7": "7: t_m",
    "Table 8": "8: lambda",
    "Table 9": "9: attention injection",
    "Fig. 14": "14: shifted cross-attention, after or before f",
}
"""Titles of the figure's panels."""

Labels = Mapping[str, Sequence[str]]
"""Labels of settings, by table."""

Measured = dict[str, dict[str, NDArray[np.float64]]]
"""By measure and method, of one model: (draw), first of all scenes, then of scenes drawn again."""

Scores = dict[str, dict[str, NDArray[np.float64]]]
"""The same of all models: (model, draw)."""


def benchmark(
    models: Sequence[StableDiffusion], out: Path, kept: Path, scenes: int, processes: int
) -> None:
    """Test the claims on scenes and write claims.md, claims.csv and claims.png.

    Args:
        models: Models to test on. The first gives the settings, and is used to look into failures;
            the others are equal trainings from other seeds.
        out: Folder for the table.
        kept: Folder for finished parts; the same call resumes from it.
        scenes: Number of scenes.
        processes: Number of scenes to run at the same time.
    """
    config = EmerDiffConfig.for_model(models[0])
    seeds = CLAIM_SEEDS[:scenes]
    names = {model.weights: model for model in models}
    every = [
        measured(
            model,
            config,
            scene_dataset(seeds),
            kept / f"claims-{model.weights}",
            identity(model, config),
            processes=processes,
        )
        for model in tqdm(list(names.values()), "models", disable=len(names) == 1)
    ]
    method = ablated(models[0], config)
    begun = time.perf_counter()
    method(scene(seeds[0]).image)
    seconds = time.perf_counter() - begun
    failures = section(models[0], config, kept, processes)
    introduction = _introduction(list(names.values()), seeds, seconds)
    write(out, list(names.values()), config, every, introduction, failures)


def write(
    out: Path,
    models: Sequence[StableDiffusion],
    config: EmerDiffConfig,
    every: Sequence[Measured],
    introduction: str,
    further: str = "",
    *,
    masks: int = SEGMENTS,
    unit: str = "scenes",
) -> None:
    """Write claims.md, claims.csv and the figures.

    Args:
        out: The folder.
        models: Each of other weights.
        config: The frozen settings.
        every: Scores of each model, from `measured`.
        introduction: Markdown before the verdicts.
        further: Markdown after them.
        masks: K, where it is not what is changed.
        unit: What the data set is made of, in the plural.
    """
    scores: Scores = {
        measure: {
            method: np.stack([each[measure][method] for each in every])
            for method in every[0][measure]
        }
        for measure in MEASURES
    }
    compared = tables(models[0], config, masks)
    labels = {table: list(settings) for table, settings in compared.items()}
    labels[BASELINES].append(BILINEAR)
    frozen = {
        table: label
        for table, settings in compared.items()
        for label, setting in settings.items()
        if setting == Setting(config, masks)
    }
    text = _text(config, len(models), labels, scores, introduction, further, unit)
    charts = {
        measure: _chart(labels, frozen, scores, measure)
        for measure in MEASURES
        if measure != TRADITIONAL
    }
    rows = _rows([model.weights for model in models], scores)
    reports.write(out, "claims", text, rows, charts.pop("class-mean"))
    for measure, figure in charts.items():
        reports.draw(out / f"claims-{measure}.png", figure)


def measured(
    model: StableDiffusion,
    config: EmerDiffConfig,
    dataset: Dataset,
    folder: Path,
    about: Mapping[str, object],
    *,
    masks: int = SEGMENTS,
    processes: int = 1,
    skip: bool = False,
) -> Measured:
    """Scores of all settings on a data set, and on as many pictures drawn from it again and again.

    Scores over the data set are computed again for every draw, with its own means and clusters.

    Args:
        model: Model that segments.
        config: The frozen settings.
        dataset: The pictures.
        folder: Pictures that it holds are not computed again.
        about: What decides the results, beside the data set and which settings are compared.
        masks: K, where it is not what is changed.
        processes: Pictures at the same time.
        skip: Leaves out pictures that cannot be used, with a warning.

    Returns:
        By measure and method: shape (1 + draws), first of the pictures themselves, on which those
        of the draws are centred where the measure is one over the data set.
    """
    compared = {table: list(each) for table, each in tables(model, config, masks).items()}
    found = evaluate(
        ablated(model, config, masks),
        dataset,
        list(MEASURES),
        kept=folder,
        identity={**about, "settings": compared},
        processes=processes,
        skip=skip,
    )
    for key, problem in found.skipped.items():
        warnings.warn(f"left out '{key}': {problem}", stacklevel=2)
    keys = [key for key in dataset.keys if key not in found.skipped]
    drawn = np.random.RandomState(0).randint(len(keys), size=(RESAMPLES, len(keys)))
    draws = np.concatenate([np.arange(len(keys))[None], drawn])
    scores: Measured = {measure: {} for measure in MEASURES}
    for method, rows in found.pictures.groupby("method", sort=False):
        pictures = list(counted(folder, keys, method))
        ordered = rows.set_index("picture").loc[keys]
        for measure in MEASURES:
            if measure not in OVER_DATASET:
                scores[measure][method] = ordered[measure].to_numpy()[draws].mean(1)
            elif measure != TRADITIONAL or method.startswith(BASELINES):
                scores[measure][method] = _over_draws(OVER_DATASET[measure], pictures, draws)
    return scores


def _over_draws(
    score: Callable[[Callable[[], Iterable[Counted]]], Score],
    pictures: Sequence[Counted],
    draws: NDArray[np.intp],
) -> NDArray[np.float64]:
    def of(draw: NDArray[np.intp]) -> float:
        return float(score(lambda: (pictures[index] for index in draw)))

    values = np.array([of(draw) for draw in draws])
    # A data set in which scenes repeat is easier, so all draws score higher than the scenes do.
    values[1:] -= values[1:].mean() - values[0]
    return values


def _introduction(models: Sequence[StableDiffusion], seeds: Sequence[int], seconds: float) -> str:
    spread = (
        f"The bundled model and {len(models) - 1} trainings from other seeds, equal among "
        "themselves; models differ as far as these do"
        if len(models) > 1
        else "One model; what other trainings give is not measured over models"
    )
    cost = seconds * len(seeds) * len(models) / 3600
    return f"""# The paper's claims on a small model

Each table of Namekata et al. (2024) that changes one setting of the method, with the settings of
`EmerDiffConfig.playground()` for the rest, as they were chosen on other scenes and frozen.
{len(seeds)} test scenes, seeds {seeds[0]} to {seeds[-1]}, that no other result uses.
{spread}:

{_models(models)}

{SEGMENTS} masks where K is not what is changed. Made by `make benchmark-claims`: {seconds:.0f} s a
scene and model on one core, {cost:.1f} hours of one core in all.
"""


def _text(
    config: EmerDiffConfig,
    models: int,
    labels: Labels,
    scores: Scores,
    introduction: str,
    further: str,
    unit: str,
) -> str:
    margins = {
        measure: MARGIN * float(found[FROZEN][:, 0].mean()) for measure, found in scores.items()
    }
    every = [
        (claim, {each: outcomes(claim, scores[each], margins[each]) for each in claim.measures})
        for claim in claims(labels)
    ]
    return f"""{introduction}
A claim is a set of differences between settings. **Holds**: the 95 % interval of each is above
zero. **Does not hold**: one's interval reaches zero and stays below {MARGIN:.0%} of the score of
the frozen settings ({_numbers(margins)}).
"Matters little" is a test of equivalence: it holds where the whole interval is within that margin
on both sides, and does not where all of it is outside. Otherwise **undecided**; so too where {unit}
and models disagree. Intervals over {unit} are of the models' mean, by bootstrap ({RESAMPLES}
draws; scores over a data set are centred on its own, since {unit} that are drawn twice raise them);
over models by Student's t. What is judged is the direction: the settings at which a model is best
are its own.

{_summary(every, models, unit)}

![Scores by setting](claims.png)

Points are means over models with 95 % intervals over {unit}, diamonds the frozen settings, thin
lines the single models. The same [in majority-class mIoU](claims-majority-class.png) and
[in boundary F](claims-boundary-f.png).

## Where the model is best

{reports.bullets(_best(labels, scores, config))}

{further}
## Every difference

{_details(every, margins, unit)}

## Every setting

Means over models, with 95 % intervals over {unit}.

{_settings(labels, scores)}
"""


def _models(models: Sequence[StableDiffusion]) -> str:
    return reports.to_markdown(
        pd.DataFrame([{"weights": each.weights} | _training(each.name) for each in models])
        .fillna("-")
        .set_index("weights")
    )


def _training(name: str) -> dict[str, object]:
    """Return how a model was made, where that is known."""
    try:
        record = read_record(playground.folder() if name == "playground" else Path(name))
    except InputError:
        return {}
    autoencoder, denoiser = record["autoencoder"], record["denoiser"]
    return {
        "seed": record["settings"]["seed"],
        "autoencoder": f"{autoencoder['updates']:,} updates, "
        f"{autoencoder['validation_psnr_db']:.1f} dB",
        "UNet": f"{denoiser['updates']:,} updates, validation loss "
        f"{denoiser['best_validation_loss']:.4f}",
    }


def _numbers(margins: Mapping[str, float]) -> str:
    return ", ".join(f"{margin:.4f} in {MEASURES[each]}" for each, margin in margins.items())


def _summary(
    every: Sequence[tuple[Claim, Mapping[str, list[Outcome]]]], models: int, unit: str
) -> str:
    rows = []
    for claim, found in every:
        first, *others = found
        main = found[first]
        rows.append(
            {
                "table": claim.table,
                "claim": claim.words,
                "paper": claim.paper,
                "here": f"**{together(each.verdict for each in main)}** ({MEASURES[first]})",
                f"over {unit}": together(each.verdicts[0] for each in main),
                "over models": together(each.verdicts[1] for each in main)
                if models > 1
                else "not measured over models",
                "in other measures": "; ".join(
                    f"{together(each.verdict for each in found[measure])} ({MEASURES[measure]})"
                    for measure in others
                )
                or "-",
            }
        )
    return reports.to_markdown(pd.DataFrame(rows).set_index("table"))


def _details(
    every: Sequence[tuple[Claim, Mapping[str, list[Outcome]]]],
    margins: Mapping[str, float],
    unit: str,
) -> str:
    rows = []
    for claim, found in every:
        for measure, contrasts in found.items():
            rows += [
                {
                    "table": claim.table,
                    "difference": str(each.contrast),
                    "measure": MEASURES[measure],
                    f"mean [over {unit}]": _signed(float(each.values.mean()), each.scenes),
                    "[over models]": "not measured over models"
                    if each.models is None
                    else _signed(None, each.models),
                    "said to be": "alike" if claim.little else "above zero",
                    "of models": _share(
                        np.abs(each.values) < margins[measure] if claim.little else each.values > 0
                    ),
                    "verdict": each.verdict,
                }
                for each in contrasts
            ]
    return reports.to_markdown(pd.DataFrame(rows).set_index("table"))


def _share(agreeing: NDArray[np.bool_]) -> str:
    return f"{agreeing.sum()} of {len(agreeing)}"


def _signed(mean: float | None, interval: Interval) -> str:
    ends = "[{:+.4f}, {:+.4f}]".format(*interval)
    return ends if mean is None else f"{mean:+.4f} {ends}"


def _settings(labels: Labels, scores: Scores) -> str:
    rows = []
    for table, settings in labels.items():
        for label in settings:
            row = {"table": table, "setting": label}
            for measure, words in MEASURES.items():
                draws = scores[measure].get(name(table, label))
                if draws is not None:
                    mean, low, high = _with_interval(draws)
                    row[words] = f"{mean:.3f} [{low:.3f}, {high:.3f}]"
            rows.append(row)
    return reports.to_markdown(pd.DataFrame(rows).fillna("-").set_index("table"))


def _with_interval(draws: NDArray[np.float64]) -> tuple[float, float, float]:
    means = draws.mean(0)
    low, high = np.percentile(means[1:], (2.5, 97.5))
    return float(means[0]), float(low), float(high)


def _best(labels: Labels, scores: Scores, config: EmerDiffConfig) -> list[str]:
    papers = EmerDiffConfig.closest_to_paper()
    changed = {
        "Table 6": ("t_f", "feature_timestep"),
        "Table 7": ("t_m", "modulation_timestep"),
        "Table 8": ("lambda", "strength"),
    }
    sentences = []
    for table, (symbol, setting) in changed.items():
        best = {
            MEASURES[measure]: max(
                labels[table],
                key=lambda label: scores[measure][name(table, label)][:, 0].mean(),
            )
            for measure in ("class-mean", "majority-class")
        }
        found = ", ".join(f"{label} in {words}" for words, label in best.items())
        sentences.append(
            f"{symbol}: {found}; frozen {getattr(config, setting):g}, the paper's "
            f"{getattr(papers, setting):g}."
        )
    return sentences


def _rows(weights: Sequence[str], scores: Scores) -> pd.DataFrame:
    """Return a row for each model, setting and measure: the score and its interval over scenes."""
    rows = []
    for measure, methods in scores.items():
        for method, draws in methods.items():
            for model, own in zip(weights, draws, strict=True):
                value, low, high = _with_interval(own[None])
                row = {"model": model, "setting": method, "measure": measure}
                rows.append(row | {"score": value, "low": low, "high": high})
    return pd.DataFrame(rows)


def _chart(labels: Labels, frozen: Mapping[str, str], scores: Scores, measure: str) -> go.Figure:
    """Draw a panel for each table: means over models with intervals, and a line for every model."""
    figure = make_subplots(2, 4, subplot_titles=[TITLES[table] for table in labels])
    for panel, (table, settings) in enumerate(labels.items()):
        place = {"row": panel // 4 + 1, "col": panel % 4 + 1}
        draws = [scores[measure][name(table, label)] for label in settings]
        for number in range(len(draws[0])):
            figure.add_scatter(
                x=settings,
                y=[each[number, 0] for each in draws],
                line={"color": "#BBBBBB", "width": 1},
                mode="lines+markers",
                marker_size=3,
                **place,
            )
        mean, low, high = np.array([_with_interval(each) for each in draws]).T
        figure.add_scatter(
            x=settings,
            y=mean,
            error_y={
                "array": high - mean,
                "arrayminus": mean - low,
                "symmetric": False,
            },
            mode="markers",
            marker={
                "size": 9,
                "color": "#0072B2",
                "symbol": [
                    "diamond" if label == frozen.get(table) else "circle" for label in settings
                ],
            },
            **place,
        )
    figure.update_xaxes(type="category")
    figure.update_yaxes(rangemode="tozero", matches="y")
    return figure.update_layout(
        title=MEASURES[measure],
        width=1500,
        height=820,
        template="plotly_white",
        showlegend=False,
    )
