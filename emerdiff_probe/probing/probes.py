"""`probe()`: what happens inside a UNet while somebody else's code calls it, as a labelled tree."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
import xarray as xr
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from emerdiff_probe import schema
from emerdiff_probe.errors import CaptureError, ConfigError
from emerdiff_probe.models.catalogue import catalogue, chosen, unwrapped
from emerdiff_probe.probing.calls import Caller, OwnLoop, PipelineCall, Prediction, Target
from emerdiff_probe.probing.reduce import (
    Reducer,
    Reduction,
    describe,
    kept_tokens,
    reductions,
)
from emerdiff_probe.probing.taps import Capture, capture
from emerdiff_probe.probing.values import (
    Sites,
    ValueType,
    as_array,
    laid_out,
    pattern_of,
    torch_dtype,
)
from emerdiff_probe.sites import Site
from emerdiff_probe.store import IMAGE, LATENTS, Leaf, Plan, leaf_path

__all__ = ["Recorder", "probe"]

_TOKENS: Final = 77
"""Of a text, before a call shows how many there are; names of sites do not depend on it."""


@contextmanager
def probe(
    model: Any,
    sites: Sites = "blocks",
    *,
    dtype: ValueType = "float16",
    reduce: Reducer | Sequence[Reducer] = (),
) -> Iterator[Recorder]:
    """Records what happens at sites while the block runs a model in its own way.

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
    target = Target.of(model)
    kind = torch_dtype(dtype)
    unet: Any = unwrapped(target.unet)
    latents = (1, unet.config.in_channels, *_sides(unet.config.sample_size))
    table = chosen(catalogue(unet, latents, _TOKENS), pattern_of(sites))
    reducers = tuple(reduce) if isinstance(reduce, Sequence) else (reduce,)
    if any(each.unfitted for each in _reduced(table, latents, target, reducers).values()):
        raise ConfigError(
            "principal components need a first pass over the run, and a probe sees it once; choose "
            "project(kind='random'), or ep.record()"
        )
    with ExitStack() as stack:
        taps = stack.enter_context(capture(unet, map(Site.parse, table.index)))
        recorder = Recorder(target, taps, tuple(table.index), kind, reducers)
        for hook in (
            unet.register_forward_pre_hook(recorder._before, with_kwargs=True),
            unet.register_forward_hook(recorder._after, with_kwargs=True),
        ):
            stack.callback(hook.remove)
        if target.pipeline is not None:
            kind_of = type(target.pipeline)
            stack.enter_context(_replaced(kind_of, "__call__", recorder._watched_call))
        if target.denoiser is not None:
            stack.enter_context(_replaced(target.denoiser, "predict", recorder._watched_predict))
        yield recorder


def _reduced(
    table: pd.DataFrame, latents: tuple[int, ...], target: Target, reducers: tuple[Reducer, ...]
) -> dict[Site, Reduction]:
    height, width = latents[-2:]
    return reductions(table, (height * target.factor, width * target.factor), reducers)


def _sides(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


@contextmanager
def _replaced(owner: Any, name: str, wrap: Callable[[Any], Any]) -> Iterator[None]:
    """Has a function of a class or an object wrapped, and puts things back as they were."""
    own, original = name in vars(owner), getattr(owner, name)
    setattr(owner, name, wrap(original))
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


@dataclass(frozen=True)
class _Form:
    """What must not change within a run."""

    samples: int
    guidance: tuple[str, ...] | None
    latents: tuple[int, ...]
    tokens: int


@dataclass(eq=False)
class _Run:
    """The calls of one run, as they come.

    Attributes:
        caller: Who makes them.
        form: Of all of them.
        leaves: What each call gives.
        shapes: Of the sites, in one row.
        reduced: What is done to their values.
        timesteps: Of the calls.
        steps: Their positions among all calls of the caller.
        values: Of each leaf, an array a call.
        image: The pictures that the run ended with, if the caller gave any.
    """

    caller: Caller
    form: _Form
    leaves: tuple[Leaf, ...]
    shapes: dict[Site, tuple[int, ...]]
    reduced: dict[Site, Reduction]
    timesteps: list[float] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    values: dict[str, list[NDArray[Any]]] = field(default_factory=dict)
    image: NDArray[np.uint8] | None = None


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
        self._open: _Run | None = None
        self._runs: list[_Run] = []
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
        return [_tree(run, self._target, self._sites, self._reducers) for run in self._runs]

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
            with self._called_by(PipelineCall(pipeline, given.arguments)):
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
            model = original.__self__  # type: ignore[attr-defined]
            with self._called_by(Prediction(model, condition)):
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
        form = _Form(len(latents) // parts, guidance, tuple(latents.shape[1:]), tokens)
        run = self._open
        if run is None or run.form != form or run.caller.key != caller.key:
            run = self._begun(unet, caller, form)
        tensors = self._taps.take()
        latents = rearrange(latents[: form.samples], "n c y x -> n y x c")
        call: dict[str, NDArray[Any]] = {LATENTS: latents.float().cpu().numpy()}
        for site, shape in run.shapes.items():
            tensor = run.reduced[site](laid_out(tensors.pop(site), site, shape))
            if guidance:
                tensor = rearrange(tensor, "(half n) ... -> n half ...", half=parts)
            call[leaf_path(site)] = as_array(tensor, self._dtype, site)
        if run is not self._open:
            self._open = run
            self._runs.append(run)
        for path, array in call.items():
            run.values.setdefault(path, []).append(array)
        run.timesteps.append(timestep)
        run.steps.append(self._calls)
        self._calls += 1

    def _begun(self, unet: nn.Module, caller: Caller, form: _Form) -> _Run:
        table = catalogue(unet, (1, *form.latents), form.tokens).loc[list(self._sites)]
        reduced = _reduced(table, form.latents, self._target, self._reducers)
        dtype = str(self._dtype).removeprefix("torch.")
        leaves = [reduction.leaf(dtype) for reduction in reduced.values()]
        channels, *grid = form.latents
        dims = (schema.Y, schema.X, schema.CHANNEL)
        leaves.append(Leaf(LATENTS, dims, (*grid, channels), "float32", guided=False))
        shapes = {Site.parse(name): shape for name, shape in table["shape"].items()}
        return _Run(caller, form, tuple(leaves), shapes, reduced)

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
        if pictures.shape[:-1] == (self._open.form.samples, *_size(self._open, self._target)):
            self._open.image = pictures


def _size(run: _Run, target: Target) -> tuple[int, int]:
    _, height, width = run.form.latents
    return height * target.factor, width * target.factor


def _tree(
    run: _Run, target: Target, sites: tuple[str, ...], reducers: tuple[Reducer, ...]
) -> xr.DataTree:
    samples, size = run.form.samples, _size(run, target)
    known, guidance = run.form.guidance is not None, run.form.guidance or ()
    about = [
        {"prompt": prompt, "seed": -1, "source": run.caller.source}
        for prompt in run.caller.prompts(samples)
    ]
    timesteps = run.timesteps
    if all(float(each).is_integer() for each in timesteps):
        timesteps = list(map(int, timesteps))
    leaves = list(run.leaves)
    places = (schema.Y, schema.X)
    if run.image is not None:
        form = ((*places, schema.RGB), run.image.shape[1:])
        leaves.append(Leaf(IMAGE, *form, "uint8", guided=False, timed=False))
    tokens = run.caller.tokens(samples, run.form.tokens, bool(guidance)) if known else None
    if tokens is not None:
        tokens = tokens[..., kept_tokens(run.reduced, run.form.tokens)]
    config = {"sites": list(sites), "timesteps": list(timesteps), "dtype": leaves[0].dtype}
    if reducers:
        config["reduce"] = list(map(describe, reducers))
    plan = Plan(
        leaves=tuple(leaves),
        samples=tuple(about if known else [{}] * samples),
        guidance=guidance,
        timesteps=tuple(timesteps),
        steps=tuple(run.steps),
        tokens=tokens,
        size=size,
        config=config,
        about={"model": target.about, "versions": schema.package_versions()},
        row=schema.SAMPLE if known else schema.BATCH,
    )
    datasets = {}
    for leaf in leaves:
        dims = plan.dims(leaf)
        array = (
            np.stack(run.values[leaf.path], axis=dims.index(schema.TIMESTEP))
            if leaf.timed
            else run.image
        )
        datasets[leaf.path] = xr.Dataset({"value": (dims, array)}, coords=plan.coords(leaf))
    return xr.DataTree.from_dict({"/": plan.root(), **datasets})
