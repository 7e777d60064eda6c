"""Compare settings of the method on validation scenes: where to read, where and how to shift."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Final

import pandas as pd
import xarray as xr

from benchmarks import charts
from benchmarks.quality import reassigned, segmented, true_masks
from benchmarks.task import SETTINGS_SEEDS, Task
from emerdiff_probe.emerdiff import EmerDiffConfig
from emerdiff_probe.evaluation import reports
from emerdiff_probe.evaluation.journal import SEGMENTS, Journal, Row
from emerdiff_probe.inputs import Photo
from emerdiff_probe.layers import cluster
from emerdiff_probe.metrics import boundary_f, majority_class_miou
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.runs import prepare
from emerdiff_probe.runs.making import made
from emerdiff_probe.scenes import PARTS, Scene, scene
from emerdiff_probe.schema import pixel_centres
from emerdiff_probe.segments import Balance, bilinear_masks, one_hot, smooth
from emerdiff_probe.sites import Site

__all__ = [
    "FEATURE_TIMESTEPS",
    "balances",
    "benchmark",
    "best_sigma",
    "compare_features",
    "compare_shifts",
    "feature_sites",
    "shift_grid",
]

FEATURE_TIMESTEPS: Final = (1, 41, 121, 201, 281, 401)
STRENGTHS: Final = (10.0, 20.0, 40.0, 80.0)
SHIFT_TIMESTEPS: Final = (81, 161, 281, 401, 481, 641)
SIGMAS: Final = (0.0, 0.5, 1.0, 1.5, 2.0)
BALANCES: Final[tuple[Balance, ...]] = ("none", "root", "mean")
ELSEWHERE: Final = (1.0, 0.5, 0.2, 0.05)


def feature_sites(model: StableDiffusion) -> list[Site]:
    """Return sites for features: queries of both attentions, and output, of each transformer."""
    found = []
    for name, _ in model.unet.named_modules():
        if name.endswith((".attn1", ".attn2")):
            found.append(Site(name, "query"))
        elif ".attentions." in name and name.count(".") in (2, 3) and name[-1].isdigit():
            found.append(Site(name, "out"))
    return found


def compare_features(
    model: StableDiffusion,
    config: EmerDiffConfig,
    seeds: list[int],
    journal: Journal,
    *,
    processes: int = 1,
) -> pd.DataFrame:
    """Measure how well clusters of features, interpolated bilinearly, match the parts of scenes.

    No modulation takes part, so this is cheap; masks are then made from the best features.

    Args:
        model: Model to measure.
        config: Settings of the inversion.
        seeds: Seeds of the scenes.
        journal: Journal of finished scenes, which are not computed again.
        processes: Number of scenes to run at the same time.

    Returns:
        Table with a row for each scene, site, timestep and normalisation, with majority-class mIoU.
    """
    sites = feature_sites(model)

    def compared(seed: int) -> list[Row]:
        subject = scene(seed)
        run = made(
            prepare(model, Photo(subject.image), seed=config.seed, settings=config.of_run()),
            first=max(FEATURE_TIMESTEPS),
            harvest=dict.fromkeys(FEATURE_TIMESTEPS, sites),
            progress=False,
        )
        rows: list[Row] = []
        for site, timestep in itertools.product(sites, FEATURE_TIMESTEPS):
            each = run.features(site, timestep)
            for normalise in ("none", "l2"):
                low_res = cluster(each, SEGMENTS, normalise=normalise, restarts=2)
                rows.append(
                    {
                        "seed": seed,
                        "site": str(site),
                        "timestep": timestep,
                        "normalise": normalise,
                        "parts_miou": _bilinear_miou(low_res, subject),
                    }
                )
        return rows

    return journal.table({str(seed): seed for seed in seeds}, compared, processes=processes)


def _bilinear_miou(low_res: xr.DataArray, subject: Scene) -> float:
    y, x = (pixel_centres(size, size) for size in subject.parts.shape)
    labels = bilinear_masks(one_hot(low_res, SEGMENTS), y, x)
    return majority_class_miou(labels, subject.parts, len(PARTS))


def shift_grid(model: StableDiffusion, config: EmerDiffConfig) -> list[EmerDiffConfig]:
    """Return settings to compare: cross-attentions at four strengths, then other timesteps.

    Timesteps are compared at the strength of ``config``. The self-attention of the same layer would
    give the same result: under injection the cross-attention after it is unchanged, and the shift
    passes it on the residual path.
    """
    level = config.modulation_site.rpartition(".attentions.")[0]
    sites = [
        f"{name}:out"
        for name, _ in model.unet.named_modules()
        if name.startswith(f"{level}.") and name.endswith(".attn2")
    ]
    across = [
        config.replace(modulation_site=site, strength=strength)
        for site in sites
        for strength in STRENGTHS
    ]
    along = [
        config.replace(modulation_timestep=timestep)
        for timestep in SHIFT_TIMESTEPS
        if timestep != config.modulation_timestep
    ]
    return [*across, *along]


def best_sigma(shifts: pd.DataFrame) -> pd.DataFrame:
    """Return means over scenes with the paper's argmax, at the best sigma for each config."""
    plain = shifts[(shifts["balance"] == "none") & (shifts["elsewhere"] == 1)]
    keys = ["site", "timestep", "strength"]
    means = plain.groupby([*keys, "sigma"], sort=False)[
        ["relative", "parts_miou", "boundary_f"]
    ].mean()
    best = means.groupby(keys, sort=False)["parts_miou"].idxmax()
    return means.loc[best].reset_index()


def balances(clusters: pd.DataFrame, exact: pd.DataFrame) -> pd.DataFrame:
    """Return means over scenes by balance and elsewhere, at the best sigma, for both masks."""
    keys = ["balance", "elsewhere"]
    columns: dict[str, pd.Series] = {}
    for name, table in (("clusters", clusters), ("true masks", exact)):
        means = table.groupby([*keys, "sigma"], sort=False)[["parts_miou", "boundary_f"]].mean()
        best = means.groupby(keys, sort=False)["parts_miou"].idxmax()
        chosen = means.loc[best].reset_index("sigma")
        columns |= {f"{column}, {name}": chosen[column] for column in chosen}
    return pd.DataFrame(columns).reset_index()


def compare_shifts(
    model: StableDiffusion,
    configs: list[EmerDiffConfig],
    seeds: list[int],
    journal: Journal,
    *,
    exact: bool = False,
    processes: int = 1,
) -> pd.DataFrame:
    """Score whole segmentations by site, timestep and strength of the shift.

    Every run's difference maps are also filtered and balanced in all available ways, which costs no
    denoising.

    Args:
        model: Model to measure.
        configs: Settings, each run on each scene.
        seeds: Seeds of the scenes.
        journal: Journal of finished parts, which are not computed again.
        exact: Whether to use the true parts as low-resolution masks, in place of clusters.
        processes: Number of segmentations to run at the same time.

    Returns:
        Table with a row for each config, scene, sigma, balance and elsewhere: scores, and the
        strength divided by the root mean square of the site.
    """

    def compared(piece: tuple[int, EmerDiffConfig]) -> list[Row]:
        seed, config = piece
        subject = scene(seed)
        masks = true_masks(subject) if exact else SEGMENTS
        result = segmented(model, subject, masks, config.replace(sigma=0.0))
        about = {
            "seed": seed,
            "site": config.modulation_site,
            "timestep": config.modulation_timestep,
            "strength": config.strength,
            "relative": config.strength / result.attrs["site_rms"],
        }
        rows: list[Row] = []
        for sigma in SIGMAS:
            filtered = result.assign(difference=smooth(result["difference"], sigma))
            for balance, elsewhere in itertools.product(BALANCES, ELSEWHERE):
                labels = reassigned(
                    filtered, config.replace(balance=balance, elsewhere=elsewhere)
                ).labels
                rows.append(
                    about
                    | {"sigma": sigma, "balance": balance, "elsewhere": elsewhere}
                    | {
                        "parts_miou": majority_class_miou(labels, subject.parts, len(PARTS)),
                        "boundary_f": boundary_f(labels, subject.parts, 2.0),
                    }
                )
        return rows

    pieces = {
        f"{seed} {config.modulation_site} {config.modulation_timestep} {config.strength:g}": (
            seed,
            config,
        )
        for config, seed in itertools.product(configs, seeds)
    }
    return journal.table(pieces, compared, processes=processes)


def benchmark(task: Task) -> None:
    """Find the best settings on validation scenes."""
    config = EmerDiffConfig.for_model(task.model)
    seeds = list(SETTINGS_SEEDS[: task.scenes])
    features = compare_features(
        task.model,
        config,
        seeds[:20],
        task.journal("settings-features"),
        processes=task.processes,
    )
    by_site = features[features["normalise"] == "none"].pivot_table(
        index="site", columns="timestep", values="parts_miou", sort=False
    )
    by_norm = features.groupby(["site", "timestep", "normalise"])["parts_miou"].mean()
    best = by_norm.sort_values(ascending=False).head(12).reset_index()
    few = seeds[:6]
    about = {
        name: value
        for name, value in dataclasses.asdict(config).items()
        if name.startswith("feature") or name == "normalise"
    }
    configs = shift_grid(task.model, config)
    shifts = compare_shifts(
        task.model,
        configs,
        few,
        task.journal("settings-shifts", **about),
        processes=task.processes,
    )
    # All filters and balances are compared at once, so any can be chosen here.
    compared = ("sigma", "balance", "elsewhere")
    whole = {k: v for k, v in dataclasses.asdict(config).items() if k not in compared}
    chosen, exact = (
        compare_shifts(
            task.model,
            [config],
            seeds[:20],
            task.journal(f"settings-{name}", **whole),
            exact=name == "exact",
            processes=task.processes,
        )
        for name in ("balance", "exact")
    )
    text = f"""# Settings, compared on validation scenes

Majority-class mIoU of parts at {SEGMENTS} segments, and boundary F at 2 pixels; means over
scenes. Settings were chosen from these tables and frozen in `EmerDiffConfig.playground()`.
Model weights {task.model.weights}, {str(task.model.dtype).removeprefix("torch.")}.
Made by `make benchmark-settings`.

## Where features are read ({len(seeds[:20])} scenes from seed {seeds[0]})

Clusters interpolated bilinearly, no modulation. The best of all sites, timesteps and
normalisations:

{reports.to_markdown(best.round(3).set_index("site"))}

![mIoU by site and timestep](settings.png)

## Where, when and how strongly to shift ({len(few)} scenes)

The paper's argmax, at the best sigma of each row. "Relative" is lambda divided by the root mean
square of the site's own output at t_m.

{reports.to_markdown(best_sigma(shifts).round(3).set_index("site"))}

## Small masks: how maps are compared ({len(seeds[:20])} scenes)

At the chosen site, timestep and lambda, with clusters and with the true parts as low-resolution
masks. "none" with elsewhere 1 is the paper's.

{reports.to_markdown(balances(chosen, exact).round(3).set_index("balance"))}
"""
    figure = charts.heatmap(by_site, "mIoU of clusters, by site and timestep", "mIoU")
    reports.write(task.out, "settings", text, shifts, figure)
