"""``python -m emerdiff_probe.evaluation``: makes the tables and pictures of docs/results."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Final, NamedTuple

import torch
from joblib import cpu_count
from PIL import Image

from emerdiff_probe import views
from emerdiff_probe.evaluation import captions, card, engines, recording, report, settings
from emerdiff_probe.evaluation.quality import METHOD, quality, stability
from emerdiff_probe.evaluation.runs import SEGMENTS, Journal, run
from emerdiff_probe.evaluation.scoring import paired, summary, verdicts
from emerdiff_probe.evaluation.world import world
from emerdiff_probe.models import StableDiffusion, load
from emerdiff_probe.models.playground import folder
from emerdiff_probe.modulation import EmerDiffConfig, observe, respond, segment
from emerdiff_probe.modulation.observation import low_resolution_masks
from emerdiff_probe.scenes import TEST_START, TRAIN, VALIDATION, scene
from emerdiff_probe.sources import Photo

SETTINGS_SEEDS: Final = VALIDATION[:100]
"""Settings are chosen on the first of these; no other result uses them."""

ENGINE_SEEDS: Final = VALIDATION[200:300]
WORLD_SEEDS: Final = VALIDATION[1000:1100]
EXAMPLE_SEED: Final = VALIDATION[317]
TEST_SEEDS: Final = range(TEST_START + 100_000, TEST_START + 100_100)
"""Scenes that nothing was chosen on."""


SHOWN: Final = (
    METHOD,
    "without injection",
    "nearest",
    "bilinear masks",
    "guided filter",
    "untrained UNet, trained masks",
    "true masks",
    "k-means, colour + position",
)
"""Methods in the picture of examples."""


class Task(NamedTuple):
    """What a benchmark needs.

    Attributes:
        model: That is measured.
        out: Folder for tables and pictures.
        kept: Folder for rows so far.
        scenes: How many.
        processes: How many scenes at the same time.
        full_size: Whether engines are measured at Stable Diffusion v1's size too.
    """

    model: StableDiffusion
    out: Path
    kept: Path
    scenes: int
    processes: int
    full_size: bool = False

    def journal(self, name: str, **identity: object) -> Journal:
        """The rows so far of a part of a benchmark."""
        about = {"model": self.model.weights, "dtype": str(self.model.dtype), **identity}
        return Journal(self.kept / f"{name}.jsonl", {"segments": SEGMENTS, **about})


def main() -> None:
    """Runs a benchmark, or goes on with one that was interrupted."""
    parser = argparse.ArgumentParser("python -m emerdiff_probe.evaluation", description=__doc__)
    parser.add_argument("benchmark", choices=list(BENCHMARKS))
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="where tables go")
    parser.add_argument("--kept", type=Path, default=Path("build/benchmarks"), help="rows so far")
    parser.add_argument("--count", type=int, default=100, help="scenes; of recordings, steps")
    parser.add_argument("--model", default="playground")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--full-size", action="store_true", help="engines at Stable Diffusion v1's size too"
    )
    arguments = parser.parse_args()
    model = load(arguments.model, dtype=arguments.dtype)
    processes = cpu_count() if model.device.type == "cpu" else 1
    BENCHMARKS[arguments.benchmark](
        Task(
            model,
            arguments.out,
            arguments.kept,
            arguments.count,
            processes,
            arguments.full_size,
        )
    )


def _scenes(task: Task) -> None:
    """How hard the scenes are."""
    seeds = WORLD_SEEDS[: task.scenes]
    both = [(seed, subset) for subset in (False, True) for seed in seeds]
    scores = run(world(task.model), both, task.journal("scenes"), processes=task.processes)
    plain, dissociation = (scores[scores["dissociation"] == subset] for subset in (False, True))
    text = f"""# What colour, position and an untrained network make of the scenes

Validation seeds {seeds[0]} to {seeds[-1]}, {SEGMENTS} segments for every method;
means over scenes with 95 % bootstrap intervals. Model weights {task.model.weights}.
Made by `make benchmark-scenes`.

{report.to_markdown(summary(plain))}

![The table as a picture](scenes.png)

The first 24 of the scenes, and the labels of their parts:

![24 scenes and their labels](scenes-examples.png)

## The dissociation subset

{report.to_markdown(summary(dissociation))}

![24 scenes of the dissociation subset](scenes-dissociation.png)
"""
    figure = report.chart(plain, f"{len(seeds)} validation scenes, {SEGMENTS} segments")
    report.write(task.out, "scenes", text, scores, figure)
    for name, subset in (("examples", False), ("dissociation", True)):
        pictures = [scene(seed, dissociation=subset) for seed in seeds[:24]]
        report.contact_sheet(pictures).save(task.out / f"scenes-{name}.png")


def _settings(task: Task) -> None:
    """Which settings are best on validation scenes."""
    config = EmerDiffConfig.for_model(task.model)
    seeds = list(SETTINGS_SEEDS[: task.scenes])
    features = settings.compare_features(
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
    configs = settings.shift_grid(task.model, config)
    shifts = settings.compare_shifts(
        task.model,
        configs,
        few,
        task.journal("settings-shifts", **about),
        processes=task.processes,
    )
    # All filters and balances are compared at once, so it does not matter which is chosen.
    compared = ("sigma", "balance", "elsewhere")
    whole = {k: v for k, v in dataclasses.asdict(config).items() if k not in compared}
    chosen, exact = (
        settings.compare_shifts(
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

{report.to_markdown(best.round(3).set_index("site"))}

![mIoU by site and timestep](settings.png)

## Where, when and how strongly to shift ({len(few)} scenes)

The paper's argmax, at the best sigma of each row. "Relative" is lambda divided by the root mean
square of the site's own output at t_m.

{report.to_markdown(settings.best_sigma(shifts).round(3).set_index("site"))}

## Small masks: how maps are compared ({len(seeds[:20])} scenes)

At the chosen site, timestep and lambda, with clusters and with the true parts as low-resolution
masks. "none" with elsewhere 1 is the paper's.

{report.to_markdown(settings.balances(chosen, exact).round(3).set_index("balance"))}
"""
    figure = report.heatmap(by_site, "mIoU of clusters, by site and timestep", "mIoU")
    report.write(task.out, "settings", text, shifts, figure)


def _quality(task: Task) -> None:
    """The method beside baselines, nulls and rivals, on test scenes."""
    config = EmerDiffConfig.for_model(task.model)
    seeds = TEST_SEEDS[: task.scenes]
    fewer = seeds[: max(task.scenes * 2 // 5, 1)]
    about = dataclasses.asdict(config)
    both = [(seed, False) for seed in seeds] + [(seed, True) for seed in fewer]
    segmentor = quality(task.model, config)
    scores = run(segmentor, both, task.journal("quality", config=about), processes=task.processes)
    seeded = run(
        stability(task.model, config, range(1, 4)),
        [(seed, False) for seed in seeds[: max(task.scenes // 10, 1)]],
        task.journal("stability", config=about),
        processes=task.processes,
    )
    plain, dissociation = (scores[scores["dissociation"] == subset] for subset in (False, True))
    text = f"""# EmerDiff against baselines, nulls and rivals

Test seeds {seeds[0]} to {seeds[-1]}, {SEGMENTS} segments for every method (with true masks: as
many as the scene has parts); means over scenes with 95 % bootstrap intervals. Majority-class mIoU
gives every segment the class of most of its pixels, class-mean mIoU the class whose mean embedding
is nearest, in each picture: both are oracles, comparable at equal numbers of segments only. Model
weights {task.model.weights}. Made by `make benchmark-quality`.

{report.to_markdown(summary(plain))}

![The table as a picture](quality.png)

## Scene by scene

{report.to_markdown(paired(plain, METHOD))}

What of these differences is certain, in words (95 % intervals that exclude zero):

{_as_list(verdicts(plain, METHOD))}

The first four scenes and the first of the dissociation subset, unchosen. A segment has the colour
of the part that most of its pixels are of:

![What methods make of five scenes](quality-examples.png)

## The dissociation subset ({len(fewer)} scenes)

All surfaces of a scene share two colours, so colour says little of what is what.

{report.to_markdown(summary(dissociation))}

{report.to_markdown(paired(dissociation, METHOD))}

{_as_list(verdicts(dissociation, METHOD))}

## Other seeds ({seeded["seed"].nunique()} scenes)

{report.to_markdown(summary(seeded))}
"""
    figure = report.chart(plain, f"{len(seeds)} test scenes, {SEGMENTS} segments")
    report.write(task.out, "quality", text, scores, figure)
    subjects = [scene(seed) for seed in seeds[:4]] + [scene(seeds[0], dissociation=True)]
    every = [(subject, segmentor(subject)) for subject in subjects]
    shown = [(subject, {name: found[name] for name in SHOWN}) for subject, found in every]
    report.gallery(shown).write_image(task.out / "quality-examples.png", scale=1.5)


def _modulation(task: Task) -> None:
    """What engines cost and how far they are from the literal one."""
    config = EmerDiffConfig.for_model(task.model)
    seeds = list(ENGINE_SEEDS[: task.scenes])
    about = dataclasses.asdict(config)
    scores = engines.compare(task.model, config, seeds, task.journal("modulation", config=about))
    means = scores.groupby("variant", sort=False).mean(numeric_only=True).drop(columns="seed")
    for column in ("denoising", "whole"):
        means[f"{column} / literal"] = means[column] / means[column].iloc[0]
    means["change of mIoU"] = means["parts_miou"] - means["parts_miou"].iloc[0]
    picture = Photo(scene(seeds[0]).image)
    observation = observe(task.model, picture, config)
    masks = low_resolution_masks(observation.features, SEGMENTS, config)
    weights = torch.from_numpy(masks.values)
    costs = engines.costs(task.model, observation.trajectory, weights, config)
    responses = respond(task.model, picture, engine="short", config=config)
    full = ""
    if task.full_size:
        costs_v1, decoders = engines.full_size(task.model.dtype)
        full = f"""
## At Stable Diffusion v1's size

Its UNet and autoencoder with random weights, 64 x 64 latents, 2 masks, 15 steps from t_m = 281.

{report.to_markdown(costs_v1.round(2).T)}

What decoding one picture costs:

{report.to_markdown(decoders.round(2))}
"""
    text = f"""# What engines cost, and how far they are from the literal one

{len(seeds)} validation scenes from seed {seeds[0]}, {SEGMENTS} masks each, all variants one after
the other on the same scene; seconds on this machine, comparable in this table only. Model weights
{task.model.weights}. Made by `make benchmark-modulation`.

"same" is the share of pixels with the literal engine's label, "correlation" that of signed
responses, mIoU the majority-class one of parts.

{report.to_markdown(means.round(3))}

![Agreement against speed](modulation.png)

## Operations of one scene

"bound" is how many times fewer operations an engine takes than the literal one, "fast" how many
times as fast it was, "reached" the share of the bound.

{report.to_markdown(costs.round(2).T)}

## How linear responses are (one scene)

{report.to_markdown(engines.linearity(task.model, config, seeds[0]).round(3))}

## The adjoint engine against finite differences of the literal one (one scene)

{report.to_markdown(engines.derivatives(task.model, config, seeds[0]).round(3))}

## Answers from stored responses, in milliseconds

{report.to_markdown(engines.answers(responses).round(1))}
{full}"""
    report.write(task.out, "modulation", text, scores, engines.trade_off(scores))


def _recording(task: Task) -> None:
    """What recording costs, beside a bare run and other ways."""
    steps, dtype = min(task.scenes, 50), str(task.model.dtype).removeprefix("torch.")
    ways = recording.ways(task.model, steps)
    timed = recording.race(ways, rounds=3)
    few = max(steps // 10, 1)
    memory = {n: recording.peak(task.model.name, dtype, n) for n in (few, steps)}
    large = recording.full_size(task.model.dtype, steps=min(steps, 3))
    text = f"""# What recording costs

One prompt of {steps} steps, {dtype} on {task.model.device} with {torch.get_num_threads()} threads;
ways take turns in one process, medians of {timed["round"].nunique()} rounds after one to warm up.
Ratios are to the bare run of the same round; the times themselves are those of one machine. Every
way ends with the picture, and recordings include listing sites, making the store and waiting for
the disk. Ours and the saved list hold float16, the other lists the model's own {dtype}. Model
weights {task.model.weights}. Made by `make benchmark-recording`.

{report.to_markdown(recording.table(timed, ways))}

![The table as a picture](recording.png)

## Memory

Most memory of a process of its own that records all sites to a store: {memory[few] / 2**20:.0f} MiB
in {few} steps, {memory[steps] / 2**20:.0f} MiB in {steps} steps, {memory[steps] / memory[few]:.2f}
times as much.

## A UNet as large as Stable Diffusion v1's

{large["parameters"] / 1e6:.0f} million random parameters, latents of 64 x 64, {dtype}, queries of
all cross-attentions: {large["bare"]:.1f} s a step with nothing recorded, {large["recorded"]:.1f} s
recorded, {large["recorded"] / large["bare"]:.2f} times as long;
{large["bytes"] / 2**20:.0f} MiB in the store after {min(steps, 3)} steps.
"""
    report.write(task.out, "recording", text, timed, recording.chart(timed))


def _as_list(sentences: list[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _card(task: Task) -> None:
    """The bundled model's card, in its own folder."""
    guidance = EmerDiffConfig.for_model(task.model).guidance
    known = captions.examples(task.model, TRAIN[500_000 : 500_000 + 60 * task.scenes])
    classifier = captions.train_classifier(known)
    unseen = captions.examples(task.model, WORLD_SEEDS[: task.scenes])
    card.write_card(
        folder(),
        task.model,
        guidance=guidance,
        followed=captions.follow(classifier, task.model, seeds=(0, 1), guidance=guidance),
        reference=captions.judge(classifier, unseen),
        psnr=card.autoencoder_psnr(task.model, TEST_SEEDS[: task.scenes]),
    )


def _pictures(task: Task) -> None:
    """The pictures of the README: a scene, and its segmentation as `views.overview` shows it."""
    images = task.out.parent / "images"
    picture = scene(EXAMPLE_SEED).image
    Image.fromarray(picture).save(images / "example.png")
    result = segment(task.model, Photo(picture), masks=SEGMENTS)
    views.overview(result).write_image(images / "overview.png", scale=2)


BENCHMARKS: Final = {
    "pictures": _pictures,
    "scenes": _scenes,
    "settings": _settings,
    "quality": _quality,
    "modulation": _modulation,
    "card": _card,
    "recording": _recording,
}


if __name__ == "__main__":
    main()
