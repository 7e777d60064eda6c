"""Choose which tensors of runs are recorded and how they are kept, before the runs are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from emerdiff_probe import checks
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.models.beside import named_beside
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
        sites: The sites, as for `record`.
        timesteps: The timesteps of the grid to record; None for all.
        batch: The number of samples in one network call.
        dtype: The dtype of the values.
        reduce: The reducers that shrink values before they are kept.
    """

    sites: Sites = "blocks"
    timesteps: Sequence[int] | None = None
    batch: int = 1
    dtype: ValueType = "float16"
    reduce: Reducers = ()

    def planned(self, samples: Sequence[Sample]) -> Planned:
        """Return the recording of samples of one model and size.

        Raises:
            ConfigError: Settings contradict each other.
            SiteError: The model has no such site.
        """
        if named_beside(pattern_of(self.sites)):
            raise ConfigError(
                f"{pattern_of(self.sites)!r} is beside the denoiser and runs once a run; record it "
                "with ep.record()"
            )
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
        samples: The samples, of one model and size.
        plan: The plan of what is recorded.
        shapes: The shape of every site, for one sample at one timestep.
        reduced: The reduction of each site's values.
        timesteps: The timesteps to record.
        batch: The number of samples in one network call.
        dtype: The dtype of the values.
    """

    samples: Sequence[Sample]
    plan: Plan
    shapes: dict[Site, tuple[int, ...]]
    reduced: Mapping[Site, Reduction]
    timesteps: tuple[int, ...]
    batch: int
    dtype: torch.dtype

    def record(self, sink: Sink, progress: bool) -> None:
        """Run the model over the samples, write what it sees to a sink, and close the sink."""
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
