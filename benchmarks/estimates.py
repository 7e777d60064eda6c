"""Estimate seconds and memory of the method at the size of published models, by counting.

The networks stand on the meta device, where their calls are run by the engines' own code and
nothing is computed.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd
import plotly.graph_objects as go
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from plotly.subplots import make_subplots
from torch import Tensor, nn
from tqdm.auto import tqdm

from benchmarks.counting import Counted, counted
from benchmarks.full_size import SIZES, Size
from benchmarks.task import Task
from emerdiff_probe.emerdiff import ENGINES, EmerDiffConfig
from emerdiff_probe.emerdiff.sharing import shared_attention, shared_sites
from emerdiff_probe.evaluation import reports
from emerdiff_probe.models.arguments import Reading, network_arguments
from emerdiff_probe.models.layouts import layout_of
from emerdiff_probe.models.schedule import flow_timesteps
from emerdiff_probe.taps import capture, given, prefix

__all__ = ["MASKS", "RATE", "SHARE", "Costs", "benchmark", "costs_of", "table"]

RATE: Final = 989e12
"""Dense operations in bfloat16 a second of an H100 SXM, as its maker states them."""

SHARE: Final = 0.4
"""Share of that rate that is assumed to be reached."""

MASKS: Final = 30

_CONFIG: Final = EmerDiffConfig.closest_to_paper()


@dataclass(frozen=True)
class Costs:
    """Hold what calls of one model take.

    Attributes:
        parameters: Parameters of network, autoencoder and text encoders.
        later: Number of steps from t_m on.
        batch: Branches in a call.
        call: A call of one row that keeps what branches share.
        kept: Bytes that it keeps.
        first: A call of `batch` branches at t_m, which begin at the shifted site.
        shared: A call of as many later on.
        plain: A call of as many that share nothing.
        decoding: One image to decode.
        encoding: One image to encode.
    """

    parameters: int
    later: int
    batch: int
    call: Counted
    kept: int
    first: Counted
    shared: Counted
    plain: Counted
    decoding: Counted
    encoding: Counted

    def inversion(self, steps: int = _CONFIG.steps) -> int:
        """Return the operations of an edit-friendly inversion, with its two decoded images."""
        own = steps * self.call.operations
        return own + self.encoding.operations + 2 * self.decoding.operations

    def segmentation(self, engine: str, masks: int = MASKS, later: int | None = None) -> int:
        """Return the operations of modulated runs of all masks by an engine, decoded.

        Args:
            engine: Name of the engine.
            masks: Number of masks, of which each has two runs.
            later: Number of steps from t_m on; by default those of a run of 50 steps.
        """
        branches, later = 2 * masks, later or self.later
        later = min(later, {"short": _CONFIG.short_steps, "jump": 1}.get(engine, later))
        unmodulated = later * self.call.operations
        if engine == "literal":
            modulated = later * branches * self.call.operations
        else:
            calls = self.first.operations + (later - 1) * self.shared.operations
            modulated = branches * calls // self.batch
        return unmodulated + modulated + branches * self.decoding.operations

    def memory(self, engine: str) -> int:
        """Return the most bytes that are held at a time by an engine, in bfloat16."""
        weights = 2 * self.parameters
        if engine == "literal":
            branches = self.plain.peak
        else:
            branches = max(self.first.peak, self.shared.peak if engine != "jump" else 0)
        return weights + max(
            self.call.peak, self.kept + branches, self.decoding.peak * max(self.batch // 2, 1)
        )


def costs_of(size: Size, batch: int = _CONFIG.batch) -> Costs:
    """Count the calls that all engines are made of; nothing is computed.

    Args:
        size: Numbers of the model.
        batch: Branches in a call.
    """
    network, vae = size.weightless()
    sites = shared_sites(network)
    begun: dict[str, Any]
    with (
        counted() as call,
        capture(network, sites) as tap,
        prefix(network, size.site, through=True) as begun,
    ):
        _call(network, size, 1)
        known = tap.take()
    kept = [*known.values(), *_tensors(list(begun.values()))]
    with (
        counted() as first,
        shared_attention(network, known, batch),
        given(network, begun, batch),
    ):
        _call(network, size, batch)
    with counted() as shared, shared_attention(network, known, batch):
        _call(network, size, batch)
    with counted() as plain:
        _call(network, size, batch)
    side = size.pixels // 8
    with counted() as decoding:
        vae.decode(_empty(1, size.channels, side, side))
    with counted() as encoding:
        vae.encode(_empty(1, 3, size.pixels, size.pixels))
    parameters = sum(each.numel() for part in (network, vae) for each in part.parameters())
    return Costs(
        parameters + size.text_parameters,
        _later(network, size),
        batch,
        call,
        sum(each.nbytes for each in kept),
        first,
        shared,
        plain,
        decoding,
        encoding,
    )


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.bfloat16, device="meta")


def _tensors(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [found for each in outputs or () for found in _tensors(each)]


def _call(network: Any, size: Size, rows: int) -> None:
    side, layout, config = size.pixels // 8, layout_of(network), network.config
    latents = _empty(rows, size.channels, side, side)
    text = _empty(rows, size.tokens, config[layout.text_width])
    if layout.is_unet:
        pooled = config.get("projection_class_embeddings_input_dim")
        further = {}
        if pooled:
            # Six numbers say size and cut of the image.
            times = config["addition_time_embed_dim"] * 6
            further = {"text_embeds": _empty(rows, pooled - times), "time_ids": _empty(rows, 6)}
        network(latents, 1, text, added_cond_kwargs=further, return_dict=False)
        return
    reading = Reading(text, _empty(rows, config[layout.pooled_width]))
    with torch.device("meta"):
        network(**network_arguments(network, latents, 1, reading))


def _later(network: nn.Module, size: Size) -> int:
    """Count the steps of 50 from the one nearest to the paper's t_m on."""
    wanted = _CONFIG.modulation_timestep
    if size.shift is None:
        return sum(t <= wanted for t in range(1, 1000, 1000 // _CONFIG.steps))
    cells = 8 * layout_of(network).cells(size.config)
    scheduler = FlowMatchEulerDiscreteScheduler(**size.shift)
    timesteps = flow_timesteps(
        scheduler, _CONFIG.steps, (size.pixels // cells) ** 2, even=size.even
    )
    nearest = min(timesteps, key=lambda each: abs(each - wanted))
    return sum(each <= nearest for each in timesteps)


@functools.cache
def _found() -> Mapping[str, Costs]:
    return {name: costs_of(size) for name, size in tqdm(SIZES.items(), desc="counting")}


def table(costs: Mapping[str, Costs]) -> pd.DataFrame:
    """Return what an inversion and the segmentations by all engines take, a row for each.

    Columns: ``model``, ``task``, ``teraflops``, ``seconds`` at the assumed rate, ``gigabytes``.
    """
    rows = []
    for name, each in costs.items():
        weights = 2 * each.parameters + max(each.call.peak, each.decoding.peak)
        tasks = {"inversion": (each.inversion(), weights)}
        tasks |= {
            f"segmentation, {engine}": (each.segmentation(engine), each.memory(engine))
            for engine in ENGINES
        }
        rows += [
            {
                "model": name,
                "task": task,
                "teraflops": operations / 1e12,
                "seconds": operations / (RATE * SHARE),
                "gigabytes": size / 1e9,
            }
            for task, (operations, size) in tasks.items()
        ]
    return pd.DataFrame(rows)


def chart(found: pd.DataFrame) -> go.Figure:
    """Draw seconds and memory of each task, a colour for each model."""
    figure = make_subplots(1, 2, subplot_titles=["seconds", "gigabytes"], shared_yaxes=True)
    colours = ("#000000", "#0072B2", "#D55E00", "#009E73")
    for (name, rows), colour in zip(found.groupby("model", sort=False), colours, strict=False):
        for column, values in enumerate(("seconds", "gigabytes"), start=1):
            figure.add_bar(
                y=rows["task"],
                x=rows[values],
                name=name,
                orientation="h",
                marker_color=colour,
                text=rows[values].map("{:.3g}".format),
                textposition="outside",
                cliponaxis=False,
                showlegend=column == 1,
                row=1,
                col=column,
            )
    most = found["seconds"].max()
    figure.update_xaxes(type="log", range=[-1, float(torch.tensor(most * 3).log10())], col=1)
    figure.update_xaxes(range=[0, found["gigabytes"].max() * 1.2], col=2)
    figure.update_yaxes(autorange="reversed")
    return figure.update_layout(
        title="Estimated, not measured: an H100, bfloat16, K = 30",
        width=1200,
        height=620,
        template="plotly_white",
        legend={"orientation": "h", "y": -0.08},
    )


def benchmark(task: Task) -> None:
    """Estimate what the method takes at the size of published models."""
    costs = _found()
    found = table(costs)
    seconds, gigabytes = (
        found.pivot(index="model", columns="task", values=each).loc[list(costs), found["task"][:5]]
        for each in ("seconds", "gigabytes")
    )
    parts = pd.DataFrame(
        {
            name: {
                "parameters, billions": round(each.parameters / 1e9, 2),
                "steps from t_m on": each.later,
                "one call of one row, teraflops": round(each.call.operations / 1e12, 2),
                "a branch later on, share of a row": _share(each.shared, each),
                "a branch at t_m, share of a row": _share(each.first, each),
                "kept of a step, gigabytes": round(each.kept / 1e9, 2),
                "decoding one image, teraflops": round(each.decoding.operations / 1e12, 2),
                "decoding one image, gigabytes": round(each.decoding.peak / 1e9, 2),
            }
            for name, each in costs.items()
        }
    )
    text = f"""# The method at the size of published models: estimated, not measured

**Estimated, not measured.** Networks of the published configurations stand on PyTorch's meta
device; the engines' own code runs their calls, and operations and bytes are counted. No weights
are loaded and nothing is computed. Made by `python -m benchmarks full-size`;
`python -m benchmarks gpu` measures Stable Diffusion v1 and XL where there is a GPU.

Assumed: an H100 SXM with {RATE / 1e12:.0f} teraflops a second, dense, in bfloat16, of which
{SHARE:.0%} are reached; seconds are operations divided by that. K = {MASKS} masks, both signs,
{_CONFIG.steps} steps, {_CONFIG.batch} branches in a call, {_CONFIG.short_steps} steps of "short",
the empty prompt without guidance; images of 512 pixels in v1, of 1024 in the others. t_m is the
timestep nearest to {_CONFIG.modulation_timestep}.

## Seconds

{reports.to_markdown(seconds.map("{:.3g}".format))}

## Most memory at a time, in gigabytes

{reports.to_markdown(gigabytes.map("{:.3g}".format))}

![Seconds and memory](full-size.png)

## What they are made of

{reports.to_markdown(parts.map("{:g}".format))}

- An inversion is edit-friendly, with two images decoded; a segmentation starts from one and
  decodes {2 * MASKS} images. Clustering and assignment run on the CPU and are not counted.
- Only matrix products, convolutions and attention are counted. Norms, activations and the time to
  start kernels are part of the assumed share, which small networks reach less often than large
  ones.
- Attention is counted as a fused kernel computes it, with no matrix of probabilities in memory.
  Where PyTorch has no such kernel for values wider than queries, as branches side by side have
  them, "shared", "short" and "jump" take more time and memory.
- Memory has the weights of all parts, also of text encoders, which could wait elsewhere, and every
  tensor until it is not needed; not what allocators and libraries keep beside it. "literal" has
  one call of {_CONFIG.batch} branches, as the others have. Images are decoded
  {_CONFIG.batch // 2} at a time, which takes most in all but Flux; a smaller `batch` takes less.
- Flows put few of their steps at low noise, so few are left from t_m on.
"""
    reports.write(task.out, "full-size", text, found, chart(found))


def _share(call: Counted, costs: Costs) -> float:
    return round(call.operations / costs.batch / costs.call.operations, 3)
