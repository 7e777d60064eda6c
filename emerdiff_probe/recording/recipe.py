"""Which tensors of runs are recorded and how they are kept, before it is known of which runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from emerdiff_probe import checks
from emerdiff_probe.recording.casting import Sites, ValueType, pattern_of, torch_dtype
from emerdiff_probe.recording.planning import Sample, joint, plan_recording, wanted_timesteps
from emerdiff_probe.recording.reducer_chains import (
    Reducers,
    Reduction,
    as_tuple,
    described,
    reductions,
)
from emerdiff_probe.recording.run_recorder import RunRecorder
from emerdiff_probe.sites import Site
from emerdiff_probe.store import Plan, Sink

__all__ = ["Planned", "Recipe"]


@dataclass(frozen=True, eq=False)
class Recipe:
    """Which tensors of runs are recorded, and how they are kept.

    Attributes:
        sites: As `record` takes them, and all others, too.
        timesteps: Which of the grid; None: all.
        batch: Samples in one UNet call.
        dtype: Of the values.
        reduce: What makes values smaller.
    """

    sites: Sites = "blocks"
    timesteps: Sequence[int] | None = None
    batch: int = 1
    dtype: ValueType = "float16"
    reduce: Reducers = ()

    def planned(self, samples: Sequence[Sample]) -> Planned:
        """Return what is recorded of samples of one model and size.

        Raises:
            ConfigError: Settings that do not go together.
            SiteError: The model has no such site.
        """
        kind = torch_dtype(self.dtype)
        batch = checks.integer("batch", self.batch, 1)
        first = samples[0].prepared
        height, width = first.size
        rows = first.model.sites(pattern_of(self.sites), height=height, width=width)
        reducers = as_tuple(self.reduce)
        reduced = reductions(rows, first.own_size, reducers)
        wanted = wanted_timesteps(samples[0], self.timesteps)
        further = described(reducers) | joint(first.model.unet, reduced)
        plan = plan_recording(samples, reduced, wanted, batch, self.dtype, further)
        shapes = {Site.parse(name): shape for name, shape in rows["shape"].items()}
        return Planned(samples, plan, shapes, reduced, wanted, batch, kind)


@dataclass(frozen=True, eq=False)
class Planned:
    """A recording before anything runs.

    Attributes:
        samples: Of one model and size.
        plan: What is recorded of them.
        shapes: Of every site, for one sample at one timestep.
        reduced: What is done to its values.
        timesteps: Which are recorded.
        batch: Samples in one UNet call.
        dtype: Of the values.
    """

    samples: Sequence[Sample]
    plan: Plan
    shapes: dict[Site, tuple[int, ...]]
    reduced: Mapping[Site, Reduction]
    timesteps: tuple[int, ...]
    batch: int
    dtype: torch.dtype

    def record(self, sink: Sink, progress: bool) -> None:
        """Run the model over the samples, give what it shows to a sink, and close that."""
        recorder = RunRecorder(
            self.samples,
            self.shapes,
            dict(self.reduced),
            self.timesteps,
            self.batch,
            self.dtype,
            sink,
        )
        try:
            with recorder.intervened():
                recorder.run(progress)
        finally:
            sink.close()
