"""Measure what recording costs: time compared with a bare run and other ways, and memory."""

from __future__ import annotations

import functools
import importlib.util
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from torch import Tensor

from benchmarks.full_size import stable_diffusion_1
from benchmarks.task import Task
from emerdiff_probe.errors import CaptureError
from emerdiff_probe.evaluation import reports
from emerdiff_probe.evaluation.rivals import of_unet
from emerdiff_probe.inputs import Prompt
from emerdiff_probe.models import StableDiffusion, load
from emerdiff_probe.recording import record
from emerdiff_probe.runs import sample
from emerdiff_probe.sites import Site
from emerdiff_probe.store import info

__all__ = ["ALL", "BARE", "LISTED", "MEMORY", "NNSIGHT", "alone", "benchmark", "chart", "costs"]
__all__ += ["full_size", "peak", "race", "table", "ways"]

PROMPT: Final = Prompt("a red house", seed=0)

EVERY: Final = "*, !*:skip"
"""Sites that all ways can see; skips are not the output of any module."""

BARE: Final = "nothing recorded"
ALL: Final = "all sites to Zarr"
MEMORY: Final = "all sites in memory, as float32"
LISTED: Final = "hooks, all sites in a list"
NNSIGHT: Final = "nnsight, all sites in a list"

QUERIES: Final = "*attn2:query"
"""Sites of the recording at full size."""

Way = Callable[[Path], int]
"""Function that draws a prompt, keeps something, maybe in a folder, and returns the bytes kept."""


def ways(model: StableDiffusion, steps: int) -> dict[str, Way | None]:
    """Return ways of recording a run; None where what a way needs is not installed.

    Each draws the same prompt to its picture. A recording includes all that a call of `record`
    does: listing sites, making the store, and waiting until all is written.
    """
    names = list(model.sites(EVERY).index)
    few = names[:: max(len(names) // 16, 1)][:16]

    def nothing(_: Path) -> int:
        _draw(model, steps)
        return 0

    def recorded(sites: list[str]) -> Way:
        def way(folder: Path) -> int:
            store = folder / "run"
            run = record(model, PROMPT, sites, steps=steps, guidance=1, store=store, progress=False)
            # Values are kept in float16, and read as float32.
            return _size(run) * 2

        return way

    def remembered(_: Path) -> int:
        options: dict[str, Any] = {"steps": steps, "guidance": 1, "dtype": "float32"}
        return _size(record(model, PROMPT, names, progress=False, **options)) * 4

    def listed(_: Path) -> int:
        kept: list[Tensor] = []
        with _hooks(model, names, kept.append):
            _draw(model, steps)
        return _bytes(kept)

    def saved(folder: Path) -> int:
        kept: list[Tensor] = []
        with _hooks(model, names, lambda tensor: kept.append(tensor.half())):
            _draw(model, steps)
        torch.save(kept, folder / "kept.pt")
        return _bytes(kept)

    def traced(_: Path) -> int:
        kept: list[Tensor] = []
        with _traced(model, names, kept):
            _draw(model, steps)
        return _bytes(kept)

    return {
        BARE: nothing,
        f"{len(few)} sites to Zarr": recorded(few),
        ALL: recorded(names),
        MEMORY: remembered,
        LISTED: listed,
        "hooks in a list, as float16, then torch.save": saved,
        NNSIGHT: traced if importlib.util.find_spec("nnsight") else None,
    }


def _draw(model: StableDiffusion, steps: int) -> None:
    condition = model.condition(PROMPT.text)
    side = model.image_size
    *_, last = sample(model, condition, steps=steps, seed=int(PROMPT.seed), height=side, width=side)
    model.decode(last.next_latents)


def _size(run: object) -> int:
    """Count the values of a recording."""
    assert isinstance(run, xr.DataTree)  # no plan was asked for
    return int(sum(leaf["value"].size for leaf in run.leaves))


def _bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


@contextmanager
def _hooks(
    model: StableDiffusion, names: list[str], keep: Callable[[Tensor], None]
) -> Iterator[None]:
    """Install forward hooks as anyone would write them, without our taps."""

    def hook(_: Any, __: Any, output: Any) -> None:
        keep(output if isinstance(output, Tensor) else output[0])

    modules = [model.unet.get_submodule(Site.parse(name).module) for name in names]
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _traced(model: StableDiffusion, names: list[str], kept: list[Tensor]) -> Iterator[None]:
    """Wrap the UNet in nnsight; each call is a trace that saves the tensors of all sites."""
    from nnsight import NNsight

    unet = model.unet
    within = NNsight(unet)
    envoys = [within.get(Site.parse(name).module) for name in names]

    class Traced:
        _orig_mod = unet  # whose layout is known

        def __getattr__(self, name: str) -> Any:
            return getattr(unet, name)

        def __call__(self, *arguments: Any, **named: Any) -> Any:
            with within.trace(*arguments, **named):
                seen = [envoy.output.save() for envoy in envoys].save()  # type: ignore[attr-defined]
                output = within.output.save()
            kept.extend(each if isinstance(each, Tensor) else each[0] for each in seen)
            return output

    model.unet = Traced()
    try:
        yield
    finally:
        model.unet = unet


def race(ways: Mapping[str, Way | None], rounds: int) -> pd.DataFrame:
    """Time ways in turn, so that other load on the machine affects all of them alike.

    Each round has an order of its own, since a way also pays for what the one before it left
    behind, such as memory to be returned.

    Returns:
        Table with a row for each round and way: ``round``, ``way``, ``seconds`` and ``bytes`` kept.

    Raises:
        CaptureError: A way that should keep something kept nothing.
    """
    rows = []
    # The first round only warms up.
    for number in range(rounds + 1):
        for name in random.Random(number).sample(list(ways), len(ways)):
            way = ways[name]
            if way is None:
                continue
            with tempfile.TemporaryDirectory() as folder:
                begun = time.perf_counter()
                kept = way(Path(folder))
                seconds = time.perf_counter() - begun
            if not kept and name != BARE:
                raise CaptureError(f"{name!r} kept nothing, so its time says nothing")
            rows.append({"round": number, "way": name, "seconds": seconds, "bytes": kept})
    timed = pd.DataFrame(rows)
    return timed[timed["round"] > 0]


def table(timed: pd.DataFrame, ways: Mapping[str, Way | None]) -> pd.DataFrame:
    """Return medians over rounds, as text: seconds, and their ratio to a bare run of the round."""
    ratios = _ratios(timed)
    rows = {}
    for name, way in ways.items():
        if way is None:
            rows[name] = ["not installed", "", "", ""]
            continue
        mine = timed[timed["way"] == name]
        ratio = ratios[name]
        rows[name] = [
            f"{mine['seconds'].median():.2f}",
            f"{ratio.median():.2f}",
            f"{ratio.min():.2f} to {ratio.max():.2f}",
            f"{mine['bytes'].iloc[0] / 2**20:.0f}",
        ]
    found = pd.DataFrame.from_dict(
        rows, orient="index", columns=["seconds", "ratio to bare", "lowest to highest", "MiB kept"]
    )
    return found.rename_axis("way")


def _ratios(timed: pd.DataFrame) -> pd.DataFrame:
    seconds = timed.pivot_table(index="round", columns="way", values="seconds")
    return seconds.div(seconds[BARE], axis=0)


def chart(timed: pd.DataFrame) -> go.Figure:
    """Draw ratios to a bare run: bars of medians, dots of rounds."""
    ratios = _ratios(timed)
    ratios = ratios[ratios.median().sort_values().index]
    figure = go.Figure(go.Bar(x=ratios.median(), y=ratios.columns, orientation="h", width=0.6))
    for way in ratios.columns:
        figure.add_scatter(
            x=ratios[way], y=[way] * len(ratios), mode="markers", marker={"color": "black"}
        )
    figure.update_xaxes(title="time, as a multiple of a bare run", rangemode="tozero")
    return figure.update_layout(
        width=1000, height=160 + 40 * ratios.shape[1], template="plotly_white", showlegend=False
    )


def costs(short: pd.DataFrame, long: pd.DataFrame, few: int, many: int) -> pd.DataFrame:
    """Separate what each way costs once from what it costs for each step.

    Args:
        short, long: What `race` gave for runs of two lengths.
        few, many: The numbers of steps of these runs.

    Returns:
        Table by way, as text: seconds a run and milliseconds a step, each more than a bare run:
        the line through the medians.
    """
    more = []
    for timed in (short, long):
        seconds = timed.pivot_table(index="round", columns="way", values="seconds")
        more.append(seconds.sub(seconds[BARE], axis=0).median().drop(BARE))
    step = (more[1] - more[0]) / (many - few)
    once = more[0] - few * step
    return pd.DataFrame(
        {"s once": once.map("{:.2f}".format), "ms a step": (step * 1000).map("{:.1f}".format)}
    )


def peak(model: str, dtype: str, steps: int, way: str = ALL) -> int:
    """Return the most bytes that a process held in memory while it ran one of the `ways`."""
    code = f"from benchmarks.recording import alone; alone({model!r}, {dtype!r}, {steps}, {way!r})"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(child.stdout.split()[-1])


def alone(name: str, dtype: Literal["float32", "bfloat16"], steps: int, way: str) -> None:
    """Run one of the `ways` and print the most bytes that this process ever held."""
    chosen = ways(of_unet(load(name, dtype=dtype)), steps)[way]
    assert chosen is not None  # nobody asks for what is not installed
    with tempfile.TemporaryDirectory() as folder:
        chosen(Path(folder))
    print(_high_water())


def _high_water() -> int:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(each for each in status.read_text().splitlines() if each.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    # Where there is no /proc; on Linux it would count the parent's memory, too.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def full_size(dtype: torch.dtype, steps: int = 3) -> dict[str, float]:
    """Record the queries of all cross-attentions of a UNet as large as Stable Diffusion v1's.

    Its weights are random; text encoder and autoencoder are small.

    Returns:
        ``parameters``, ``bare`` and ``recorded`` seconds a step (the better of two turns each), the
        seconds in which a model is ``described``, once, and ``bytes`` in the store.
    """
    model = stable_diffusion_1(dtype, autoencoder=(8, 8, 8, 8))

    def seconds(run: Callable[[], object]) -> float:
        begun = time.perf_counter()
        run()
        return (time.perf_counter() - begun) / steps

    folder = Path(tempfile.mkdtemp())
    try:
        begun = time.perf_counter()
        _ = model.weights, model.sites()
        described = time.perf_counter() - begun
        _draw(model, 1)
        bare, recorded = [], []
        for number in range(2):
            run = folder / str(number)
            options: dict[str, Any] = {"steps": steps, "guidance": 1, "store": run}
            options["progress"] = False
            bare.append(seconds(lambda: _draw(model, steps)))
            recorded.append(seconds(functools.partial(record, model, PROMPT, QUERIES, **options)))
        stored = info(run).nbytes
    finally:
        shutil.rmtree(folder)
    count = sum(each.numel() for each in model.unet.parameters())
    return {
        "parameters": count,
        "described": described,
        "bare": min(bare),
        "recorded": min(recorded),
        "bytes": stored,
    }


def benchmark(task: Task) -> None:
    """Measure what recording costs, compared with a bare run and other ways."""
    steps, dtype = min(task.scenes, 50), str(task.model.dtype).removeprefix("torch.")
    raced = ways(task.model, steps)
    timed = race(raced, rounds=9)
    few = max(steps // 10, 1)
    split = costs(race(ways(task.model, few), rounds=9), timed, few, steps)
    memory = {n: peak(task.model.name, dtype, n) for n in (few, steps)}
    held = {
        name: f"{peak(task.model.name, dtype, steps, name) / 2**20:.0f}"
        for name in (BARE, MEMORY, LISTED, NNSIGHT)
        if raced[name] is not None
    }
    large = full_size(task.model.dtype, steps=min(steps, 3))
    text = f"""# What recording costs

One prompt of {steps} steps, {dtype} on {task.model.device} with {torch.get_num_threads()} threads;
ways take turns in one process, medians of {timed["round"].nunique()} rounds after one to warm up.
Ratios are to the bare run of the same round; the times themselves are those of one machine. Every
way ends with the picture, and recordings include listing sites, making the store and waiting for
the disk. Ours and the saved list hold float16, the other lists the model's own {dtype}. Model
weights {task.model.weights}. Made by `make benchmark-recording`.

{reports.to_markdown(table(timed, raced))}

![The table as a picture](recording.png)

More than a bare run, by the line through {few} and {steps} steps:

{reports.to_markdown(split)}

## Memory

Most memory in MiB of a process of its own in which a run of {steps} steps went so:

{reports.to_markdown(pd.DataFrame({"MiB": held}).rename_axis("way"))}

Most memory of a process of its own that records all sites to a store: {memory[few] / 2**20:.0f} MiB
in {few} steps, {memory[steps] / 2**20:.0f} MiB in {steps} steps, {memory[steps] / memory[few]:.2f}
times as much.

## A UNet as large as Stable Diffusion v1's

{large["parameters"] / 1e6:.0f} million random parameters, latents of 64 x 64, {dtype}, queries of
all cross-attentions: {large["bare"]:.1f} s a step with nothing recorded, {large["recorded"]:.1f} s
recorded, {large["recorded"] / large["bare"]:.2f} times as long;
{large["bytes"] / 2**20:.0f} MiB in the store after {min(steps, 3)} steps. Before that, once for a
model, its weights are hashed and its sites listed: {large["described"]:.1f} s.
"""
    reports.write(task.out, "recording", text, timed, chart(timed))
