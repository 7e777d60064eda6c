"""``python -m emerdiff_probe.evaluation scenes|quality``: makes the tables of docs/results."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from emerdiff_probe.evaluation import benchmarks, report
from emerdiff_probe.evaluation.scoring import paired, summary
from emerdiff_probe.models import StableDiffusion, load
from emerdiff_probe.modulation import EmerDiffConfig
from emerdiff_probe.scenes import VALIDATION, scene


def main() -> None:
    """Runs a benchmark, or goes on with one that was interrupted."""
    parser = argparse.ArgumentParser("python -m emerdiff_probe.evaluation", description=__doc__)
    parser.add_argument("benchmark", choices=["scenes", "quality"])
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="where tables go")
    parser.add_argument("--kept", type=Path, default=Path("build/benchmarks"), help="scores so far")
    parser.add_argument("--count", type=int, help="scenes (default: 100; quality: 20)")
    parser.add_argument("--model", default="playground")
    arguments = parser.parse_args()
    model = load(arguments.model)
    if arguments.benchmark == "scenes":
        _scenes(model, arguments.count or 100, arguments.out, arguments.kept)
    else:
        _quality(model, arguments.count or 20, arguments.out, arguments.kept)


def _scenes(model: StableDiffusion, count: int, out: Path, kept: Path) -> None:
    # The beginning of the validation seeds is for choosing settings; these come after it.
    seeds = VALIDATION[1000 : 1000 + count]
    scores = benchmarks.run(
        benchmarks.world(model),
        [(seed, subset) for subset in (False, True) for seed in seeds],
        kept / "scenes.jsonl",
        {"model": model.weights, "segments": benchmarks.SEGMENTS},
    )
    plain, dissociation = (scores[scores["dissociation"] == subset] for subset in (False, True))
    text = f"""# What colour, position and an untrained network make of the scenes

Validation seeds {seeds[0]} to {seeds[-1]}, {benchmarks.SEGMENTS} segments for every method;
means over scenes with 95 % bootstrap intervals. Model weights {model.weights}.
Made by `make benchmark-scenes`.

{report.to_markdown(summary(plain))}

![The table as a picture](scenes.png)

The first 24 of the scenes, and the labels of their parts:

![24 scenes and their labels](scenes-examples.png)

## The dissociation subset

{report.to_markdown(summary(dissociation))}

![24 scenes of the dissociation subset](scenes-dissociation.png)
"""
    figure = report.chart(plain, f"{count} validation scenes, {benchmarks.SEGMENTS} segments")
    report.write(out, "scenes", text, scores, figure)
    for name, subset in (("examples", False), ("dissociation", True)):
        pictures = [scene(seed, dissociation=subset) for seed in seeds[:24]]
        report.contact_sheet(pictures).save(out / f"scenes-{name}.png")
    print(text)


def _quality(model: StableDiffusion, count: int, out: Path, kept: Path) -> None:
    config = EmerDiffConfig.for_model(model)
    seeds = VALIDATION[100 : 100 + count]
    scores = benchmarks.run(
        benchmarks.quality(model, config),
        [(seed, False) for seed in seeds],
        kept / "quality.jsonl",
        {
            "model": model.weights,
            "segments": benchmarks.SEGMENTS,
            "config": dataclasses.asdict(config),
        },
    )
    text = f"""# EmerDiff against baselines on the same low-resolution masks

Validation seeds {seeds[0]} to {seeds[-1]}, {benchmarks.SEGMENTS} segments for every method;
means over scenes with 95 % bootstrap intervals. Majority-class mIoU gives every segment the class
of most of its pixels: an oracle, comparable at equal numbers of segments only. Model weights
{model.weights}. Made by `make benchmark-quality`.

{report.to_markdown(summary(scores))}

![The table as a picture](quality.png)

## Scene by scene

{report.to_markdown(paired(scores, benchmarks.METHOD))}
"""
    figure = report.chart(scores, f"{count} validation scenes, {benchmarks.SEGMENTS} segments")
    report.write(out, "quality", text, scores, figure)
    print(text)


if __name__ == "__main__":
    main()
