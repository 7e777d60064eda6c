"""`record()`: what happens inside a model, at chosen sites and timesteps, as a labelled tree."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from emerdiff_probe import checks, schema
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.inputs import Prompt
from emerdiff_probe.models import Condition, Denoiser, Model, as_model
from emerdiff_probe.models.identity import identity
from emerdiff_probe.recording.callers import HALVES
from emerdiff_probe.recording.casting import (
    Sites,
    ValueType,
    as_array,
    laid_out,
    pattern_of,
    torch_dtype,
)
from emerdiff_probe.recording.reducer_chains import (
    Moments,
    Reducers,
    Reduction,
    as_tuple,
    described,
    kept_tokens,
    reductions,
)
from emerdiff_probe.runs.inversion import Inversion
from emerdiff_probe.runs.preparation import Source, Subject, subjects
from emerdiff_probe.runs.trajectory import Trajectory
from emerdiff_probe.sites import Site
from emerdiff_probe.store import (
    IMAGE,
    LATENTS,
    Leaf,
    Memory,
    Plan,
    Sink,
    Streamed,
    leaf_path,
    local_folder,
    open_recording,
)
from emerdiff_probe.taps import capture

__all__ = ["record"]


def record(
    model: Model,
    source: Source | Sequence[Source],
    sites: Sites = "blocks",
    *,
    steps: int = 50,
    timesteps: Sequence[int] | None = None,
    guidance: float = 1.0,
    inversion: Inversion = "edit_friendly",
    seed: int = 0,
    batch: int = 1,
    dtype: ValueType = "float16",
    reduce: Reducers = (),
    store: str | os.PathLike[str] | None = None,
    plan: bool = False,
    progress: bool = True,
) -> xr.DataTree | Plan:
    """Records the tensors at sites while a model draws prompts or denoises photographs.

    A prompt is drawn with DDPM. A photograph, or clean latents, is inverted, and recorded on its
    way back, with the empty prompt.

    Args:
        model: From `emerdiff_probe.load`, or a diffusers pipeline.
        source: A prompt, a photograph or latents, or several of one of the three kinds. Those that
            are not prompts must come out at one size.
        sites: A pattern as `model.sites` reads it, or several, or a table that it gave. "blocks"
            is the output of every block, "semantic" the queries of the upward block that the paper
            reads, "attention" all ports of all attentions, "*" everything.
        steps: Of the sampling grid.
        timesteps: Which of the grid are recorded; by default all.
        guidance: Scale of classifier-free guidance for prompts; above 1 both halves are recorded.
        inversion: Of photographs and latents; see `emerdiff_probe.runs.invert`.
        seed: Of the inversion. A prompt has its own.
        batch: Samples in one UNet call. When memory runs out it is halved for the samples that did
            not fit.
        dtype: What values are cast to.
        reduce: What makes values smaller before they are kept; see `emerdiff_probe.reduce`.
        store: A folder to stream to; memory then stays the same however long the run. The same
            call continues one that was interrupted, to values equal to the last bit on the same
            machine. Without it all is kept in memory.
        plan: Only says what would be recorded, and how large it would be.
        progress: Shows a bar with the time left.

    Returns:
        A tree with a leaf for each site, whose variable ``value`` has dims (sample[, guidance],
        timestep, then those of the site), and leaves "latents" and "image"; `emerdiff_probe.site`
        takes one out with all its labels. With a store its values are read when they are needed.

    Raises:
        InputError: A source cannot be used.
        ConfigError: Settings that do not go together, or other settings or another model than the
            store was begun with.
        SiteError: The model has no such site.
        CaptureError: A site did not fire once in a call, or its values do not fit the dtype.
        StoreError: The store is something else, or the disk has too little room.
    """
    model = as_model(model)
    kind = torch_dtype(dtype)
    steps = checks.integer("steps", steps, 1)
    settings = _Settings(
        steps,
        _wanted(model, steps, timesteps),
        checks.number("guidance", guidance, 1),
        inversion,
        checks.integer("seed", seed, 0),
        checks.integer("batch", batch, 1),
    )
    found = subjects(model, source, settings.guidance)
    height, width = found[0].size
    rows = model.sites(pattern_of(sites), height=height, width=width)
    reducers = as_tuple(reduce)
    reduced = reductions(rows, (height, width), reducers)
    layout = _plan(model, found, reduced, settings, dtype, described(reducers))
    if plan:
        return layout
    path = None if store is None else local_folder(store)
    sink: Memory | Streamed = Memory(layout) if path is None else Streamed(path, layout)
    shapes = {Site.parse(name): shape for name, shape in rows["shape"].items()}
    recorder = _Recorder(model, found, shapes, reduced, settings, kind, sink)
    try:
        recorder.run(progress)
    finally:
        sink.close()
    return open_recording(path) if path is not None else cast(Memory, sink).tree()


@dataclass(frozen=True)
class _Settings:
    steps: int
    timesteps: tuple[int, ...]
    guidance: float
    inversion: Inversion
    seed: int
    batch: int


def _wanted(model: Denoiser, steps: int, timesteps: Sequence[int] | None) -> tuple[int, ...]:
    grid = model.schedule.timesteps(steps)
    if timesteps is None:
        return grid
    wanted = sorted(set(checks.timesteps("timesteps", timesteps)), reverse=True)
    if unknown := sorted(set(wanted) - set(grid)):
        raise ConfigError(
            f"timesteps {unknown} are not on the grid of {steps} steps: "
            f"{', '.join(map(str, reversed(grid)))}"
        )
    if not wanted:
        raise ConfigError("timesteps is empty; leave it out to record all of them")
    return tuple(map(int, wanted))


def _plan(
    model: Denoiser,
    found: list[Subject],
    reduced: dict[Site, Reduction],
    settings: _Settings,
    dtype: str,
    further: dict[str, Any],
) -> Plan:
    texts = [each.condition.tokens for each in found]
    guided = found[0].condition.halves == 2
    if guided:
        tokens = np.array(
            [[each.condition.unconditional_tokens, each.condition.tokens] for each in found]
        )
    else:
        tokens = np.array(texts)
    height, width = found[0].size
    _, channels, *grid = model.latent_shape(height, width)
    leaves = [reduction.leaf(dtype) for reduction in reduced.values()]
    places = (schema.Y, schema.X)
    leaves += [
        Leaf(LATENTS, (*places, schema.CHANNEL), (*grid, channels), "float32", guided=False),
        Leaf(IMAGE, (*places, schema.RGB), (height, width, 3), "uint8", guided=False, timed=False),
    ]
    grid_of_run = model.schedule.timesteps(settings.steps)
    config = {
        "sources": {str(number): each.about for number, each in enumerate(found)},
        "sites": list(map(str, reduced)),
        "steps": settings.steps,
        "timesteps": list(settings.timesteps),
        "guidance": settings.guidance,
        "batch": settings.batch,
        "dtype": dtype,
    }
    if not isinstance(found[0].source, Prompt):
        config |= {"inversion": settings.inversion, "seed": settings.seed}
    config |= further
    return Plan(
        leaves=tuple(leaves),
        samples=tuple(each.about for each in found),
        guidance=HALVES if guided else (),
        timesteps=settings.timesteps,
        steps=tuple(grid_of_run.index(t) for t in settings.timesteps),
        tokens=tokens[..., kept_tokens(reduced, tokens.shape[-1])],
        size=(height, width),
        config=config,
        about={
            "model": identity(model),
            "versions": schema.package_versions(),
        },
    )


@dataclass(frozen=True, eq=False)
class _Recorder:
    """Runs the model over the subjects and gives what it sees to a sink.

    Attributes:
        model: The model.
        subjects: What is recorded.
        shapes: Of every site, for one sample at one timestep.
        reduced: What is done to its values.
        settings: How.
        dtype: Of the values.
        sink: Where they go.
    """

    model: Denoiser
    subjects: list[Subject]
    shapes: dict[Site, tuple[int, ...]]
    reduced: dict[Site, Reduction]
    settings: _Settings
    dtype: torch.dtype
    sink: Sink

    def run(self, progress: bool) -> None:
        unfitted = [site for site, reduction in self.reduced.items() if reduction.unfitted]
        if unfitted and not self.sink.finished(slice(0, len(self.subjects))):
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
        count = len(self.subjects)
        total = count * len(self.settings.timesteps)
        with (
            torch.inference_mode(),
            tqdm(total=total, desc=name, unit="step", disable=not progress) as bar,
        ):
            for first in range(0, count, self.settings.batch):
                samples = slice(first, min(first + self.settings.batch, count))
                self._group(samples, bar, together)

    def _group(self, samples: slice, bar: Any, together: Callable[[slice, Any], None]) -> None:
        """Takes some samples in common calls; one half after the other if memory runs out."""
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
        """Shows projections that have to be fitted what they are for."""
        trajectory = _trajectory(self.model, self.subjects[samples], self.settings)
        latents = trajectory.start
        # Counted when all is seen: if memory runs out on the way, it is seen again.
        seen = {site: Moments() for site in moments}
        for position, timestep in enumerate(trajectory.timesteps):
            if timestep < self.settings.timesteps[-1]:
                break
            if timestep not in self.settings.timesteps:
                latents = self._advanced(trajectory, position, latents)
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
        trajectory = _trajectory(self.model, self.subjects[samples], self.settings)
        latents, position = trajectory.start, 0
        if following is not None:
            # Laid out in memory as it was, too: else convolutions round otherwise.
            moved = rearrange(torch.from_numpy(following), "n y x c -> n c y x")
            latents = moved.contiguous().to(latents.device)
            last = plan.timesteps[plan.blocks[done - 1]][-1]
            position = trajectory.timesteps.index(last) + 1
        with capture(self.model.unet, self.shapes, self._reduced) as taps:
            for number, block in list(enumerate(plan.blocks))[done:]:
                wanted = plan.timesteps[block]
                values = self._empty(count, len(wanted))
                while position <= trajectory.timesteps.index(wanted[-1]):
                    timestep = trajectory.timesteps[position]
                    before, latents = latents, self._advanced(trajectory, position, latents)
                    tensors = taps.take()
                    if timestep in wanted:
                        into = wanted.index(timestep)
                        values[LATENTS][:, into] = _on_grid(before)
                        self._keep(tensors, values, into)
                        bar.update(count)
                    position += 1
                self.sink.write(samples, number, values, _on_grid(latents))
        for later in range(position, len(trajectory.timesteps)):
            latents = self._advanced(trajectory, later, latents)
        pixels = self.model.decode(latents).clamp(0, 1).mul(255).round().to(torch.uint8)
        self.sink.finish(samples, rearrange(pixels, "n rgb y x -> n y x rgb").cpu().numpy())

    def _advanced(self, trajectory: Trajectory, position: int, latents: Tensor) -> Tensor:
        eps = self.model.predict(latents, trajectory.timesteps[position], trajectory.condition)
        return trajectory.advance(self.model, position, latents, eps)

    def _empty(self, count: int, timesteps: int) -> dict[str, NDArray[Any]]:
        """Arrays for a block of so many timesteps of so many samples."""
        plan = self.sink.plan
        return {
            leaf.path: np.empty((*plan.leading(leaf, count, timesteps), *leaf.shape), leaf.dtype)
            for leaf in plan.leaves
            if leaf.timed
        }

    def _reduced(self, site: Site, tensor: Tensor) -> Tensor:
        """What is kept of a site's tensor, in memory of its own."""
        values = self.reduced[site](laid_out(tensor, site, self.shapes[site]))
        return values.to(self.dtype, copy=True, memory_format=torch.contiguous_format)

    def _keep(
        self, tensors: dict[Site, Tensor], values: dict[str, NDArray[Any]], into: int
    ) -> None:
        """Puts what the sites gave in a call into the arrays of a block, at one timestep."""
        for site, tensor in tensors.items():
            array = values[leaf_path(site)]
            count = len(array)
            # The UNet sees all samples without text before all samples with it.
            tensor = tensor.unflatten(0, (-1, count))
            array = array if len(tensor) == 2 else array[:, None]
            array[:, :, into] = as_array(tensor.transpose(0, 1), self.dtype, site)


def _trajectory(model: Denoiser, found: list[Subject], settings: _Settings) -> Trajectory:
    """One run of several samples, each with the noise that it would have alone."""
    runs = [
        each.trajectory(
            model, settings.steps, settings.timesteps[0], settings.inversion, settings.seed
        )
        for each in found
    ]
    return replace(
        runs[0],
        start=torch.cat([run.start for run in runs]),
        noises=tuple(map(torch.cat, zip(*(run.noises for run in runs), strict=True))),
        condition=Condition.joined([run.condition for run in runs]),
    )


def _on_grid(latents: Tensor) -> NDArray[np.float32]:
    return rearrange(latents, "n c y x -> n y x c").cpu().numpy()
