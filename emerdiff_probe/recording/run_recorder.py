"""Run a model over the samples of a recording, and write each site to a sink."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from emerdiff_probe.models import Denoiser
from emerdiff_probe.models.finite import finite
from emerdiff_probe.recording.casting import as_array, laid_out
from emerdiff_probe.recording.planning import Sample
from emerdiff_probe.recording.reducer_chains import Moments, Reduction
from emerdiff_probe.runs import Trajectory
from emerdiff_probe.sites import Site
from emerdiff_probe.store import LATENTS, Sink, leaf_path
from emerdiff_probe.taps import capture

__all__ = ["RunRecorder"]


@dataclass(frozen=True, eq=False)
class RunRecorder:
    """Run the model over the samples and write what it sees to a sink.

    Attributes:
        samples: The samples to record.
        shapes: The shape of every site, for one sample at one timestep.
        reduced: The reduction of each site's values.
        timesteps: The timesteps to record.
        batch: The number of samples in one network call.
        dtype: The dtype of the values.
        sink: The destination of the values.
    """

    samples: Sequence[Sample]
    shapes: dict[Site, tuple[int, ...]]
    reduced: dict[Site, Reduction]
    timesteps: tuple[int, ...]
    batch: int
    dtype: torch.dtype
    sink: Sink

    @property
    def model(self) -> Denoiser:
        """Return the model of all samples."""
        return self.samples[0].prepared.model

    def intervened(self) -> AbstractContextManager[None]:
        """Apply the interventions that a replayed run is under."""
        run = self.samples[0].run
        return nullcontext() if run is None else run.intervened(self.timesteps)

    def run(self, progress: bool) -> None:
        """Record all samples, after a first pass if a projection has to be fitted."""
        unfitted = [site for site, reduction in self.reduced.items() if reduction.unfitted]
        if unfitted and not self.sink.finished(slice(0, len(self.samples))):
            moments = {site: Moments() for site in unfitted}
            self._pass("looking first", progress, functools.partial(self._see, moments))
            fitted = {
                site: self.reduced[site].fitted(moments[site], self.model.device)
                for site in unfitted
            }
            replace(self, reduced=self.reduced | fitted).run(progress)
        else:
            self._pass("recording", progress, self._together)

    def _pass(self, name: str, progress: bool, together: Callable[[slice, Any], None]) -> None:
        count = len(self.samples)
        with (
            torch.inference_mode(),
            tqdm(
                total=count * len(self.timesteps), desc=name, unit="step", disable=not progress
            ) as bar,
        ):
            for first in range(0, count, self.batch):
                samples = slice(first, min(first + self.batch, count))
                self._group(samples, bar, together)

    def _group(self, samples: slice, bar: Any, together: Callable[[slice, Any], None]) -> None:
        """Process samples in common calls; one half after the other if memory runs out."""
        before = bar.n
        try:
            together(samples, bar)
        except torch.OutOfMemoryError:
            if samples.stop - samples.start == 1:
                raise
            bar.update(before - bar.n)
            middle = (samples.start + samples.stop) // 2
            self._group(slice(samples.start, middle), bar, together)
            self._group(slice(middle, samples.stop), bar, together)

    def _see(self, moments: dict[Site, Moments], samples: slice, bar: Any) -> None:
        """Show the run to projections that have to be fitted."""
        trajectory = self._trajectory(samples)
        latents = trajectory.start
        # Add it up when everything is seen: if memory runs out on the way, it is seen again.
        seen = {site: Moments() for site in moments}
        for position, timestep in enumerate(trajectory.timesteps):
            if timestep < self.timesteps[-1]:
                break
            if timestep not in self.timesteps:
                latents = self._passed(trajectory, position, latents)
                continue
            with capture(self.model.unet, moments) as taps:
                latents = self._advanced(trajectory, position, latents)
                tensors = taps.take()
            for site, tensor in tensors.items():
                values = laid_out(tensor, site, self.shapes[site])
                seen[site].add(self.reduced[site].seen(values))
            bar.update(len(latents))
        for site, own in seen.items():
            moments[site].join(own)

    def _together(self, samples: slice, bar: Any) -> None:
        plan, count = self.sink.plan, samples.stop - samples.start
        done, following = self.sink.begun(samples)
        bar.update(count * sum(block.stop - block.start for block in plan.blocks[:done]))
        if self.sink.finished(samples):
            return
        trajectory = self._trajectory(samples)
        latents, position = trajectory.start, 0
        if following is not None:
            # Use the same memory layout, too: convolutions round differently otherwise.
            moved = rearrange(torch.from_numpy(following), "n y x c -> n c y x")
            latents = moved.contiguous().to(latents.device)
            last = plan.timesteps[plan.blocks[done - 1]][-1]
            position = trajectory.timesteps.index(int(last)) + 1
        with capture(self.model.unet, self.shapes, self._reduced) as taps:
            for number, block in list(enumerate(plan.blocks))[done:]:
                wanted = plan.timesteps[block]
                values = self._empty(count, len(wanted))
                for into, timestep in enumerate(wanted):
                    while trajectory.timesteps[position] > timestep:
                        latents = self._passed(trajectory, position, latents)
                        taps.clear()
                        position += 1
                    before = self._known(trajectory, position, latents)
                    latents = self._advanced(trajectory, position, latents)
                    values[LATENTS][:, into] = _on_grid(before)
                    self._keep(taps.take(), values, into, timestep)
                    bar.update(count)
                    position += 1
                self.sink.write(samples, number, values, _on_grid(latents))
        for later in range(position, len(trajectory.timesteps)):
            latents = self._passed(trajectory, later, latents)
        pixels = finite(self.model.decode(latents)).clamp(0, 1).mul(255).round().to(torch.uint8)
        self.sink.finish(samples, rearrange(pixels, "n rgb y x -> n y x rgb").cpu().numpy())

    def _trajectory(self, samples: slice) -> Trajectory:
        """Return one run of several samples, each with the noise that it would have alone."""
        return Trajectory.joined([each.trajectory for each in self.samples[samples]])

    def _known(self, trajectory: Trajectory, position: int, latents: Tensor) -> Tensor:
        """Return x_t from the trajectory if it knows it, else as the run has computed it."""
        return trajectory.latents[position] if trajectory.latents else latents

    def _advanced(self, trajectory: Trajectory, position: int, latents: Tensor) -> Tensor:
        """Return the latents after x_t, by a network call."""
        latents = self._known(trajectory, position, latents)
        eps = self.model.predict(latents, trajectory.timesteps[position], trajectory.condition)
        return trajectory.step(self.model, position, latents, eps).next_latents

    def _passed(self, trajectory: Trajectory, position: int, latents: Tensor) -> Tensor:
        """Return the latents after x_t, without a call if the trajectory knows them."""
        if position + 1 < len(trajectory.latents):
            return trajectory.latents[position + 1]
        return self._advanced(trajectory, position, latents)

    def _empty(self, count: int, timesteps: int) -> dict[str, NDArray[Any]]:
        """Return arrays for a block of a number of timesteps and samples."""
        plan = self.sink.plan
        return {
            leaf.path: np.empty((*plan.leading(leaf, count, timesteps), *leaf.shape), leaf.dtype)
            for leaf in plan.leaves
            if leaf.timed
        }

    def _reduced(self, site: Site, tensor: Tensor) -> Tensor:
        """Return the reduced tensor of a site, in memory of its own."""
        values = self.reduced[site](laid_out(tensor, site, self.shapes[site]))
        return values.to(self.dtype, copy=True, memory_format=torch.contiguous_format)

    def _keep(
        self,
        tensors: dict[Site, Tensor],
        values: dict[str, NDArray[Any]],
        into: int,
        timestep: float,
    ) -> None:
        """Write the tensors of a call into the arrays of a block, at one timestep."""
        for site, tensor in tensors.items():
            array = values[leaf_path(site)]
            count = len(array)
            # The network sees all samples without text before all samples with it.
            tensor = tensor.unflatten(0, (-1, count))
            array = array if len(tensor) == 2 else array[:, None]
            array[:, :, into] = as_array(tensor.transpose(0, 1), self.dtype, site, timestep)


def _on_grid(latents: Tensor) -> NDArray[np.float32]:
    return rearrange(latents, "n c y x -> n y x c").cpu().numpy()
