"""Runs of which nobody knows beforehand how long they are: calls as they come, then a tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emerdiff_probe import schema
from emerdiff_probe.recording.callers import Caller, Target
from emerdiff_probe.recording.reducer_chains import Reduction, kept_tokens
from emerdiff_probe.sites import Site
from emerdiff_probe.store import IMAGE, LATENTS, Leaf, Plan

__all__ = ["Form", "Run"]


@dataclass(frozen=True)
class Form:
    """What must not change within a run.

    Attributes:
        key: Of the caller.
        samples: Rows of a call, or with guidance of one part of it.
        guidance: Labels of the parts; none where all rows are samples; None: not known.
        latents: Shape (channel, y, x).
        tokens: Length of a text.
    """

    key: object
    samples: int
    guidance: tuple[str, ...] | None
    latents: tuple[int, ...]
    tokens: int


@dataclass(eq=False)
class Run:
    """The UNet calls of one run.

    Attributes:
        form: Of all of them.
        source: What made them.
        prompts: Of the samples.
        texts: Of the tokens, or None where they are not known.
        shapes: Of the sites, in one row.
        reduced: What is done to their values.
        timesteps: Of the calls.
        steps: Their positions among all calls of the caller.
        values: Of each leaf, an array a call.
        image: The pictures that the run ended with, if the caller gave any.
    """

    form: Form
    source: str
    prompts: tuple[str, ...]
    texts: NDArray[np.str_] | None
    shapes: Mapping[Site, tuple[int, ...]]
    reduced: Mapping[Site, Reduction]
    timesteps: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    values: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    image: NDArray[np.uint8] | None = None
    _tree: xr.DataTree | None = None

    @classmethod
    def begun(
        cls,
        form: Form,
        caller: Caller,
        shapes: Mapping[Site, tuple[int, ...]],
        reduced: Mapping[Site, Reduction],
    ) -> Run:
        """A run of which nothing is known but who makes it."""
        texts = None
        if form.guidance is not None:
            texts = caller.tokens(form.samples, form.tokens, bool(form.guidance))
        if texts is not None:
            texts = texts[..., kept_tokens(reduced, form.tokens)]
        return cls(form, caller.source, caller.prompts(form.samples), texts, shapes, reduced)

    def add(self, timestep: float, step: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Takes what one call gave."""
        self._tree = None
        self.timesteps.append(timestep)
        self.steps.append(step)
        for path, array in values.items():
            self.values.setdefault(path, []).append(array)

    def end(self, image: NDArray[np.uint8]) -> None:
        """Takes the pictures that the run ended with."""
        self._tree, self.image = None, image

    def size(self, target: Target) -> tuple[int, int]:
        """Height and width of the pictures in pixels."""
        _, height, width = self.form.latents
        return height * target.factor, width * target.factor

    def tree(self, target: Target, config: Mapping[str, Any]) -> xr.DataTree:
        """The run so far, as a recording; built once, until more comes.

        Args:
            target: What was probed.
            config: All that decides the values, beside the timesteps.
        """
        if self._tree is None:
            self._tree = self._built(target, config)
        return self._tree

    def _built(self, target: Target, config: Mapping[str, Any]) -> xr.DataTree:
        known = self.form.guidance is not None
        timesteps = self.timesteps
        if all(float(each).is_integer() for each in timesteps):
            timesteps = list(map(int, timesteps))
        about = [
            {"prompt": prompt, "seed": -1, "source": self.source} if known else {}
            for prompt in self.prompts
        ]
        plan = Plan(
            leaves=self._leaves(config["dtype"]),
            samples=tuple(about),
            guidance=self.form.guidance or (),
            timesteps=tuple(timesteps),
            steps=tuple(self.steps),
            tokens=self.texts,
            size=self.size(target),
            config={**config, "timesteps": timesteps},
            about={"model": target.about, "versions": schema.package_versions()},
            row=schema.SAMPLE if known else schema.BATCH,
        )
        leaves = {
            leaf.path: xr.Dataset({"value": self._variable(leaf, plan)}, coords=plan.coords(leaf))
            for leaf in plan.leaves
        }
        return xr.DataTree.from_dict({"/": plan.root(), **leaves})

    def _leaves(self, dtype: str) -> tuple[Leaf, ...]:
        places = (schema.Y, schema.X)
        channels, *grid = self.form.latents
        leaves = [each.leaf(dtype) for each in self.reduced.values()]
        dims = (*places, schema.CHANNEL)
        leaves.append(Leaf(LATENTS, dims, (*grid, channels), "float32", guided=False))
        if self.image is not None:
            dims, shape = (*places, schema.RGB), self.image.shape[1:]
            leaves.append(Leaf(IMAGE, dims, shape, "uint8", guided=False, timed=False))
        return tuple(leaves)

    def _variable(self, leaf: Leaf, plan: Plan) -> tuple[tuple[str, ...], NDArray[Any]]:
        dims = plan.dims(leaf)
        if not leaf.timed:
            assert self.image is not None
            return dims, self.image
        axis = dims.index(schema.TIMESTEP)
        stacked = np.stack(self.values[leaf.path], axis=axis)
        # The single arrays are let go, leaf by leaf, so that memory does not hold all twice.
        self.values[leaf.path] = list(np.moveaxis(stacked, axis, 0))
        return dims, stacked
