"""Collect runs whose length is unknown beforehand: steps as they come, then a tree."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe import schema
from emerdiff_probe.errors import CaptureError
from emerdiff_probe.recording.callers import Caller, Target
from emerdiff_probe.recording.reducer_chains import Reduction, kept_tokens
from emerdiff_probe.sites import Site
from emerdiff_probe.store import (
    IMAGE,
    LATENTS,
    MASKS,
    Growing,
    Leaf,
    Plan,
    block_length,
    open_recording,
    widened,
)

__all__ = ["Buffer", "Form"]


@dataclass(frozen=True)
class Form:
    """The properties that must not change within a run.

    Attributes:
        key: The key of the caller.
        rows: "sample", or "batch" if it is unknown what the rows are.
        samples: The rows of a call, or with guidance of one part of it.
        guidance: The labels of the parts; empty without guidance.
        latents: The shape (channel, y, x) of the latents.
        tokens: The number of tokens of a text.
        masks: The masks of the keys of attention, as nested lists, which can be compared.
    """

    key: object
    rows: str
    samples: int
    guidance: tuple[str, ...]
    latents: tuple[int, ...]
    tokens: int
    masks: Mapping[str, list[Any]]


@dataclass(eq=False)
class Buffer:
    """The values of one run of a probed model, collected step by step.

    Attributes:
        form: The form of all steps.
        target: The probed model.
        config: All settings that determine the values, besides the timesteps.
        source: A name for the code that made them.
        interventions: The active interventions.
        prompts: The prompts of the samples.
        texts: The texts of the tokens, or None if unknown.
        reduced: The reduction of each site's values.
        file: The file that values go to; None for memory.
        timesteps: The timesteps of the steps.
        steps: The positions of the steps among all steps of the caller.
        values: The arrays of each leaf, one for each step; with a file, those not written yet.
        image: The images that the run ended with, if the caller returned any.
        nbytes: The bytes of all values.
        ended: Whether there will be no more steps.
    """

    form: Form
    target: Target
    config: Mapping[str, Any]
    source: str
    interventions: list[str]
    prompts: tuple[str, ...]
    texts: NDArray[np.str_] | None
    reduced: Mapping[Site, Reduction]
    file: Growing | None = None
    timesteps: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    values: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    image: NDArray[np.uint8] | None = None
    nbytes: int = 0
    ended: bool = False
    _tree: xr.DataTree | None = None

    @classmethod
    def begun(
        cls,
        form: Form,
        caller: Caller,
        target: Target,
        config: Mapping[str, Any],
        interventions: list[str],
        reduced: Mapping[Site, Reduction],
        file: Growing | None,
    ) -> Buffer:
        """Begin a buffer for a caller."""
        texts = None
        if form.rows == schema.SAMPLE:
            texts = caller.tokens(form.samples, form.tokens, bool(form.guidance))
        if texts is not None:
            texts = texts[..., kept_tokens(reduced, form.tokens)]
        prompts = caller.prompts(form.samples)
        source = caller.source
        return cls(form, target, config, source, interventions, prompts, texts, reduced, file)

    def add(self, timestep: float, step: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Add the values of one step."""
        self._tree = None
        self.timesteps.append(timestep)
        self.steps.append(step)
        self.nbytes += sum(array.nbytes for array in values.values())
        for path, array in values.items():
            self.values.setdefault(path, []).append(array)
        if self.file is not None:
            count = len(self.values[LATENTS])
            # As long as a block of a run of any length may be.
            if count == block_length(self._bytes_of_a_step, sys.maxsize):
                self._write(self.file)

    @property
    def _bytes_of_a_step(self) -> int:
        """Return the bytes of one sample in a step."""
        return self.nbytes // (len(self.steps) * self.form.samples)

    def end(self, image: NDArray[np.uint8]) -> None:
        """Keep the images that the run ended with, and end the run."""
        self._tree, self.image = None, image

    def close(self) -> None:
        """End the run, and with it the file."""
        self.ended = True
        if self.file is not None:
            if self.values[LATENTS]:
                self._write(self.file)
            self.file.finish(self._plan(), {} if self.image is None else {IMAGE: self.image})

    def size(self) -> tuple[int, int]:
        """Return the height and width of the images in pixels."""
        _, height, width = self.form.latents
        return height * self.target.factor, width * self.target.factor

    def tree(self) -> xr.DataTree:
        """Return the run so far as a recording; built once, until more steps come.

        Raises:
            CaptureError: The run is being written to a file and is not complete.
            StoreError: The file could not be written.
        """
        if self.file is not None and not self.ended:
            raise CaptureError(
                f"a run is being written to '{self.file.path}'; it can be opened once it has "
                "ended: after the pipeline's call, or after the block"
            )
        if self._tree is None:
            self._tree = self._built() if self.file is None else open_recording(self.file.path)
        return self._tree

    def _built(self) -> xr.DataTree:
        plan = self._plan()
        leaves = {
            leaf.path: xr.Dataset({"value": self._variable(leaf, plan)}, coords=plan.coords(leaf))
            for leaf in plan.leaves
        }
        return xr.DataTree.from_dict({"/": plan.root(), **leaves})

    def _plan(self) -> Plan:
        known = self.form.rows == schema.SAMPLE
        timesteps = self.timesteps
        if all(float(each).is_integer() for each in timesteps):
            timesteps = list(map(int, timesteps))
        about = [
            {"prompt": prompt, "seed": -1, "source": self.source} if known else {}
            for prompt in self.prompts
        ]
        model = {**self.target.about, "interventions": self.interventions}
        return Plan(
            leaves=self._leaves(),
            samples=tuple(about),
            guidance=self.form.guidance,
            timesteps=tuple(timesteps),
            steps=tuple(self.steps),
            tokens=self.texts,
            size=self.size(),
            config={**self.config, "timesteps": timesteps},
            about={"model": model, "versions": schema.package_versions()},
            row=self.form.rows,
            masks={name: self._kept(name, mask) for name, mask in self.form.masks.items()},
        )

    def _kept(self, name: str, mask: list[Any]) -> NDArray[np.float32]:
        """Return a mask of the keys that are kept."""
        whole = np.array(mask, np.float32)
        if MASKS[name] != schema.TOKEN:
            return whole
        return whole[..., kept_tokens(self.reduced, whole.shape[-1])]

    def _leaves(self) -> tuple[Leaf, ...]:
        places = (schema.Y, schema.X)
        channels, *grid = self.form.latents
        leaves = [each.leaf(self.config["dtype"]) for each in self.reduced.values()]
        dims = (*places, schema.CHANNEL)
        leaves.append(Leaf(LATENTS, dims, (*grid, channels), "float32", guided=False))
        if self.image is not None:
            dims, shape = (*places, schema.RGB), self.image.shape[1:]
            leaves.append(Leaf(IMAGE, dims, shape, "uint8", guided=False, timed=False))
        return tuple(leaves)

    def _variable(self, leaf: Leaf, plan: Plan) -> tuple[tuple[str, ...], Any]:
        dims = plan.dims(leaf)
        if not leaf.timed:
            assert self.image is not None
            return dims, self.image
        axis = dims.index(schema.TIMESTEP)
        stacked = np.stack(self.values[leaf.path], axis=axis)
        # Release the single arrays leaf by leaf, so that memory never holds everything twice.
        self.values[leaf.path] = list(np.moveaxis(stacked, axis, 0))
        return dims, widened(stacked)

    def _write(self, file: Growing) -> None:
        plan = self._plan()
        leaves = {leaf.path: leaf for leaf in plan.leaves}
        block = {
            path: np.stack(arrays, axis=plan.dims(leaves[path]).index(schema.TIMESTEP))
            for path, arrays in self.values.items()
        }
        self.values = {path: [] for path in self.values}
        file.write(plan, block)
