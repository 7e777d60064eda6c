"""Record what happens inside a model, at chosen sites and timesteps, as a labelled tree."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import xarray as xr

from emerdiff_probe.errors import ConfigError, InputError
from emerdiff_probe.inputs import Photo, as_input, cropped, input_name, unique_names
from emerdiff_probe.models import Denoiser, Model, as_model
from emerdiff_probe.models.beside import named_beside
from emerdiff_probe.recording.beside import record_beside
from emerdiff_probe.recording.casting import Sites, ValueType, pattern_of
from emerdiff_probe.recording.planning import Sample
from emerdiff_probe.recording.recipe import Recipe
from emerdiff_probe.recording.reducer_chains import Reducers
from emerdiff_probe.runs import Inversion, Prepared, Run, prepare
from emerdiff_probe.store import (
    Memory,
    Plan,
    Streamed,
    local_folder,
    open_recording,
    size_name,
)

__all__ = ["record", "record_runs"]


def record(
    model: Model,
    source: Any,
    sites: Sites = "blocks",
    *,
    steps: int | None = None,
    timesteps: Sequence[int] | None = None,
    guidance: float | None = None,
    inversion: Inversion | None = None,
    seed: int | None = None,
    crop: bool = False,
    batch: int = 1,
    dtype: ValueType = "float16",
    reduce: Reducers = (),
    store: str | os.PathLike[str] | None = None,
    plan: bool = False,
    progress: bool = True,
    **settings: Any,
) -> xr.DataTree | Plan:
    """Record the tensors at sites while a model generates from prompts or denoises images.

    This records the run of ``ep.generate(model, prompt)`` or ``ep.invert(model, image)``: a prompt
    is sampled with DDPM, an image is inverted and denoised with the empty prompt. For one input it
    is short for their ``.record(...)``, and makes no network calls besides those it records.

    Args:
        model: A model from `emerdiff_probe.load`, or a diffusers pipeline.
        source: A prompt (a text or `emerdiff_probe.Prompt`), an image (a file, a Pillow image, an
            array or `emerdiff_probe.Photo`) or `emerdiff_probe.Latents`; or a list of one of the
            three kinds.
        sites: A pattern, as for `model.sites`, or several, or a table from it. "blocks" is the
            output of every block, "semantic" the queries of the upward block that the paper reads,
            "attention" all ports of all attentions, "*" everything of the network. Text encoders
            and the autoencoder are recorded if a pattern names them, and them alone, such as
            "text_encoder*.*" and "vae.decoder.*". They run once a run, so that there are no
            timesteps and no latents; text alone takes no call of the network.
        steps: The number of steps of the sampling grid; by default what fits the model.
        timesteps: The timesteps of the grid to record; by default all.
        guidance: The scale of classifier-free guidance for prompts; by default what fits the model.
            Above 1 both halves are recorded.
        inversion: The inversion of images and latents; see
            `emerdiff_probe.runs.inversion_trajectory`.
        seed: The seed of all noise; by default a prompt's own, else 0.
        crop: Whether to crop images to the centre part that fits the smallest height and width
            among them, so that they have one size.
        batch: The number of samples in one network call. If memory runs out, it is halved for the
            samples that did not fit.
        dtype: The dtype that values are cast to.
        reduce: The reducers that shrink values before they are kept; see `emerdiff_probe.reduce`.
        store: A folder to stream to, so that memory does not grow with the run. The same call
            resumes an interrupted one, with bit-identical values on the same machine. By default,
            values are kept in memory.
        plan: Whether to return only the plan: what would be recorded, and its size.
        progress: Whether to show a progress bar.
        **settings: Further settings of the run; see `emerdiff_probe.runs.RunSettings`.

    Returns:
        A tree with a leaf for each site, whose variable ``value`` has dims (sample[, guidance],
        timestep, then those of the site), and leaves "latents" and "image"; `emerdiff_probe.site`
        returns one with all its labels. ``y`` and ``x`` are pixels of the images in their own size;
        ``sample`` has their names, as in ``.sel(sample="cat.jpg")``. With a store, values are read
        lazily. Images of several sizes, which have no pixels in common, give a tree with a
        recording for each size, named as "480x640" (height x width), in folders of these names in
        the store.

    Raises:
        InputError: An input cannot be used.
        ConfigError: Settings contradict each other or those that the store was begun with.
        SiteError: The model has no such site.
        CaptureError: A site did not fire once in a call, or its values do not fit the dtype.
        StoreError: The folder holds something else, or the disk has too little room.
    """
    asked = {"steps": steps, "guidance": guidance, "inversion": inversion}
    settings |= {name: value for name, value in asked.items() if value is not None}
    samples = [
        Sample(each, name)
        for each, name in _prepared(as_model(model), source, crop, seed, settings)
    ]
    return _recorded(
        samples,
        sites,
        timesteps=timesteps,
        batch=batch,
        dtype=dtype,
        reduce=reduce,
        store=store,
        plan=plan,
        progress=progress,
    )


def record_runs(runs: Sequence[Run], sites: Sites = "blocks", **options: Any) -> xr.DataTree | Plan:
    """Record existing runs; see `record`.

    Args:
        runs: Runs of one model.
        sites: The sites, as for `record`.
        **options: ``timesteps``, ``batch``, ``dtype``, ``reduce``, ``store``, ``plan`` and
            ``progress``, as for `record`.
    """
    samples = [
        Sample(run.prepared, name, run)
        for run, name in zip(runs, unique_names(run.prepared.name for run in runs), strict=True)
    ]
    return _recorded(samples, sites, **options)


def _prepared(
    model: Denoiser, source: Any, crop: bool, seed: int | None, settings: dict[str, Any]
) -> list[tuple[Prepared, str]]:
    """Return all inputs, ready for the model, each with a unique name.

    Raises:
        InputError: The inputs are of several kinds.
    """
    several = isinstance(source, list | tuple)
    sources = [as_input(each) for each in (source if several else [source])]
    kinds = {type(each) for each in sources}
    if len(kinds) != 1:
        found = ", ".join(sorted(kind.__name__ for kind in kinds)) or "nothing"
        raise InputError(
            "inputs are prompts, images (ep.Photo) or ep.Latents, all of one kind; not "
            f"{found}. Record them one by one"
        )
    names = unique_names(input_name(each) for each in sources)
    if crop:
        photos = [each for each in sources if isinstance(each, Photo)]
        if len(photos) < len(sources):
            raise InputError("crop is for images; omit it for prompts and latents")
        sources = [*cropped(photos)]
    return [
        (prepare(model, each, seed=seed, **settings), name)
        for each, name in zip(sources, names, strict=True)
    ]


def _recorded(
    samples: Sequence[Sample],
    sites: Sites,
    *,
    timesteps: Sequence[int] | None = None,
    batch: int = 1,
    dtype: ValueType = "float16",
    reduce: Reducers = (),
    store: str | os.PathLike[str] | None = None,
    plan: bool = False,
    progress: bool = True,
) -> xr.DataTree | Plan:
    recipe = Recipe(sites, timesteps, batch, dtype, reduce)
    groups: dict[tuple[int, int], list[Sample]] = {}
    for each in samples:
        groups.setdefault(each.prepared.own_size, []).append(each)
    if len(groups) == 1:
        return _of_one_size(recipe, samples, store, plan, progress)
    if plan:
        raise ConfigError(
            f"images have several sizes {sorted(groups)} (height, width), each of which becomes a "
            "recording with a plan of its own; plan them one by one, or pass crop=True"
        )
    found = {}
    for size, alike in groups.items():
        name = size_name(size)
        folder = None if store is None else Path(store) / name
        found[name] = cast(xr.DataTree, _of_one_size(recipe, alike, folder, False, progress))
    return xr.DataTree(children=found)


def _of_one_size(
    recipe: Recipe,
    samples: Sequence[Sample],
    store: str | os.PathLike[str] | None,
    plan: bool,
    progress: bool,
) -> xr.DataTree | Plan:
    """Return a recording of samples whose images have one size."""
    path = None if store is None else local_folder(store)
    if named_beside(pattern_of(recipe.sites)):
        return record_beside(samples, recipe, path, plan, progress)
    planned = recipe.planned(samples)
    if plan:
        return planned.plan
    sink: Memory | Streamed
    sink = Memory(planned.plan) if path is None else Streamed(path, planned.plan)
    planned.record(sink, progress)
    return open_recording(path) if path is not None else cast(Memory, sink).tree()
