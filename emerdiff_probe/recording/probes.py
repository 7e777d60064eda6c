"""`probe()`: what happens inside a UNet while somebody else's code calls it, as a labelled tree."""

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
"""Of a text, before a call shows how many there are; names of sites do not depend on it."""


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
    """Records what happens at sites while the block runs a model in its own way.

    For example::

        with ep.probe(pipe, "*attn2:query") as recorder:
            image = pipe("a red house").images[0]
        recorder.tree

    Nothing is changed but speed: a compiled UNet runs eagerly within the block. Of hooks that edit
    tensors, the probe sees what those do that were there before it.

    Args:
        model: A diffusers pipeline with a UNet or a transformer that has a layout, with whatever is
            loaded into it; such a network alone; or a model from `emerdiff_probe.load`.
        sites: As `emerdiff_probe.record` takes them.
        dtype: What values are cast to.
        reduce: As `emerdiff_probe.record` takes it, but for principal components, which need a
            first pass.
        store: A folder to write to, a run at a time, so that memory stays the same however long it
            is. It gets its name when its run has ended. Further runs get a number: ``run.zarr``,
            ``run-2.zarr``. Without it all is kept in memory.
        max_bytes: Most that all runs together may take, in memory or on disk.

    Yields:
        A `Recorder`.

    Raises:
        ModelError: The model has no such network, or is fused, step-cached or checkpointing; says
            what to call first.
        SiteError: The UNet has no such site.
        ConfigError: A reducer that cannot be used, or no room at all.
        StoreError: The store is there already, somebody writes to it, or the disk is full.
        CaptureError: A site did not fire once in a call, its values do not fit the dtype, or there
            are more than ``max_bytes``. It comes out of the call itself, and what was recorded
            before stays.
    """
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
        raise StoreError(f"'{path}' is there already; choose another name, or delete it first")
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
    """What a `probe` has seen.

    A run is one call of the pipeline, or else all calls in the block, of a model from
    `emerdiff_probe.load` those for one prompt. Where the number of rows or the size of latents or
    text changes on the way, as when a pipeline ends guidance before the last step, another run
    begins; its steps count on.

    A run's tree is that of `emerdiff_probe.record`, with these differences:

    - Rows are labelled ``sample`` and ``guidance`` where the pipeline says what they are while it
      runs (``do_classifier_free_guidance``), or the model. Elsewhere, as in a loop of your own over
      the bare UNet, they have dim ``batch``, in the order of the call.
    - Calls that differ in their text alone, with the same latents at the same timestep, are the
      parts of one step's guidance. They are "uncond" and "cond" where one of the texts is known to
      be that of no prompt, or of the negative one; else "call 1", "call 2".
    - Timesteps are in the order of the calls, and may repeat: some schedulers visit one twice. Take
      those by position, with ``.isel(timestep=...)``.
    - "latents" are what the UNet was given, which some schedulers scale.
    - There is an "image" where the pipeline gave pictures.
    - Of a bare UNet nobody knows how many pixels a latent has: ``y`` and ``x`` count latents.
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
        """The one run.

        Raises:
            CaptureError: There was none, or there were several: see `runs`.
        """
        self._take_step()
        if len(self._runs) != 1:
            raise CaptureError(
                "nothing was recorded: the UNet was not called within the block"
                if not self._runs
                else f"there are {len(self._runs)} runs: {self!r}. Take one of recorder.runs"
            )
        return self.runs[0]

    @property
    def runs(self) -> list[xr.DataTree]:
        """All runs, in order."""
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
        """Has the calls within a block known as somebody's."""
        before, self._caller = self._caller, caller
        try:
            yield
        finally:
            self._caller = before

    def _watched_call(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """A pipeline class's ``__call__``, which tells when the pipeline runs."""

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
        """A model's ``predict``, which tells of each of its UNet calls."""

        @functools.wraps(original)
        def watched(latents: Tensor, timestep: int, condition: Any) -> Tensor:
            assert self._target.denoiser is not None
            with self._called_by(Prediction(self._target.denoiser, condition)):
                return original(latents, timestep, condition)

        return watched

    def _close(self) -> None:
        """Ends the run."""
        self._take_step()
        run, self._open, self._steps = self._open, None, 0
        if run is not None:
            run.close()

    def _before(self, unet: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Notes what a UNet call is given."""
        self._taps.clear()
        self._given = given(unet, arguments, named)

    def _after(self, unet: nn.Module, _arguments: Any, _named: Any, _output: Any) -> None:
        """Takes what a network's call gave."""
        latents, timestep, text = self._given.latents, self._given.timestep, self._given.text
        caller = self._caller or OwnLoop(self._target)
        guidance = caller.guidance(latents)
        parts = len(guidance) if guidance else 1
        layout = self._layout(unet, tuple(latents.shape[1:]), text.shape[1])
        tensors = self._taps.take()
        on_grid = rearrange(latents[: len(latents) // parts], "n c y x -> n y x c").float()
        # A copy: a loop of one's own may go on in the same memory.
        values: dict[str, NDArray[Any]] = {LATENTS: on_grid.cpu().numpy().copy()}
        for site, shape in layout.shapes.items():
            tensor = layout.reduced[site](laid_out(tensors.pop(site), site, shape))
            if guidance:
                tensor = rearrange(tensor, "(half n) ... -> n half ...", half=parts)
            values[leaf_path(site)] = as_array(tensor, self._dtype, site, float(timestep))
        if self._open is None and not self._calls:
            self._interventions = active(unet)
        text = text if guidance else text.clone()
        # Whoever multiplies queries and keys again needs them.
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
        """Has the calls of a step recorded, of which there will be no more."""
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
        """Whether the text of a call is known to be what stands for no prompt."""
        if not call.text.any():  # as Stable Diffusion XL has it
            return True
        asked = (type(call.caller), call.caller.key, len(call.text))
        if asked not in self._unconditional:
            self._unconditional[asked] = call.caller.unconditional(len(call.text))
        known = self._unconditional[asked]
        if known is None or known.shape[1:] != call.text.shape[1:]:
            return False
        # Encoded once more, perhaps in a batch of another size, which rounds in another way.
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
        """How sites are laid out in a call with latents (channel, y, x) and so many tokens."""
        if (latents, tokens) not in self._layouts:
            table = catalogue(unet, (1, *latents), tokens).loc[list(self._sites)]
            shapes = {Site.parse(name): shape for name, shape in table["shape"].items()}
            height, width = (side * self._target.factor for side in latents[1:])
            reduced = reductions(table, (height, width), self._reducers)
            self._layouts[latents, tokens] = _Layout(shapes, reduced)
        return self._layouts[latents, tokens]

    def _keep_image(self, result: Any) -> None:
        """Keeps the pictures that a pipeline gave."""
        images = getattr(result, "images", result[0] if isinstance(result, tuple) else None)
        if isinstance(images, list) and all(isinstance(each, Image.Image) for each in images):
            pictures = np.stack([np.asarray(each.convert("RGB")) for each in images])
        elif isinstance(images, Tensor) and images.ndim == 4:
            pictures = _in_bytes(rearrange(images.float(), "n rgb y x -> n y x rgb").cpu().numpy())
        elif isinstance(images, np.ndarray) and images.ndim == 4:
            pictures = _in_bytes(images)
        else:
            return
        # Others are latents, or pictures of nobody knows which rows.
        run = self._open
        if run is not None and pictures.shape == (run.form.samples, *run.size(), 3):
            run.end(pictures)


def _key_mask(name: str, mask: Tensor, parts: int | None) -> NDArray[np.float32]:
    """A mask that a UNet call was given, (row[, guidance], key)."""
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
    """How sites are laid out in the calls of one size, and what is done to their values."""

    shapes: Mapping[Site, tuple[int, ...]]
    reduced: Mapping[Site, Reduction]
