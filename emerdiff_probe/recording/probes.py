"""`probe()`: what happens inside a UNet while somebody else's code calls it, as a labelled tree."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from emerdiff_probe.errors import CaptureError, ConfigError
from emerdiff_probe.models.catalogue import catalogue, chosen, unwrapped
from emerdiff_probe.models.locks import around
from emerdiff_probe.recording.buffers import Form, Run
from emerdiff_probe.recording.callers import Caller, OwnLoop, PipelineCall, Prediction, Target
from emerdiff_probe.recording.casting import (
    Sites,
    ValueType,
    as_array,
    laid_out,
    pattern_of,
    torch_dtype,
)
from emerdiff_probe.recording.reducer_chains import Reducers, as_tuple, described, reductions
from emerdiff_probe.recording.reducers import Reducer, project
from emerdiff_probe.sites import Site
from emerdiff_probe.store import LATENTS, leaf_path
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
) -> Iterator[Recorder]:
    """Records what happens at sites while the block runs a model in its own way.

    For example::

        with ep.probe(pipe, "*attn2:query") as recorder:
            image = pipe("a red house").images[0]
        recorder.tree

    Nothing is changed but speed: a compiled UNet runs eagerly within the block. Of hooks that edit
    tensors, the probe sees what those do that were there before it.

    Args:
        model: A diffusers pipeline with a ``UNet2DConditionModel``, with whatever is loaded into
            it; such a UNet alone; or a model from `emerdiff_probe.load`.
        sites: As `emerdiff_probe.record` takes them.
        dtype: What values are cast to.
        reduce: As `emerdiff_probe.record` takes it, but for principal components, which need a
            first pass.

    Yields:
        A `Recorder`. All it holds is in memory.

    Raises:
        ModelError: The model has no such UNet, or is fused, step-cached or checkpointing; says what
            to call first.
        SiteError: The UNet has no such site.
        ConfigError: A reducer that cannot be used.
        CaptureError: A site did not fire once in a call, or its values do not fit the dtype. It
            comes out of the call itself.
    """
    target, kind, reducers = Target.of(model), torch_dtype(dtype), as_tuple(reduce)
    if any(isinstance(each, project) and each.kind == "pca" for each in reducers):
        raise ConfigError(
            "principal components need a first pass over the run, and a probe sees it once; choose "
            "project(kind='random'), or ep.record()"
        )
    unet: Any = unwrapped(target.unet)
    side = unet.config.sample_size or 64
    latents = (1, unet.config.in_channels, *((side, side) if isinstance(side, int) else side))
    table = chosen(catalogue(unet, latents, _TOKENS), pattern_of(sites))
    with ExitStack() as stack:
        taps = stack.enter_context(capture(unet, map(Site.parse, table.index)))
        recorder = Recorder(target, taps, tuple(table.index), kind, reducers)
        stack.enter_context(watched(unet, recorder._before, recorder._after))
        stack.enter_context(restored_after_errors(target.pipeline))
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
      the bare UNet, they have dim ``batch``, in the order of the call. Of guidance by two calls
      each is a step of its own, so that timesteps repeat.
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
    ) -> None:
        self._target = target
        self._taps = taps
        self._sites = sites
        self._dtype = dtype
        self._reducers = reducers
        self._caller: Caller | None = None
        self._calls = 0  # of the caller
        self._open: Run | None = None
        self._runs: list[Run] = []
        self._given: tuple[Tensor, float, int]  # latents, timestep and tokens of the call under way

    @property
    def tree(self) -> xr.DataTree:
        """The one run.

        Raises:
            CaptureError: There was none, or there were several: see `runs`.
        """
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
        config = {
            "sites": list(self._sites),
            "dtype": str(self._dtype).removeprefix("torch."),
            **described(self._reducers),
        }
        return [run.tree(self._target, config) for run in self._runs]

    def __repr__(self) -> str:
        rows = [
            f"{run.form.samples} "
            f"{'rows' if run.form.guidance is None else 'samples'} at {len(run.steps)} steps"
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
        self._open, self._calls = None, 0

    def _before(self, unet: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Notes what a UNet call is given."""
        given = dict(zip(("sample", "timestep", "encoder_hidden_states"), arguments, strict=False))
        given |= named
        self._taps.clear()
        timestep = torch.as_tensor(given["timestep"]).flatten().unique()
        if len(timestep) != 1:
            raise CaptureError(
                f"the rows of a UNet call are at several timesteps {timestep.tolist()}, and a "
                "recording has one in a call; call the UNet for each of them"
            )
        self._given = (
            given["sample"].detach(),
            timestep.item(),
            given["encoder_hidden_states"].shape[1],
        )

    def _after(self, unet: nn.Module, _arguments: Any, _named: Any, _output: Any) -> None:
        """Takes what a UNet call gave."""
        latents, timestep, tokens = self._given
        caller = self._caller or OwnLoop()
        guidance = caller.guidance(latents)
        parts = len(guidance) if guidance else 1
        shape = tuple(latents.shape[1:])
        form = Form(caller.key, len(latents) // parts, guidance, shape, tokens)
        run = self._open
        if run is None or run.form != form:
            run = self._begun(unet, caller, form)
        tensors = self._taps.take()
        given = rearrange(latents[: form.samples], "n c y x -> n y x c").float()
        # A copy: a loop of one's own may go on in the same memory.
        values: dict[str, NDArray[Any]] = {LATENTS: given.cpu().numpy().copy()}
        for site, shape in run.shapes.items():
            tensor = run.reduced[site](laid_out(tensors.pop(site), site, shape))
            if guidance:
                tensor = rearrange(tensor, "(half n) ... -> n half ...", half=parts)
            values[leaf_path(site)] = as_array(tensor, self._dtype, site)
        if run is not self._open:
            self._open = run
            self._runs.append(run)
        run.add(timestep, self._calls, values)
        self._calls += 1

    def _begun(self, unet: nn.Module, caller: Caller, form: Form) -> Run:
        table = catalogue(unet, (1, *form.latents), form.tokens).loc[list(self._sites)]
        shapes = {Site.parse(name): shape for name, shape in table["shape"].items()}
        height, width = (side * self._target.factor for side in form.latents[1:])
        return Run.begun(form, caller, shapes, reductions(table, (height, width), self._reducers))

    def _keep_image(self, result: Any) -> None:
        """Keeps the pictures that a pipeline gave."""
        if self._open is None or self._open.form.guidance is None:
            return
        images = getattr(result, "images", result[0] if isinstance(result, tuple) else None)
        if isinstance(images, list) and all(isinstance(each, Image.Image) for each in images):
            pictures = np.stack([np.asarray(each.convert("RGB")) for each in images])
        elif isinstance(images, np.ndarray) and images.ndim == 4:
            pictures = np.rint(images * 255).astype(np.uint8)
        else:
            return
        if pictures.shape[:-1] == (self._open.form.samples, *self._open.size(self._target)):
            self._open.end(pictures)
