"""Examine a model: what can be recorded, at what cost, and that it changes nothing."""

from __future__ import annotations

import copy
import functools
import inspect
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from emerdiff_probe.emerdiff import EmerDiffConfig
from emerdiff_probe.errors import CaptureError, ModelError, ProbeError, first_line
from emerdiff_probe.models.modes import evaluating
from emerdiff_probe.models.pipeline_model import PipelineModel
from emerdiff_probe.recording.casting import as_array, laid_out
from emerdiff_probe.recording.probes import probe
from emerdiff_probe.sites import Site, select
from emerdiff_probe.taps import hooked

__all__ = ["Examination", "Method", "examine"]

_PROMPT: Final = "a photograph of a house"


@dataclass(frozen=True)
class Method:
    """The settings that EmerDiff would start from with a model.

    Attributes:
        config: The settings; None if there are none to start from.
        troubles: Sentences on why EmerDiff cannot work with them; None if it can.
    """

    config: EmerDiffConfig | None
    troubles: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Examination:
    """The findings of `examine`.

    Attributes:
        sites: The model's table of sites, with the columns ``why_not``, empty for sites that can be
            recorded, and ``recorded``, the bytes per step of one image in float16, including all
            guidance halves.
        repeats: Whether two equal calls of the bare pipeline give equal images.
        unchanged: Whether an image is bit-identical when sites are recorded: "blocks" by
            `emerdiff_probe.probe`, and all that can be.
        seconds: The median time of one sampling step in seconds: "bare", and with "blocks" and
            "all" sites recorded.
        method: The settings that EmerDiff would use.
    """

    sites: pd.DataFrame
    repeats: bool
    unchanged: dict[str, bool]
    seconds: dict[str, float]
    method: Method

    @property
    def well(self) -> bool:
        """Return whether every site can be recorded, and recording changes nothing."""
        return self.harmless and not self.sites["why_not"].any()

    @property
    def harmless(self) -> bool:
        """Return whether recording changes nothing; False if equal calls differ anyway."""
        return self.repeats and all(self.unchanged.values())


def examine(model: PipelineModel, *, steps: int = 4, seed: int = 0) -> Examination:
    """Generate an image four times with a model's own pipeline, with and without recording.

    The model is left as it was found.

    Args:
        model: A model from `emerdiff_probe.load`.
        steps: The number of sampling steps of each image, at least 2; the first is not timed.
        seed: The seed of the image's noise.

    Raises:
        ModelError: The bare pipeline fails.
    """
    table = model.sites()
    watch = _Watch({Site.parse(name): shape for name, shape in table["shape"].items()})
    watch.refuse(model.unet)
    every = {site: watch.edit(site) for site in watch.left}
    with _own_scheduler(model) as ends, evaluating(*model.parts.values()):
        first, _ = _drawn(model, steps, seed, ends)
        bare, seconds = _drawn(model, steps, seed, ends)
        times, images = {"bare": seconds}, {}
        with hooked(model.unet, every) if every else nullcontext():
            images["all"], times["all"] = _drawn(model, steps, seed, ends)
        watch.judge()
        blocks = [site for site in select(watch.shapes, "blocks") if site in watch.left]
        with probe(model.pipeline, list(map(str, blocks))) if blocks else nullcontext():
            images["blocks"], times["blocks"] = _drawn(model, steps, seed, ends)
    table["why_not"] = [watch.reasons.get(site, "") for site in watch.shapes]
    table["recorded"] = [watch.bytes.get(site, 0) for site in watch.shapes]
    return Examination(
        sites=table,
        repeats=np.array_equal(first, bare),
        unchanged={name: np.array_equal(bare, image) for name, image in images.items()},
        seconds=times,
        method=_method(model, table),
    )


@dataclass(eq=False)
class _Watch:
    """Treat the tensor of each site as recording does, without keeping it, and note failures.

    Attributes:
        shapes: The shape of every site of the model, for one row.
        reasons: The reason why a site cannot be recorded.
        fired: How often each site has fired.
        bytes: The size of each site in one call, in the dtype of recordings.
    """

    shapes: dict[Site, tuple[int, ...]]
    reasons: dict[Site, str] = field(default_factory=dict)
    fired: dict[Site, int] = field(default_factory=dict)
    bytes: dict[Site, int] = field(default_factory=dict)

    @property
    def left(self) -> list[Site]:
        """Return the sites that have not failed so far."""
        return [site for site in self.shapes if site not in self.reasons]

    def refuse(self, unet: torch.nn.Module) -> None:
        """Note the sites that taps refuse."""
        for site in self.shapes:
            try:
                with hooked(unet, {site: lambda tensor: None}):
                    pass
            except ProbeError as error:
                self.reasons[site] = str(error)

    def edit(self, site: Site) -> Callable[[Tensor], None]:
        """Return a tap that records a site and forgets it."""

        def see(tensor: Tensor) -> None:
            self.fired[site] = self.fired.get(site, 0) + 1
            if site in self.reasons:
                return
            try:
                values = laid_out(tensor, site, self.shapes[site])
                self.bytes[site] = as_array(values, torch.float16, site).nbytes
            except CaptureError as error:
                self.reasons[site] = str(error)

        return see

    def judge(self) -> None:
        """Note the sites that fired more or less often than once per network call, as most do."""
        counts = {site: self.fired.get(site, 0) for site in self.left}
        usual = statistics.mode(counts.values()) if counts else 0
        for site, count in counts.items():
            if count != usual:
                self.reasons[site] = f"fires {count} times in {usual} calls of the UNet"


@contextmanager
def _own_scheduler(model: PipelineModel) -> Iterator[list[float]]:
    """Make a pipeline run quietly with a copy of its scheduler, which a call would modify.

    Yields:
        The times at which its steps end, in seconds.
    """
    pipeline: Any = model.pipeline
    scheduler, ends = pipeline.scheduler, list[float]()
    own = copy.deepcopy(scheduler)
    step = own.step

    @functools.wraps(step)
    def timed(*arguments: Any, **named: Any) -> Any:
        result = step(*arguments, **named)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        ends.append(time.perf_counter())
        return result

    own.step = timed
    bars = getattr(pipeline, "_progress_bar_config", None)
    pipeline.scheduler = own
    pipeline.set_progress_bar_config(disable=True)
    try:
        yield ends
    finally:
        pipeline.scheduler = scheduler
        if bars is None:
            del pipeline._progress_bar_config
        else:
            pipeline._progress_bar_config = bars


def _drawn(
    model: PipelineModel, steps: int, seed: int, ends: list[float]
) -> tuple[NDArray[Any], float]:
    """Return an image, and the median seconds of a step.

    Raises:
        ModelError: The pipeline fails.
    """
    call: Any = model.pipeline
    further = {}
    if "use_resolution_binning" in inspect.signature(type(call).__call__).parameters:
        further["use_resolution_binning"] = False  # it knows only the published sizes
    ends.clear()
    try:
        drawn = call(
            _PROMPT,
            num_inference_steps=steps,
            height=model.image_size,
            width=model.image_size,
            generator=torch.Generator("cpu").manual_seed(seed),
            output_type="np",
            **further,
        )
    except ProbeError:
        raise
    except Exception as error:
        # A pipeline can fail with any error.
        raise ModelError(
            f"the pipeline of {model.name!r} failed on {_PROMPT!r}: {first_line(error)}; "
            "first make it work by itself, without emerdiff_probe"
        ) from error
    return drawn.images, statistics.median(np.diff(ends).tolist())


def _method(model: PipelineModel, table: pd.DataFrame) -> Method:
    """Return the settings that EmerDiff would start from, and what rules them out."""
    try:
        config = EmerDiffConfig.for_model(model)
        visited = model.timesteps(config.steps, (model.image_size, model.image_size))
    except ProbeError as error:
        return Method(None, (str(error),))
    troubles = []
    for use in ("feature", "modulation"):
        site, timestep = (getattr(config, f"{use}_{what}") for what in ("site", "timestep"))
        if site not in table.index:
            troubles.append(f"there is no site '{site}'")
        elif why_not := table.loc[site, "why_not"]:
            troubles.append(why_not)
        if timestep not in visited:
            nearest = min(visited, key=lambda each: abs(each - timestep))
            troubles.append(
                f"{use}_timestep {timestep} is not on the grid of {config.steps} steps; give "
                f"{use}_timestep={nearest}, which is the nearest"
            )
    return Method(config, tuple(troubles))
