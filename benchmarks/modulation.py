"""Measure what engines cost, and how far they are from the literal one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from benchmarks.full_size import stable_diffusion_1
from benchmarks.task import ENGINE_SEEDS, Task
from emerdiff_probe.emerdiff import ENGINES, EmerDiffConfig, low_resolution_masks
from emerdiff_probe.emerdiff.asking import made_for
from emerdiff_probe.emerdiff.engines import Engine, decoded
from emerdiff_probe.emerdiff.sensitivities import gradients
from emerdiff_probe.evaluation import reports
from emerdiff_probe.evaluation.journal import SEGMENTS, Journal, Row
from emerdiff_probe.inputs import Photo
from emerdiff_probe.metrics import majority_class_miou
from emerdiff_probe.models import Denoiser, StableDiffusion
from emerdiff_probe.responses import compress, movers, pixels_moved, segment_from
from emerdiff_probe.runs import Run, Trajectory, noise_trajectory
from emerdiff_probe.scenes import PARTS, scene
from emerdiff_probe.schema import MASK, MODEL_X, MODEL_Y, RGB, X, Y, pixel_centres
from emerdiff_probe.segments import assign, smooth
from emerdiff_probe.sites import Site
from emerdiff_probe.taps import hooked

__all__ = [
    "answers",
    "benchmark",
    "compare",
    "costs",
    "derivatives",
    "full_size",
    "linearity",
    "trade_off",
    "variants",
]

_COLOURS: Final = {
    "literal": "#000000",
    "shared": "#0072B2",
    "short": "#D55E00",
    "jump": "#009E73",
}
_FACTORS: Final = (0.03, 0.1, 0.3, 1.0, 3.0)


def variants(trajectory: Trajectory) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return engines with their settings, by name; the others are compared with the first."""
    later = trajectory.timesteps[len(trajectory.timesteps) // 2]
    return {
        "literal": ("literal", {}),
        "shared": ("shared", {}),
        "shared, one side": ("shared", {"sides": "one"}),
        "shared, latent difference": ("shared", {"space": "latent"}),
        "short, 8 steps": ("short", {"short_steps": 8}),
        "short, 5 steps": ("short", {"short_steps": 5}),
        "short, 5 steps, one side": ("short", {"short_steps": 5, "sides": "one"}),
        "short, 3 steps": ("short", {"short_steps": 3}),
        "short, 2 steps": ("short", {"short_steps": 2}),
        "jump": ("jump", {}),
        "jump, half way down": ("jump", {"modulation_timestep": later}),
    }


def compare(
    model: StableDiffusion, config: EmerDiffConfig, seeds: list[int], journal: Journal
) -> pd.DataFrame:
    """Run every variant on the same masks of the same scenes, in one run.

    Returns:
        Table with a row for each scene and variant: ``denoising`` and ``whole`` (with decoding)
        seconds,
        UNet ``calls`` and their ``rows``, ``same`` (share of pixels with the literal label),
        ``correlation`` of signed responses with the literal ones (not a number in latents), and
        ``parts_miou``.
    """

    def compared(seed: int) -> list[Row]:
        subject = scene(seed)
        run, masks = _run_and_masks(model, subject.image, config)
        weights = torch.from_numpy(masks.values)
        rows: list[Row] = []
        first: tuple[NDArray[np.integer], NDArray[np.float32]] | None = None
        for name, (engine, changes) in variants(run.trajectory).items():
            each = config.replace(**changes)
            with _counted(model) as counts:
                begun = time.perf_counter()
                modulated = ENGINES[engine](model, run.trajectory, weights, each)
                denoised = time.perf_counter()
            with torch.inference_mode():
                response = torch.cat(list(decoded(model, modulated, each))).cpu().numpy()
            ended = time.perf_counter()
            labels = _labels(response, subject.parts.shape, each.sigma)
            first = first or (labels, response)
            known = response.shape == first[1].shape
            rows.append(
                {
                    "seed": seed,
                    "variant": name,
                    "denoising": denoised - begun,
                    "whole": ended - begun,
                    "calls": len(counts),
                    "rows": sum(counts),
                    "same": float((labels == first[0]).mean()),
                    "correlation": _correlation(response, first[1]) if known else float("nan"),
                    "parts_miou": majority_class_miou(labels, subject.parts, len(PARTS)),
                }
            )
        return rows

    # One at a time, as seconds are compared.
    return journal.table({str(seed): seed for seed in seeds}, compared)


def costs(
    model: Denoiser,
    trajectory: Trajectory,
    masks: Tensor,
    config: EmerDiffConfig,
    *,
    at_once: bool = False,
) -> pd.DataFrame:
    """Measure what every engine costs, in seconds and in floating-point operations.

    Args:
        model: Denoiser.
        trajectory: Trajectory whose timesteps include t_m.
        masks: Weights (mask, source_y, source_x).
        config: Settings of the method.
        at_once: Whether to count operations and take the time in one run. Counting takes some
            milliseconds for each call, which is little beside a large model's seconds; otherwise
            engines run twice.

    Returns:
        By engine: UNet ``calls`` and their ``rows``; for denoising alone and for the whole with
        decoding, the ``teraflops``, the ``bound`` (how many times fewer than the literal engine's),
        the ``seconds``, how many times as ``fast`` as the literal engine that is, and what share of
        the bound was ``reached``.
    """

    def timed(engine: Engine, counter: FlopCounterMode) -> tuple[float, float, int]:
        """Return seconds until all is denoised and until decoded, and operations of the first."""
        begun = time.perf_counter()
        modulated = engine(model, trajectory, masks, config)
        denoised = time.perf_counter() - begun
        operations = counter.get_total_flops()
        with torch.inference_mode():
            for _ in decoded(model, modulated, config):
                pass
        return denoised, time.perf_counter() - begun, operations

    rows = {}
    for name, engine in ENGINES.items():
        counter = _operations()
        if not at_once:
            seconds = timed(engine, counter)
        with _counted(model) as counts, counter:
            counted = timed(engine, counter)
        denoised, whole, _ = counted if at_once else seconds
        rows[name] = {
            "calls": len(counts),
            "rows": sum(counts),
            "denoising teraflops": counted[2] / 1e12,
            "denoising seconds": denoised,
            "whole teraflops": counter.get_total_flops() / 1e12,
            "whole seconds": whole,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("engine")
    for part in ("denoising", "whole"):
        operations, seconds = table[f"{part} teraflops"], table[f"{part} seconds"]
        table[f"{part} bound"] = operations["literal"] / operations
        table[f"{part} fast"] = seconds["literal"] / seconds
        table[f"{part} reached"] = table[f"{part} fast"] / table[f"{part} bound"]
    return table


def full_size(dtype: torch.dtype) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure engines at Stable Diffusion v1's size: random weights, two masks, 15 steps.

    Returns:
        `costs`, and of its autoencoder and of a tiny one (AutoencoderTiny as published) the
        ``seconds`` and ``teraflops`` of decoding one picture.
    """
    from diffusers import AutoencoderTiny

    model = stable_diffusion_1(dtype)
    config = EmerDiffConfig.closest_to_paper().replace(batch=4)
    timesteps = model.schedule.timesteps(config.steps)
    timesteps = tuple(t for t in timesteps if t <= config.modulation_timestep)
    trajectory = noise_trajectory(model, model.condition(), timesteps, 0, (512, 512))
    # Like the latents of a photograph, which inversion has computed.
    trajectory = trajectory.completed(model)
    halves = torch.zeros(2, 16, 16)
    halves[0, :, :8], halves[1, :, 8:] = 1, 1
    found = costs(model, trajectory, halves, config, at_once=True)
    rows = {}
    tiny = AutoencoderTiny().to(dtype).eval()
    for name, decoder in (("its own", model.vae), ("tiny", tiny)):
        model.decoder = decoder
        begun = time.perf_counter()
        model.decode(trajectory.start)
        seconds = time.perf_counter() - begun
        with _operations() as counter:
            model.decode(trajectory.start)
        rows[name] = {"seconds": seconds, "teraflops": counter.get_total_flops() / 1e12}
    return found, pd.DataFrame.from_dict(rows, orient="index").rename_axis("decoder")


def _run_and_masks(
    model: StableDiffusion, picture: NDArray[np.uint8], config: EmerDiffConfig
) -> tuple[Run, xr.DataArray]:
    """Return an inverted picture, and clusters of its features."""
    run, config = made_for(model, Photo(picture), config)
    features = run.features(config.feature_site, config.feature_timestep)
    return run, low_resolution_masks(features, SEGMENTS, config)


def linearity(model: StableDiffusion, config: EmerDiffConfig, seed: int) -> pd.DataFrame:
    """Measure how far responses to single masks grow with lambda, and how far they add up.

    Returns:
        By strength: ``proportional``, the correlation with the responses at the least strength;
        ``adds up``, that of the sum of two masks' responses with the response of both as one.
    """
    run, masks = _run_and_masks(model, scene(seed).image, config)
    both = np.stack([masks.values[0], masks.values[1], masks.values[:2].sum(0)])
    rows, least = {}, None
    for factor in _FACTORS:
        each = config.replace(strength=config.strength * factor)
        found = _responses(model, run.trajectory, torch.from_numpy(both), each)
        least = found if least is None else least
        rows[f"{each.strength:g}"] = {
            "proportional": _correlation(found, least),
            "adds up": _correlation(found[0] + found[1], found[2]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("lambda")


def derivatives(model: StableDiffusion, config: EmerDiffConfig, seed: int) -> pd.DataFrame:
    """Compare the adjoint engine with finite differences of the literal one.

    Returns:
        By strength of the differences: ``correlation`` and relative ``error`` of the derivatives
        of four pixels by eight locations.
    """
    run, _ = _run_and_masks(model, scene(seed).image, config)
    height, width = run.model_size
    targets = torch.zeros(4, 3, height, width)
    corners = ((0.3, 0.3), (0.3, 0.7), (0.7, 0.3), (0.7, 0.7))
    for target, (y, x) in zip(targets, corners, strict=True):
        target[:, int(y * height), int(x * width)] = 1 / 3
    ours = gradients(model, run.trajectory, targets, config)
    # The locations that move these pixels most, as derivatives of others are mere rounding.
    places = ours.abs().sum(0).flatten().argsort(descending=True)[:8]
    masks = torch.eye(ours[0].numel())[places].reshape(-1, *ours.shape[1:])
    adjoint = ours.flatten(1)[:, places].numpy()
    rows = {}
    for factor in _FACTORS:
        each = config.replace(strength=config.strength * factor)
        response = _responses(model, run.trajectory, masks, each, "literal")
        found = np.einsum("mcyx,tcyx->tm", response, targets.numpy()) / (2 * each.strength)
        rows[f"{each.strength:g}"] = {
            "correlation": _correlation(found, adjoint),
            "error": float(np.linalg.norm(found - adjoint) / np.linalg.norm(found)),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("lambda")


def answers(responses: xr.Dataset) -> pd.DataFrame:
    """Measure how long stored responses take to answer, in milliseconds; medians of five.

    It compares the given responses of single locations with 64 components of them in 8 bits,
    enlarged to 512 x 512 pixels, as a page or a widget would hold those of Stable Diffusion.
    """
    low_rank = compress(responses, rank=64, bits=8).drop_vars(["picture", "error"])
    centres = {dim: pixel_centres(512, responses.sizes[dim]) for dim in (Y, X)}
    low_rank = low_rank.interp(centres)
    right = low_rank["right"].fillna(0).round().astype(np.int8)
    low_rank["right"] = right.copy(data=np.ascontiguousarray(right.values))  # as compress() has it
    low_rank["picture"] = ((Y, X, RGB), np.zeros((512, 512, 3), np.uint8))
    queries: dict[str, Callable[[xr.Dataset], object]] = {
        "a new K of 20": lambda responses: segment_from(responses, 20),
        "a click on a pixel": lambda responses: movers(responses, 60, 60),
        "a click on a location": lambda responses: pixels_moved(responses, 60, 60),
    }

    def median(query: Callable[[xr.Dataset], object], responses: xr.Dataset) -> float:
        seconds = []
        for _ in range(6):
            begun = time.perf_counter()
            query(responses)
            seconds.append(time.perf_counter() - begun)
        return 1000 * float(np.median(seconds[1:]))

    return pd.DataFrame(
        {
            "as they are": {name: median(each, responses) for name, each in queries.items()},
            "512 x 512, 64 components": {
                name: median(each, low_rank) for name, each in queries.items()
            },
        }
    ).rename_axis("milliseconds")


def relative(scores: pd.DataFrame) -> pd.DataFrame:
    """Return scores from `compare`, with times as shares of the literal engine's on each scene."""
    times = ["denoising", "whole"]
    literal = scores[scores["variant"] == "literal"].set_index("seed")[times]
    return scores.assign(**(scores[times] / literal.loc[scores["seed"]].values))


def trade_off(scores: pd.DataFrame) -> go.Figure:
    """Draw agreement with the literal engine against speed, a point for each variant."""
    means = relative(scores).groupby("variant", sort=False).mean(numeric_only=True)
    speed = 1 / means["whole"]
    figure = go.Figure()
    for number, name in enumerate(means.index):
        engine = name.partition(",")[0]
        figure.add_scatter(
            x=[speed[name]],
            y=[means.loc[name, "same"]],
            name=f"{number + 1}  {name}",
            mode="markers+text",
            text=f"{number + 1}",
            textposition="top center" if number % 2 else "bottom center",
            marker={"size": 11, "color": _COLOURS[engine]},
        )
    figure.update_xaxes(
        title="times as fast as literal, with decoding",
        type="log",
        tickvals=[1, 2, 5, 10, 20],
        range=[-0.1, np.log10(speed.max()) + 0.1],
    )
    figure.update_yaxes(title="share of pixels with the literal label", range=[0.5, 1.05])
    return figure.update_layout(width=900, height=480, template="plotly_white", margin={"t": 30})


@contextmanager
def _counted(model: Denoiser) -> Iterator[list[int]]:
    """Count rows of every UNet call, where the noise comes out, which no engine leaves out."""
    rows: list[int] = []
    with hooked(model.unet, {Site("conv_out"): lambda output: rows.append(len(output))}):
        yield rows


def _operations() -> FlopCounterMode:
    """Count floating-point operations, including those of the attention kernel for CPUs."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return FlopCounterMode(display=False, custom_mapping={kernel: attention})


def _responses(
    model: Denoiser,
    trajectory: Trajectory,
    masks: Tensor,
    config: EmerDiffConfig,
    engine: str = "shared",
) -> NDArray[np.float32]:
    modulated = ENGINES[engine](model, trajectory, masks, config)
    with torch.inference_mode():
        return torch.cat(list(decoded(model, modulated, config))).cpu().numpy()


def _labels(
    response: NDArray[np.float32], size: tuple[int, ...], sigma: float
) -> NDArray[np.integer]:
    norms = np.linalg.norm(response, axis=1)
    difference = xr.DataArray(
        norms,
        dims=(MASK, MODEL_Y, MODEL_X),
        coords={
            MODEL_Y: pixel_centres(norms.shape[1], size[0]),
            MODEL_X: pixel_centres(norms.shape[2], size[1]),
        },
    )
    y, x = (pixel_centres(each, each) for each in size)
    labels: NDArray[np.integer] = assign(smooth(difference, sigma), y, x)["labels"].values
    return labels


def _correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def benchmark(task: Task) -> None:
    """Measure what engines cost, and how far they are from the literal one."""
    config = EmerDiffConfig.for_model(task.model)
    seeds = list(ENGINE_SEEDS[: task.scenes])
    about = dataclasses.asdict(config)
    scores = compare(task.model, config, seeds, task.journal("modulation", config=about))
    means = relative(scores).groupby("variant", sort=False).mean(numeric_only=True)
    means["change of mIoU"] = means["parts_miou"] - means["parts_miou"].iloc[0]
    literal = scores.loc[scores["variant"] == "literal", "whole"].mean()
    run, masks = _run_and_masks(task.model, scene(seeds[0]).image, config)
    weights = torch.from_numpy(masks.values)
    cost = costs(task.model, run.trajectory, weights, config)
    responses = run.respond(engine="short", config=config)
    full = ""
    if task.full_size:
        costs_v1, decoders = full_size(torch.bfloat16)
        full = f"""
## At Stable Diffusion v1's size

Its UNet and autoencoder with random weights in bfloat16, 64 x 64 latents, 2 masks, 15 steps from
t_m = 281, {config.short_steps} with "short"; x_t of the unmodulated run is known, as after an
inversion.

{reports.to_markdown(costs_v1.round(2).T)}

What decoding one picture costs:

{reports.to_markdown(decoders.round(2))}
"""
    text = f"""# What engines cost, and how far they are from the literal one

{len(seeds)} validation scenes from seed {seeds[0]}, {SEGMENTS} masks each, all variants one after
the other on the same scene. Model weights {task.model.weights}. Made by
`make benchmark-modulation`.

"denoising" and "whole", which is with decoding, are times as shares of the literal engine's on the
same scene, whose whole took {literal:.1f} s on this machine; "same" is the share of pixels with the
literal engine's label, "correlation" that of signed responses, mIoU the
majority-class one of parts.

{reports.to_markdown(means.drop(columns="seed").round(3))}

![Agreement against speed](modulation.png)

## Operations of one scene

"bound" is how many times fewer operations an engine takes than the literal one, "fast" how many
times as fast it was, "reached" the share of the bound.

{reports.to_markdown(cost.round(2).T)}

## How linear responses are (one scene)

{reports.to_markdown(linearity(task.model, config, seeds[0]).round(3))}

## The adjoint engine against finite differences of the literal one (one scene)

{reports.to_markdown(derivatives(task.model, config, seeds[0]).round(3))}

## Answers from stored responses, in milliseconds

{reports.to_markdown(answers(responses).round(1))}
{full}"""
    reports.write(task.out, "modulation", text, scores, trade_off(scores))
