"""Make runs: draw a prompt, invert an image, replay a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from einops import rearrange
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from emerdiff_probe.errors import ConfigError, InputError
from emerdiff_probe.inputs import Prompt, as_input
from emerdiff_probe.models import Model, as_model
from emerdiff_probe.models.beside import ENCODER, TEXT, role_of
from emerdiff_probe.models.finite import finite
from emerdiff_probe.models.identity import identity
from emerdiff_probe.runs.features import feature_grid, labelled_features
from emerdiff_probe.runs.inversion import noise_diagnostics
from emerdiff_probe.runs.preparation import Prepared, prepare
from emerdiff_probe.runs.run import Run
from emerdiff_probe.runs.sampling import Step
from emerdiff_probe.runs.trajectory import Trajectory
from emerdiff_probe.sites import Site
from emerdiff_probe.taps import capture

if TYPE_CHECKING:
    from emerdiff_probe.interventions import Intervention

__all__ = ["Harvest", "generate", "invert", "made", "replayed"]

Harvest = Mapping[int, Collection[Site]]
"""Sites by timestep whose features are read on the way, so that they cost no calls of their own."""

_OF_PROMPTS: Final = tuple(
    each.name
    for each in dataclasses.fields(Prompt)
    if each.init and each.name not in ("text", "seed")
)


def generate(
    model: Model,
    prompt: str | Prompt,
    *,
    seed: int | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Draw a prompt's image with DDPM and return the run that drew it.

    For example::

        run = ep.generate(model, "a red house", seed=3)
        run.record("mid_block")

    Args:
        model: Model from `emerdiff_probe.load`, or a diffusers pipeline.
        prompt: Text, or `emerdiff_probe.Prompt`.
        seed: Seed of the noise; by default the prompt's own, else 0. Equal seeds give equal images.
        progress: Whether to show a bar with the time left.
        **settings: ``steps`` and ``guidance``, by default what fits the model; ``condition``:
        "prompt", or "empty" to invert the drawn image with the empty prompt (then also
        ``inversion`` and ``start``, see `invert`); and fields of `emerdiff_probe.Prompt`:
        ``negative_prompt``, ``height``, ``width``, ``clip_skip``, ``prompt_embeds``.

    Raises:
        InputError: ``prompt`` is not a prompt, or the seed cannot be used.
        ConfigError: A setting does not exist, or cannot have the value.
    """
    source = as_input(prompt)
    if not isinstance(source, Prompt):
        raise InputError(
            f"generate() draws prompts, and {prompt!r} is an image; choose ep.invert(model, image)"
            ", or ep.Prompt(text) for a text that looks like a file's name"
        )
    own = {name: settings.pop(name) for name in _OF_PROMPTS if name in settings}
    source = dataclasses.replace(source, **own)
    return made(prepare(as_model(model), source, seed=seed, **settings), progress=progress)


def invert(
    model: Model, image: Any, *, seed: int = 0, progress: bool = True, **settings: Any
) -> Run:
    """Lead an image back to noise and return the run that leads to it.

    For example::

        run = ep.invert(model, "cat.jpg")
        run.segment(masks=12)

    Args:
        model: Model from `emerdiff_probe.load`, or a diffusers pipeline.
        image: Name of a file, Pillow image, array as `emerdiff_probe.Photo` takes it,
            `emerdiff_probe.Photo`, or `emerdiff_probe.Latents`.
        seed: Seed of the inversion's noise.
        progress: Whether to show a bar with the time left.
        **settings: ``steps``, by default what fits the model; ``inversion``: "edit_friendly",
        "ddim" or "noising", see `emerdiff_probe.runs.inversion_trajectory`; and with the last two
        ``start``, the timestep that the run starts from.

    Raises:
        InputError: ``image`` is not an image, or cannot be used.
        ConfigError: A setting does not exist, or cannot have the value.
    """
    source = as_input(image)
    if isinstance(source, Prompt):
        raise InputError(
            f"invert() takes an image, and {image!r} is neither a file nor a file's name; choose "
            "ep.generate(model, prompt) for a text, or give the path of an existing file"
        )
    return made(prepare(as_model(model), source, seed=seed, **settings), progress=progress)


def made(
    prepared: Prepared,
    *,
    first: int | None = None,
    harvest: Harvest | None = None,
    progress: bool = True,
) -> Run:
    """Run a prepared input.

    Args:
        prepared: Input, ready for its model.
        first: First timestep to run, where the run does not depend on earlier ones; by default all
            run.
        harvest: Sites to read on the way; see `Harvest`.
        progress: Whether to show a bar with the time left.
    """
    about, trajectory = identity(prepared.model), prepared.trajectory
    if first is not None and trajectory.latents:
        later = [t for t in trajectory.timesteps if t <= first]
        trajectory = trajectory.since(later[0]) if later else trajectory
    words = "drawing" if prepared.drawn else "inverting"
    steps, features = _passed(prepared, trajectory, harvest or {}, words, progress)
    trajectory = trajectory.known(steps)
    ended = steps[-1].next_latents
    reconstruction = to_pixels(prepared.model.decode(ended))
    x0 = ended if prepared.x0 is None else prepared.x0
    target = to_pixels(prepared.model.decode(x0)) if prepared.x0 is not None else reconstruction
    pixels = target if prepared.pixels is None else prepared.pixels
    picture = prepared.picture
    if picture is None:
        picture = np.rint(pixels * 255).astype(np.uint8)
    diagnostics = {
        "method": "drawn" if prepared.drawn else prepared.settings.inversion,
        **noise_diagnostics(steps),
        "latent_rms_error": round(float((ended - x0).square().mean().sqrt()), 4),
        "latent_rms": round(float(x0.square().mean().sqrt()), 4),
        "picture_psnr": _psnr(reconstruction, pixels),
        "autoencoder_psnr": _psnr(target, pixels),
    }
    return Run(
        prepared,
        picture,
        pixels,
        reconstruction,
        trajectory,
        diagnostics,
        about,
        _features=features,
    )


def _passed(
    prepared: Prepared, trajectory: Trajectory, harvest: Harvest, words: str, progress: bool
) -> tuple[list[Step], dict[tuple[Site, float], Any]]:
    """Return all steps of the unmodulated run, and the features that were read on the way."""
    model, steps, features = prepared.model, [], {}
    grids = {
        site: feature_grid(model, site, prepared.size) for each in harvest.values() for site in each
    }
    run = trajectory.run(model)
    for timestep in tqdm(trajectory.timesteps, words, disable=not progress, unit="step"):
        sites = harvest.get(timestep, ())
        with capture(model.unet, sites) if sites else nullcontext() as taps:
            step = next(run)
        steps.append(step)
        if taps is not None:
            for site, tensor in taps.take().items():
                features[site, timestep] = labelled_features(
                    tensor, site, grids[site], prepared.own_size
                )
    return steps, features


def replayed(run: Run, interventions: Sequence[Intervention], *, progress: bool = True) -> Run:
    """Run the same noise again under interventions; see `Run.replay`."""
    run.unchanged()
    under = (*run.interventions, *interventions)
    roles = {role_of(str(getattr(each, "site", ""))) for each in under}
    if ENCODER in roles:
        raise ConfigError(
            "a replay starts from the run's noise and does not encode the image again; invert it "
            "under the intervention: with ep.intervene(model, ...): ep.invert(model, image)"
        )
    with dataclasses.replace(run, interventions=under).intervened(whole=True):
        trajectory = run.trajectory
        if TEXT in roles:
            trajectory = dataclasses.replace(trajectory, condition=run.prepared.conditioned())
        steps = list(
            tqdm(
                trajectory.run(run.model),
                "replaying",
                len(trajectory.timesteps),
                disable=not progress,
                unit="step",
            )
        )
        pixels = to_pixels(run.model.decode(steps[-1].next_latents))
    return Run(
        run.prepared,
        _resized(np.rint(pixels * 255).astype(np.uint8), run.size),
        pixels,
        pixels,
        trajectory.known(steps),
        {**run.diagnostics, "method": f"{run.diagnostics['method']}, replayed"},
        run.about,
        under,
    )


def to_pixels(decoded: Tensor) -> NDArray[np.float32]:
    """Return one decoded image as (height, width, 3), cut to [0, 1].

    Raises:
        CaptureError: It has values that are not finite.
    """
    return rearrange(finite(decoded).clamp(0, 1), "1 rgb y x -> y x rgb").cpu().numpy()


def _resized(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def _psnr(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    error = float(np.square(one - other).mean())
    return round(10 * np.log10(1 / max(error, 1e-10)), 2)
