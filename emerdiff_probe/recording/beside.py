"""Record text encoders and the autoencoder, which run once a run, before or after all timesteps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from emerdiff_probe import schema
from emerdiff_probe.errors import CaptureError, ConfigError, InputError
from emerdiff_probe.inputs import Prompt
from emerdiff_probe.models.beside import DECODER, ENCODER, TEXT, role_of
from emerdiff_probe.models.finite import finite
from emerdiff_probe.recording.callers import HALVES
from emerdiff_probe.recording.casting import as_array, laid_out, pattern_of, torch_dtype
from emerdiff_probe.recording.planning import Sample, model_identity
from emerdiff_probe.recording.recipe import Recipe
from emerdiff_probe.recording.reducer_chains import (
    Reduction,
    as_tuple,
    described,
    kept_tokens,
    reductions,
)
from emerdiff_probe.runs.making import made
from emerdiff_probe.sites import Site
from emerdiff_probe.store import IMAGE, Leaf, Plan, leaf_path, record_at_once, tree_of
from emerdiff_probe.taps import BesideCapture, capture_beside

__all__ = ["record_beside"]

_MARK: Final = "</w>"
"""With which CLIP ends the last piece of a word."""


def record_beside(
    samples: Sequence[Sample], recipe: Recipe, store: Path | None, plan: bool, progress: bool
) -> xr.DataTree | Plan:
    """Record sites of parts beside the denoiser; see `emerdiff_probe.recording.record`.

    Text alone takes one call of each text encoder for each text and no timestep of the denoiser; of
    a run that is made, the decoder takes one call.

    Args:
        samples: Samples of one model and size.
        recipe: Sites and how they are kept.
        store: Folder to write to, which gets its name when all is in it.
        plan: Return the plan alone.
        progress: Whether to show a bar.

    Raises:
        ConfigError: Settings that have no meaning without timesteps.
        InputError: An input is not encoded or read by a part that is asked for.
        CaptureError: A site was not called once for each text or image.
    """
    if recipe.timesteps is not None:
        raise ConfigError(
            "timesteps= is for the denoiser; text encoders and the autoencoder run once a run"
        )
    first, kind = samples[0].prepared, torch_dtype(recipe.dtype)
    height, width = first.size
    rows = first.model.sites(pattern_of(recipe.sites), height=height, width=width)
    reducers = as_tuple(recipe.reduce)
    reduced = reductions(rows, first.own_size, reducers)
    if any(each.unfitted for each in reduced.values()):
        raise ConfigError("principal components need many timesteps; choose kind='random'")
    _check_inputs(samples, reduced)
    planned = _planned(samples, reduced, recipe.dtype, described(reducers))
    if plan:
        return planned
    shapes = {Site.parse(name): shape for name, shape in rows["shape"].items()}
    values: dict[str, list[NDArray[Any]]] = {leaf.path: [] for leaf in planned.leaves}
    words: dict[str, list[NDArray[np.str_]]] = {}
    for sample in tqdm(samples, "recording", disable=not progress, unit="sample"):
        for site, tensors in _tensors(sample, reduced, values, words, progress).items():
            kept = [reduced[site](laid_out(each, site, shapes[site])) for each in tensors]
            arrays = [as_array(each, kind, site) for each in kept]
            guided = planned.guidance and role_of(site) == TEXT
            values[leaf_path(site)].append(np.stack(arrays, 1) if guided else arrays[0])
    leaves = tuple(
        replace(leaf, words=_words(leaf, reduced, words, bool(planned.guidance)))
        for leaf in planned.leaves
    )
    whole = replace(planned, leaves=leaves)
    joined = {path: np.concatenate(each) for path, each in values.items()}
    return tree_of(whole, joined) if store is None else record_at_once(store, whole, joined)


def _check_inputs(samples: Sequence[Sample], sites: Iterable[Site]) -> None:
    roles = {role_of(site): site for site in sites}
    for each in samples:
        source = each.prepared.source
        if ENCODER in roles and each.prepared.pixels is None:
            raise InputError(
                f"'{roles[ENCODER]}' reads images, and {each.name!r} is none; give an image, or "
                "choose sites of the decoder, as 'vae.decoder.*'"
            )
        if TEXT in roles and isinstance(source, Prompt) and source.prompt_embeds is not None:
            raise InputError(
                f"'{roles[TEXT]}' reads texts, and {each.name!r} came encoded; give the text itself"
            )


def _planned(
    samples: Sequence[Sample],
    reduced: Mapping[Site, Reduction],
    dtype: str,
    further: Mapping[str, Any],
) -> Plan:
    first = samples[0].prepared
    settings, (height, width) = first.settings, first.size
    roles = {role_of(site) for site in reduced}
    guided = TEXT in roles and first.condition.halves == 2
    leaves = [
        replace(each.leaf(dtype), timed=False, guided=role_of(site) == TEXT)
        for site, each in reduced.items()
    ]
    if DECODER in roles:
        dims, shape = (schema.Y, schema.X, schema.RGB), (height, width, 3)
        leaves.append(Leaf(IMAGE, dims, shape, "uint8", guided=False, timed=False))
    config: dict[str, Any] = {
        "sources": {str(number): each.about for number, each in enumerate(samples)},
        "sites": list(map(str, reduced)),
        "dtype": dtype,
        **further,
    }
    if guided:
        config["guidance"] = first.condition.guidance
    if DECODER in roles:
        config |= {"steps": settings.steps, "guidance": first.condition.guidance}
        config |= {} if first.drawn else {"inversion": settings.inversion}
    if under := samples[0].interventions:
        config["interventions"] = list(map(repr, under))
    return Plan(
        leaves=tuple(leaves),
        samples=tuple(each.about for each in samples),
        guidance=HALVES if guided else (),
        timesteps=(),
        steps=(),
        tokens=None,
        size=first.own_size,
        config=config,
        names=tuple(each.name for each in samples),
        about={"model": model_identity(samples), "versions": schema.package_versions()},
    )


def _tensors(
    sample: Sample,
    sites: Iterable[Site],
    values: Mapping[str, list[NDArray[Any]]],
    words: dict[str, list[NDArray[np.str_]]],
    progress: bool,
) -> dict[Site, list[Tensor]]:
    """Return what each site gives of a sample, with one tensor for each text or image."""
    prepared, model = sample.prepared, sample.prepared.model
    of = {role: [site for site in sites if role_of(site) == role] for role in _ROLES}
    found: dict[Site, list[Tensor]] = {}
    run = sample.run
    if of[DECODER] and run is None:
        run = made(prepared, progress=progress)
    under: AbstractContextManager[None] = nullcontext() if run is None else run.intervened()
    with under, torch.inference_mode():
        if of[TEXT]:
            with capture_beside(model, of[TEXT]) as taps:
                condition = prepared.conditioned()
            found |= _checked(taps, condition.halves)
            for part, ids in taps.tokens.items():
                words.setdefault(part, []).append(_texts(model, part, ids))
        if of[ENCODER]:
            assert prepared.pixels is not None
            pixels = rearrange(torch.from_numpy(prepared.pixels), "y x rgb -> 1 rgb y x")
            with capture_beside(model, of[ENCODER]) as taps:
                model.encode(pixels)
            found |= _checked(taps, 1)
        if of[DECODER]:
            assert run is not None
            with capture_beside(model, of[DECODER]) as taps:
                decoded = finite(model.decode(run.trajectory.latents[-1]))
            found |= _checked(taps, 1)
            image = decoded.clamp(0, 1).mul(255).round().to(torch.uint8)
            values[IMAGE].append(rearrange(image, "n rgb y x -> n y x rgb").cpu().numpy())
    return found


_ROLES: Final = (TEXT, ENCODER, DECODER)


def _checked(taps: BesideCapture, count: int) -> dict[Site, list[Tensor]]:
    """Return the tensors of each site, those of a guided text with the unconditional one first.

    Raises:
        CaptureError: A site was called more or less often than there are texts or images.
    """
    wrong = {str(site): len(each) for site, each in taps.tensors.items() if len(each) != count}
    if wrong:
        raise CaptureError(
            f"these sites were not called {count} times, but so many times: {wrong}; is the "
            "autoencoder tiled, or a layer called again, as the last norm is with clip_skip?"
        )
    # Models encode the prompt first.
    return {site: each[::-1] for site, each in taps.tensors.items()}


def _texts(model: Any, part: str, ids: Sequence[Tensor]) -> NDArray[np.str_]:
    """Return the texts of the tokens that a text encoder read, (text, token)."""
    name = part.replace("text_encoder", "tokenizer")
    tokenizer = getattr(model.pipeline, name, None)
    rows = [each[0].tolist() for each in reversed(ids)]
    if tokenizer is None:
        return np.array([[""] * len(row) for row in rows])
    texts = [tokenizer.convert_ids_to_tokens(row) for row in rows]
    return np.array([[str(text).removesuffix(_MARK) for text in row] for row in texts])


def _words(
    leaf: Leaf,
    reduced: Mapping[Site, Reduction],
    words: Mapping[str, Sequence[NDArray[np.str_]]],
    guided: bool,
) -> NDArray[np.str_] | None:
    """Return the texts of a leaf's tokens, (sample[, guidance], token)."""
    part = leaf.path.partition("/")[0]
    if part not in words:
        return None
    texts = np.stack(words[part])
    texts = texts if guided else texts[:, 0]
    return texts[..., kept_tokens(reduced, texts.shape[-1])]
