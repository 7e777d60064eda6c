"""Record what happens inside a network while other code calls it, as a labelled tree: `probe()`."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from emerdiff_probe import checks
from emerdiff_probe.errors import CaptureError, ConfigError, StoreError
from emerdiff_probe.models.active import active
from emerdiff_probe.models.arguments import Given, default_latents, given
from emerdiff_probe.models.beside import named_beside
from emerdiff_probe.models.catalogue import catalogue, chosen, unwrapped
from emerdiff_probe.models.locks import around
from emerdiff_probe.paths import is_free
from emerdiff_probe.recording.buffers import Buffer, Form
from emerdiff_probe.recording.callers import Caller, OwnLoop, PipelineCall, Prediction, Target
from emerdiff_probe.recording.casting import (
    Sites,
    ValueType,
    as_array,
    laid_out,
    pattern_of,
    torch_dtype,
)
from emerdiff_probe.recording.planning import joint
from emerdiff_probe.recording.reducer_chains import (
    Reducers,
    Reduction,
    as_tuple,
    described,
    reductions,
)
from emerdiff_probe.recording.reducers import Reducer, project
from emerdiff_probe.recording.steps import Call, Step, step_of
from emerdiff_probe.schema import BATCH
from emerdiff_probe.sites import Site
from emerdiff_probe.store import LATENTS, Growing, leaf_path, local_folder, size_text
from emerdiff_probe.taps import Capture, capture, restored_after_errors, watched

__all__ = ["Recorder", "probe"]

_TOKENS: Final = 77
"""The assumed number of tokens of a text, until a call shows it; names of sites do not depend on
it.
"""


@contextmanager
def probe(
    model: Any,
    sites: Sites = "blocks",
    *,
    dtype: ValueType = "float16",
    reduce: Reducers = (),
    store: str | os.PathLike[str] | None = None,
    max_bytes: int | None = None,
) -> Iterator[Recorder]:
    """Record the tensors at sites while the block runs a model in its own way.

    For example::

        with ep.probe(pipe, "*attn2:query") as recorder:
            image = pipe("a red house").images[0]
        recorder.tree

    Only speed changes: a compiled network runs eagerly within the block. If other hooks edit
    tensors, the probe sees the edits of those that were installed before it.

    Args:
        model: A diffusers pipeline with a UNet or a transformer that has a layout, with whatever is
            loaded into it; such a network alone; or a model from `emerdiff_probe.load`.
        sites: A pattern, or several, or a table from `model.sites`, as for `emerdiff_probe.record`.
        dtype: The dtype that values are cast to.
        reduce: Reducers, as for `emerdiff_probe.record`, except principal components, which need a
            first pass.
        store: A folder to write a run to, so that memory does not grow with its length. It appears
            under its name once the run has ended. Further runs get a number: ``run.zarr``,
            ``run-2.zarr``. By default, runs are kept in memory.
        max_bytes: The largest number of bytes that all runs together may take, in memory or on
            disk.

    Yields:
        A `Recorder`.

    Raises:
        ModelError: The model has no such network, or is fused, step-cached or checkpointing; the
            message says what to call first.
        SiteError: The network has no such site.
        ConfigError: A reducer cannot be used, or ``max_bytes`` leaves no room.
        StoreError: The store exists already, another process writes to it, or the disk is full.
        CaptureError: A site did not fire once in a call, its values do not fit the dtype, or there
            are more than ``max_bytes``. The call itself raises it, and what was recorded before is
            kept.
    """
    if named_beside(pattern_of(sites)):
        raise ConfigError(
            f"a probe watches the denoiser, and {pattern_of(sites)!r} is beside it; choose "
            "ep.record(pipe, prompt, sites)"
        )
    target, kind, reducers = Target.of(model), torch_dtype(dtype), as_tuple(reduce)
    if any(isinstance(each, project) and each.kind == "pca" for each in reducers):
        raise ConfigError(
            "principal components need a first pass over the run, and a probe sees it once; choose "
            "project(kind='random'), or ep.record()"
        )
    if max_bytes is not None:
        max_bytes = checks.integer("max_bytes", max_bytes, 1)
    path = None if store is None else local_folder(store)
    if path is not None and not is_free(path):
        raise StoreError(f"'{path}' already exists; choose another name, or delete it first")
    unet: Any = unwrapped(target.unet)
    table = chosen(catalogue(unet, default_latents(unet), _TOKENS), pattern_of(sites))
    with ExitStack() as stack:
        taps = stack.enter_context(capture(unet, map(Site.parse, table.index)))
        recorder = Recorder(target, taps, tuple(table.index), kind, reducers, path, max_bytes)
        stack.callback(recorder._close)
        stack.enter_context(watched(unet, recorder._before, recorder._after))
        stack.enter_context(restored_after_errors(model))
        if target.pipeline is not None:
            pipelines = type(target.pipeline)
            stack.enter_context(around(pipelines, "__call__", recorder._watched_call))
        if target.denoiser is not None:
            stack.enter_context(around(target.denoiser, "predict", recorder._watched_predict))
        yield recorder


class Recorder:
    """The runs that a `probe` has recorded.

    A run is one call of the pipeline, or otherwise all calls in the block; with a model from
    `emerdiff_probe.load`, those for one prompt. If the number of rows or the size of latents or
    text changes on the way, for example because a pipeline ends guidance before the last step,
    another run begins; its steps continue the count.
    A run's tree is like that of `emerdiff_probe.record`, with these differences:

    - Rows are labelled ``sample`` and ``guidance`` if the pipeline
      (``do_classifier_free_guidance``) or the model reports what they are. Otherwise, as in a loop
      of your own over the bare network, they have dim ``batch``, in the order of the call.
    - Calls that differ only in their text, with the same latents at the same timestep, are the
      parts of one step's guidance. They are "uncond" and "cond" if one of the texts is known to be
      the empty or the negative prompt; otherwise "call 1", "call 2".
    - Timesteps are in the order of the calls, and may repeat: some schedulers visit one twice.
      Select those by position, with ``.isel(timestep=...)``.
    - "latents" are the input of the network, which some schedulers scale.
    - There is an "image" if the pipeline returned images.
    - For a bare network it is unknown how many pixels a latent has: ``y`` and ``x`` count latents.
    """

    def __init__(
        self,
        target: Target,
        taps: Capture,
        sites: tuple[str, ...],
        dtype: torch.dtype,
        reducers: tuple[Reducer, ...],
        path: Path | None = None,
        max_bytes: int | None = None,
    ) -> None:
        self._target = target
        self._taps = taps
        self._sites = sites
        self._dtype = dtype
        self._reducers = reducers
        self._path = path
        self._max_bytes = max_bytes
        self._caller: Caller | None = None
        self._steps = 0  # of the caller
        self._calls: list[Call] = []  # of the step under way
        self._open: Buffer | None = None
        self._runs: list[Buffer] = []
        self._given: Given  # of the call under way
        self._layouts: dict[tuple[object, ...], _Layout] = {}
        self._interventions: list[str] = []
        self._unconditional: dict[tuple[object, ...], Tensor | None] = {}

    @property
    def tree(self) -> xr.DataTree:
        """Return the only run.

        Raises:
            CaptureError: There was none, or there were several: see `runs`.
        """
        self._take_step()
        if len(self._runs) != 1:
            raise CaptureError(
                "nothing was recorded: the UNet was not called within the block"
                if not self._runs
                else f"there are {len(self._runs)} runs: {self!r}. Choose one of recorder.runs"
            )
        return self.runs[0]

    @property
    def runs(self) -> list[xr.DataTree]:
        """Return all runs, in order."""
        self._take_step()
        return [run.tree() for run in self._runs]

    def __repr__(self) -> str:
        rows = [
            f"{run.form.samples} {'rows' if run.form.rows == BATCH else 'samples'} "
            f"at {len(run.steps)} steps"
            for run in self._runs
        ]
        return f"Recorder({len(self._sites)} sites; {'; '.join(rows) or 'no runs'})"

    @contextmanager
    def _called_by(self, caller: Caller) -> Iterator[None]:
        """Attribute the calls within a block to a caller."""
        before, self._caller = self._caller, caller
        try:
            yield
        finally:
            self._caller = before

    def _watched_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a pipeline class's ``__call__`` to report when the pipeline runs."""

        @functools.wraps(original)
        def watched(pipeline: Any, *arguments: Any, **named: Any) -> Any:
            if pipeline is not self._target.pipeline:
                return original(pipeline, *arguments, **named)
            given = inspect.signature(original).bind_partial(pipeline, *arguments, **named)
            self._close()
            with self._called_by(PipelineCall.of(pipeline, given.arguments)):
                try:
                    result = original(pipeline, *arguments, **named)
                    self._take_step()
                    self._keep_image(result)
                finally:
                    self._close()
            return result

        return watched

    def _watched_predict(self, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Wrap a model's ``predict`` to report each of its network calls."""

        @functools.wraps(original)
        def watched(latents: Tensor, timestep: int, condition: Any) -> Tensor:
            assert self._target.denoiser is not None
            with self._called_by(Prediction(self._target.denoiser, condition)):
                return original(latents, timestep, condition)

        return watched

    def _close(self) -> None:
        """End the run."""
        self._take_step()
        run, self._open, self._steps = self._open, None, 0
        if run is not None:
            run.close()

    def _before(self, unet: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Note what a network call is given."""
        self._taps.clear()
        self._given = given(unet, arguments, named)

    def _after(self, unet: nn.Module, _arguments: Any, _named: Any, _output: Any) -> None:
        """Take the output of a network call."""
        latents, timestep, text = self._given.latents, self._given.timestep, self._given.text
        caller = self._caller or OwnLoop(self._target)
        guidance = caller.guidance(latents)
        parts = len(guidance) if guidance else 1
        layout = self._layout(unet, tuple(latents.shape[1:]), text.shape[1])
        tensors = self._taps.take()
        on_grid = rearrange(latents[: len(latents) // parts], "n c y x -> n y x c").float()
        # A copy, because a loop of the user's own may reuse the memory.
        values: dict[str, NDArray[Any]] = {LATENTS: on_grid.cpu().numpy().copy()}
        for site, shape in layout.shapes.items():
            tensor = layout.reduced[site](laid_out(tensors.pop(site), site, shape))
            if guidance:
                tensor = rearrange(tensor, "(half n) ... -> n half ...", half=parts)
            values[leaf_path(site)] = as_array(tensor, self._dtype, site, float(timestep))
        if self._open is None and not self._calls:
            self._interventions = active(unet)
        text = text if guidance else text.clone()
        # Multiplying queries and keys later requires the masks.
        has_keys = any(site.port == "key" for site in layout.shapes)
        masks = {
            name: _key_mask(name, mask, parts if guidance else None)
            for name, mask in self._given.masks.items()
            if has_keys
        }
        call = Call(caller, guidance, timestep, text, masks, values)
        if self._calls and not call.continues(self._calls):
            self._take_step()
        self._check_room(call)
        self._calls.append(call)

    def _take_step(self) -> None:
        """Record the calls of a completed step."""
        calls, self._calls = self._calls, []
        if not calls:
            return
        step = step_of(calls, self._is_unconditional)
        rows, *places = step.values[LATENTS].shape
        latents = (places[-1], *places[:-1])
        masks = {name: mask.tolist() for name, mask in step.masks.items()}
        form = Form(step.caller.key, step.rows, rows, step.guidance, latents, step.tokens, masks)
        run = self._open
        if run is None or run.form != form:
            if run is not None:
                run.close()
            run = self._open = self._begun(step, form)
        run.add(step.timestep, self._steps, step.values)
        self._steps += 1

    def _is_unconditional(self, call: Call) -> bool:
        """Return whether the text of a call is known to be the empty or the negative prompt."""
        if not call.text.any():  # as in Stable Diffusion XL
            return True
        asked = (type(call.caller), call.caller.key, len(call.text))
        if asked not in self._unconditional:
            self._unconditional[asked] = call.caller.unconditional(len(call.text))
        known = self._unconditional[asked]
        if known is None or known.shape[1:] != call.text.shape[1:]:
            return False
        # Encoded once more, possibly in a batch of another size, which rounds differently.
        known = known.to(call.text).expand_as(call.text)
        return torch.allclose(call.text, known, rtol=1e-2, atol=1e-2)

    def _check_room(self, call: Call) -> None:
        held = sum(run.nbytes for run in self._runs) + sum(each.nbytes for each in self._calls)
        if self._max_bytes is not None and held + call.nbytes > self._max_bytes:
            raise CaptureError(
                f"{size_text(held)} are recorded, this call takes {size_text(call.nbytes)} more, "
                f"and max_bytes is {self._max_bytes} ({size_text(self._max_bytes)}); record fewer "
                "sites, use reduce=, or allow more"
            )

    def _begun(self, step: Step, form: Form) -> Buffer:
        config = {
            "sites": list(self._sites),
            "dtype": str(self._dtype).removeprefix("torch."),
            **described(self._reducers),
            **joint(self._target.unet, map(Site.parse, self._sites)),
        }
        file = None
        if self._path is not None:
            number = f"-{len(self._runs) + 1}" if self._runs else ""
            file = Growing(self._path.with_stem(f"{self._path.stem}{number}"))
        reduced = self._layouts[form.latents, form.tokens].reduced
        run = Buffer.begun(
            form, step.caller, self._target, config, self._interventions, reduced, file
        )
        self._runs.append(run)
        return run

    def _layout(self, unet: nn.Module, latents: tuple[int, ...], tokens: int) -> _Layout:
        """Return the layout of sites for latents (channel, y, x) and a number of tokens."""
        if (latents, tokens) not in self._layouts:
            table = catalogue(unet, (1, *latents), tokens).loc[list(self._sites)]
            shapes = {Site.parse(name): shape for name, shape in table["shape"].items()}
            height, width = (side * self._target.factor for side in latents[1:])
            reduced = reductions(table, (height, width), self._reducers)
            self._layouts[latents, tokens] = _Layout(shapes, reduced)
        return self._layouts[latents, tokens]

    def _keep_image(self, result: Any) -> None:
        """Keep the images that a pipeline returned."""
        images = getattr(result, "images", result[0] if isinstance(result, tuple) else None)
        if isinstance(images, list) and all(isinstance(each, Image.Image) for each in images):
            pictures = np.stack([np.asarray(each.convert("RGB")) for each in images])
        elif isinstance(images, Tensor) and images.ndim == 4:
            pictures = _in_bytes(rearrange(images.float(), "n rgb y x -> n y x rgb").cpu().numpy())
        elif isinstance(images, np.ndarray) and images.ndim == 4:
            pictures = _in_bytes(images)
        else:
            return
        # Other results are latents, or images whose rows are unknown.
        run = self._open
        if run is not None and pictures.shape == (run.form.samples, *run.size(), 3):
            run.end(pictures)


def _key_mask(name: str, mask: Tensor, parts: int | None) -> NDArray[np.float32]:
    """Return a mask that a network call was given, (row[, guidance], key).

    Raises:
        CaptureError: The mask depends on the query.
    """
    if mask.ndim != 2:
        raise CaptureError(
            f"{name} has shape {tuple(mask.shape)}; only masks of shape (row, key) can be "
            "recorded, which all queries have in common"
        )
    mask = mask.float()
    if parts is not None:
        mask = rearrange(mask, "(half n) key -> n half key", half=parts)
    return mask.cpu().numpy().copy()


def _in_bytes(pictures: NDArray[Any]) -> NDArray[np.uint8]:
    return np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class _Layout:
    """The layout of sites in the calls of one size, and the reduction of their values."""

    shapes: Mapping[Site, tuple[int, ...]]
    reduced: Mapping[Site, Reduction]
