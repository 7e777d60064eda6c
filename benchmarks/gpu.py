"""Measure the method on a GPU at the size of Stable Diffusion v1 and XL, with random weights."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from benchmarks.estimates import MASKS, RATE, costs_of
from benchmarks.full_size import SIZES, Size, stable_diffusion_1, stable_diffusion_xl
from benchmarks.task import Task
from emerdiff_probe import invert
from emerdiff_probe.emerdiff import ENGINES, EmerDiffConfig
from emerdiff_probe.evaluation import reports
from emerdiff_probe.paths import made_at_once

__all__ = ["NARROW", "benchmark", "measured"]

_MODELS: Final[Mapping[str, Callable[[torch.dtype, Size], Any]]] = {
    "Stable Diffusion v1": lambda dtype, size: stable_diffusion_1(dtype, size=size),
    "Stable Diffusion XL": stable_diffusion_xl,
}

NARROW: Final[Mapping[str, Size]] = {
    "Stable Diffusion v1": SIZES["Stable Diffusion v1"].changed(
        128, sample_size=16, block_out_channels=(32, 32, 64, 64), cross_attention_dim=32
    ),
    "Stable Diffusion XL": SIZES["Stable Diffusion XL"].changed(
        128,
        sample_size=16,
        block_out_channels=(32, 64, 64),
        attention_head_dim=(2, 4, 4),
        transformer_layers_per_block=(1, 1, 1),
    ),
}
"""The same layouts, narrow enough to try the measurement out on a CPU."""


def measured(
    name: str,
    size: Size,
    *,
    device: str,
    dtype: torch.dtype,
    masks: int = MASKS,
    steps: int = 50,
) -> pd.DataFrame:
    """Measure an inversion and a segmentation by each engine, after one of each to warm up.

    Args:
        name: "Stable Diffusion v1" or "Stable Diffusion XL".
        size: Its numbers.
        device: Where it runs.
        dtype: Type of all its parts.
        masks: Number of masks.
        steps: Number of steps of the run.

    Returns:
        By task: ``seconds``, ``gigabytes`` (the most that was allocated; not a number on CPUs), and
        ``share``, that of `RATE` which the counted operations make.
    """
    model = _MODELS[name](dtype, size)
    model.pipeline.to(device)
    image = np.random.default_rng(0).integers(0, 256, (size.pixels, size.pixels, 3), np.uint8)
    config = EmerDiffConfig.for_model(model).replace(steps=steps)
    grid = model.timesteps(steps, (size.pixels, size.pixels))
    config = config.on_grid(grid)
    costs = costs_of(size, config.batch)
    later = sum(t <= config.modulation_timestep for t in grid)

    def task(run: Callable[[], object], operations: float) -> dict[str, float]:
        if device != "cpu":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        begun = time.perf_counter()
        run()
        if device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - begun
        most = torch.cuda.max_memory_allocated() / 1e9 if device != "cpu" else float("nan")
        return {"seconds": seconds, "gigabytes": most, "share": operations / seconds / RATE}

    def inverted(count: int) -> Any:
        return invert(model, image, steps=count, progress=False)

    inverted(2)
    rows = {"inversion": task(lambda: inverted(steps), costs.inversion(steps))}
    run, settings = inverted(steps), {"config": config, "progress": False}
    # Clusters are made once, as they are made on the CPU.
    labels = run.segment(masks, engine="jump", **settings)["low_res"].values
    for engine in ENGINES:
        rows[f"segmentation, {engine}"] = task(
            functools.partial(run.segment, labels, engine=engine, **settings),
            costs.segmentation(engine, masks, later),
        )
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("task")


def benchmark(task: Task) -> None:
    """Measure on a GPU; without one try the measurement out, and write nothing."""
    if not torch.cuda.is_available():
        for name, size in NARROW.items():
            found = measured(name, size, device="cpu", dtype=torch.float32, masks=3, steps=6)
            seconds = found["seconds"].round(2).to_string()
            print(f"{name}, narrow, on the CPU: no result\n{seconds}")
        return
    sections = []
    for name in _MODELS:
        found = measured(name, SIZES[name], device="cuda", dtype=torch.bfloat16)
        sections.append(f"## {name}\n\n{reports.to_markdown(found.round(3))}\n")
        torch.cuda.empty_cache()
    text = f"""# The method at the size of published models: measured

{torch.cuda.get_device_name()}, torch {torch.__version__}, bfloat16, random weights, small text
encoders; {MASKS} masks, 50 steps, an image of noise. Made by `python -m benchmarks gpu`. "share"
is that of {RATE / 1e12:.0f} teraflops a second, an H100's dense rate, that the counted operations
make; [the estimate](full-size.md) assumes one.

{chr(10).join(sections)}"""
    with made_at_once(task.out / "full-size-measured.md", replace=True) as new:
        new.write_text(text)
