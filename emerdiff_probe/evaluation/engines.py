"""What engines cost and how far they are from the literal one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from emerdiff_probe import analysis
from emerdiff_probe.evaluation import report
from emerdiff_probe.evaluation.runs import SEGMENTS, Journal, Row
from emerdiff_probe.evaluation.task import ENGINE_SEEDS, Task
from emerdiff_probe.models import Condition, Denoiser, StableDiffusion
from emerdiff_probe.modulation import ENGINES, EmerDiffConfig, observe
from emerdiff_probe.modulation.adjoint import gradients
from emerdiff_probe.modulation.engines import decoded
from emerdiff_probe.modulation.observation import low_resolution_masks
from emerdiff_probe.probing import Trajectory, hooked, prompted
from emerdiff_probe.scenes import PARTS, scene
from emerdiff_probe.schema import MASK, MODEL_X, MODEL_Y, pixel_centres
from emerdiff_probe.sites import Site
from emerdiff_probe.sources import Photo

__all__ = ["VARIANTS", "benchmark", "compare", "costs", "derivatives", "linearity"]
__all__ += ["random_v1", "trade_off"]

VARIANTS: Final[dict[str, tuple[str, dict[str, object]]]] = {
    "literal": ("literal", {}),
    "shared": ("shared", {}),
    "shared, one side": ("shared", {"sides": "one"}),
    "shared, latent difference": ("shared", {"space": "latent"}),
    "short, 5 steps": ("short", {"short_steps": 5}),
    "short, 3 steps": ("short", {"short_steps": 3}),
    "jump": ("jump", {}),
}
"""Engines with their settings, by name; the first is what the others are compared with."""

_FACTORS: Final = (0.03, 0.1, 0.3, 1.0, 3.0)


def compare(
    model: StableDiffusion, config: EmerDiffConfig, seeds: list[int], journal: Journal
) -> pd.DataFrame:
    """Every variant on the same masks of the same scenes, in one run.

    Returns:
        A row for each scene and variant: ``denoising`` and ``whole`` (with decoding) seconds,
        UNet ``calls`` and their ``rows``, ``same`` (share of pixels with the literal label),
        ``correlation`` of signed responses with the literal ones (not a number in latents), and
        ``parts_miou``.
    """

    def compared(seed: int) -> list[Row]:
        subject = scene(seed)
        observation = observe(model, Photo(subject.image), config)
        masks = low_resolution_masks(observation.features, SEGMENTS, config)
        weights = torch.from_numpy(masks.values)
        rows: list[Row] = []
        first: tuple[NDArray[np.integer], NDArray[np.float32]] | None = None
        for name, (engine, changes) in VARIANTS.items():
            each = config.replace(**changes)
            with _counted(model) as counts:
                begun = time.perf_counter()
                modulated = ENGINES[engine](model, observation.trajectory, weights, each)
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
                    "parts_miou": analysis.majority_class_miou(labels, subject.parts, len(PARTS)),
                }
            )
        return rows

    # One at a time: seconds are compared.
    return journal.table({str(seed): seed for seed in seeds}, compared)


def costs(
    model: Denoiser, trajectory: Trajectory, masks: Tensor, config: EmerDiffConfig
) -> pd.DataFrame:
    """Seconds, UNet rows and floating-point operations of denoising by every engine."""
    rows = {}
    for name in ENGINES:
        with _counted(model) as counts:
            begun = time.perf_counter()
            ENGINES[name](model, trajectory, masks, config)
            seconds = time.perf_counter() - begun
        with FlopCounterMode(display=False) as counter:
            ENGINES[name](model, trajectory, masks, config)
        rows[name] = {
            "seconds": seconds,
            "calls": len(counts),
            "rows": sum(counts),
            "teraflops": counter.get_total_flops() / 1e12,
        }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("engine")
    table["time / literal"] = table["seconds"] / table["seconds"]["literal"]
    table["operations / literal"] = table["teraflops"] / table["teraflops"]["literal"]
    return table


def linearity(model: StableDiffusion, config: EmerDiffConfig, seed: int) -> pd.DataFrame:
    """How far responses to single masks grow with lambda, and how far they add up.

    Returns:
        By strength: ``proportional``, the correlation with the responses at the least strength;
        ``adds up``, that of the sum of two masks' responses with the response of both as one.
    """
    observation = observe(model, Photo(scene(seed).image), config)
    masks = low_resolution_masks(observation.features, SEGMENTS, config).values
    both = np.stack([masks[0], masks[1], masks[0] + masks[1]])
    rows, least = {}, None
    for factor in _FACTORS:
        each = config.replace(strength=config.strength * factor)
        found = _responses(model, observation.trajectory, torch.from_numpy(both), each)
        least = found if least is None else least
        rows[f"{each.strength:g}"] = {
            "proportional": _correlation(found, least),
            "adds up": _correlation(found[0] + found[1], found[2]),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("lambda")


def derivatives(model: StableDiffusion, config: EmerDiffConfig, seed: int) -> pd.DataFrame:
    """The adjoint engine against finite differences of the literal one.

    Returns:
        By strength of the differences: ``correlation`` and relative ``error`` of the derivatives
        of four pixels by eight locations.
    """
    observation = observe(model, Photo(scene(seed).image), config)
    height, width = observation.pixels.shape[:2]
    targets = torch.zeros(4, 3, height, width)
    corners = ((0.3, 0.3), (0.3, 0.7), (0.7, 0.3), (0.7, 0.7))
    for target, (y, x) in zip(targets, corners, strict=True):
        target[:, int(y * height), int(x * width)] = 1 / 3
    ours = gradients(model, observation.trajectory, targets, config)
    # The locations that move these pixels most: others' derivatives are rounding.
    places = ours.abs().sum(0).flatten().argsort(descending=True)[:8]
    masks = torch.eye(ours[0].numel())[places].reshape(-1, *ours.shape[1:])
    adjoint = ours.flatten(1)[:, places].numpy()
    rows = {}
    for factor in _FACTORS:
        each = config.replace(strength=config.strength * factor)
        response = _responses(model, observation.trajectory, masks, each, "literal")
        found = np.einsum("mcyx,tcyx->tm", response, targets.numpy()) / (2 * each.strength)
        rows[f"{each.strength:g}"] = {
            "correlation": _correlation(found, adjoint),
            "error": float(np.linalg.norm(found - adjoint) / np.linalg.norm(found)),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("lambda")


def random_v1() -> tuple[StableDiffusion, Trajectory]:
    """Stable Diffusion v1's UNet at its full size with random weights, and a trajectory for it.

    The other parts are small: only denoising is measured.
    """
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
    )
    text = torch.nn.Linear(1, 1)
    tokenizer = SimpleNamespace(model_max_length=77)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    parts = SimpleNamespace(
        unet=unet, vae=vae, text_encoder=text, tokenizer=tokenizer, scheduler=scheduler
    )
    model = StableDiffusion(parts, "random weights of Stable Diffusion v1's size")
    condition = Condition("", torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(0)))
    timesteps = tuple(t for t in model.schedule.timesteps(50) if t <= 281)
    return model, prompted(model, condition, timesteps, 0, (512, 512))


def trade_off(scores: pd.DataFrame) -> go.Figure:
    """Agreement with the literal engine against speed, a point for each variant."""
    means = scores.groupby("variant", sort=False).mean(numeric_only=True)
    speed = means["whole"].iloc[0] / means["whole"]
    figure = go.Figure(
        go.Scatter(
            x=speed,
            y=means["same"],
            mode="markers+text",
            text=list(means.index),
            textposition="bottom left",
            marker={"size": 10, "color": "#0072B2"},
        )
    )
    figure.update_xaxes(title="times as fast as literal, with decoding", type="log")
    figure.update_yaxes(title="share of pixels with the literal label", range=[0, 1.05])
    return figure.update_layout(width=900, height=560, template="plotly_white")


@contextmanager
def _counted(model: Denoiser) -> Iterator[list[int]]:
    """Rows of every UNet call; counted where the noise comes out, which no engine leaves out."""
    rows: list[int] = []
    with hooked(model.unet, {Site("conv_out"): lambda output: rows.append(len(output))}):
        yield rows


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
    labels: NDArray[np.integer] = analysis.assign(analysis.smooth(difference, sigma), y, x)[
        "labels"
    ].values
    return labels


def _correlation(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def benchmark(task: Task) -> None:
    """What engines cost and how far they are from the literal one."""
    config = EmerDiffConfig.for_model(task.model)
    seeds = list(ENGINE_SEEDS[: task.scenes])
    about = dataclasses.asdict(config)
    scores = compare(task.model, config, seeds, task.journal("modulation", config=about))
    means = scores.groupby("variant", sort=False).mean(numeric_only=True).drop(columns="seed")
    for column in ("denoising", "whole"):
        means[f"{column} / literal"] = means[column] / means[column].iloc[0]
    means["change of mIoU"] = means["parts_miou"] - means["parts_miou"].iloc[0]
    picture = Photo(scene(seeds[0]).image)
    observation = observe(task.model, picture, config)
    masks = low_resolution_masks(observation.features, SEGMENTS, config)
    weights = torch.from_numpy(masks.values)
    cost = costs(task.model, observation.trajectory, weights, config)
    full = ""
    if task.full_size:
        large, trajectory = random_v1()
        halves = torch.zeros(2, 16, 16)
        halves[0, :, :8], halves[1, :, 8:] = 1, 1
        paper = EmerDiffConfig.closest_to_paper().replace(batch=4)
        full = f"""
## At Stable Diffusion v1's size

Its UNet with random weights, 64 x 64 latents, 2 masks, 15 steps from t_m = 281.

{report.to_markdown(costs(large, trajectory, halves, paper).round(3))}
"""
    text = f"""# What engines cost, and how far they are from the literal one

{len(seeds)} validation scenes from seed {seeds[0]}, {SEGMENTS} masks each, all variants one after
the other on the same scene; seconds on this machine, comparable in this table only. Model weights
{task.model.weights}. Made by `make benchmark-modulation`.

"same" is the share of pixels with the literal engine's label, "correlation" that of signed
responses, mIoU the majority-class one of parts.

{report.to_markdown(means.round(3))}

![Agreement against speed](modulation.png)

## Operations of one scene's denoising

{report.to_markdown(cost.round(3))}

## How linear responses are (one scene)

{report.to_markdown(linearity(task.model, config, seeds[0]).round(3))}

## The adjoint engine against finite differences of the literal one (one scene)

{report.to_markdown(derivatives(task.model, config, seeds[0]).round(3))}
{full}"""
    report.write(task.out, "modulation", text, scores, trade_off(scores))
