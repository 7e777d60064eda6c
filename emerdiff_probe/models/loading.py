"""Load a model by its name, folder, file, hub id or pipeline: `load()`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from diffusers import DiffusionPipeline
from diffusers.utils import logging

from emerdiff_probe import playground
from emerdiff_probe.devices import usable
from emerdiff_probe.errors import ModelError, first_line
from emerdiff_probe.models.denoiser import Denoiser
from emerdiff_probe.models.folders import attribute_in, pipeline_index
from emerdiff_probe.models.foreign import refuse_code, refuse_code_options
from emerdiff_probe.models.pipeline_model import PipelineModel
from emerdiff_probe.models.stable_diffusion import StableDiffusion
from emerdiff_probe.models.transformer import Transformer

__all__ = ["Model", "as_model", "load"]

Model: TypeAlias = Denoiser | DiffusionPipeline
"""A model from `load`, or a diffusers pipeline."""

PLAYGROUND = "playground"

_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def load(
    model: str | os.PathLike[str] | Any = PLAYGROUND,
    *,
    device: str | torch.device | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] | torch.dtype | None = None,
    decoder: str | os.PathLike[str] | None = None,
    **options: Any,
) -> PipelineModel:
    """Load a model.

    Args:
        model: ``"playground"`` (bundled, offline), a folder saved by diffusers, a hub id of a
            Stable Diffusion v1, v2, XL or 3, PixArt, Flux.1, AuraFlow or Sana model such as
            ``"CompVis/stable-diffusion-v1-4"``, a ``.safetensors`` file of a Stable Diffusion v1,
            v2 or XL, or a pipeline that is already built, which is used and left as it is: with its
            LoRA, on its device, in its dtype.
        device: The device to run on; by default CUDA if available, else the CPU.
        dtype: The dtype; by default float32 on a CPU and float16 on CUDA. A torch dtype such as
            ``torch.float16`` works, too.
        decoder: A folder or hub id of a tiny autoencoder (diffusers' ``AutoencoderTiny``) for the
            model's latents, such as ``"madebyollin/taesd"``, which then decodes instead of the
            model's own: faster, in less memory, and less exactly.
        **options: Options of the pipeline's ``from_pretrained``: ``revision``, ``variant``, ...;
            for a file, those of ``from_single_file``: ``config``, a folder or hub id of a pipeline
            of its kind. Loading runs no code that comes with a model and reads no pickles, so
            options that ask for these are refused.

    Raises:
        ModelError: There is no such model, or its layout is not supported; or an option does not
            apply to a pipeline that is already built.
    """
    named = None if dtype is None else str(dtype).removeprefix("torch.")
    if not isinstance(model, str | os.PathLike):
        of_tokens = getattr(model, "transformer", None) is not None
        made: type[Transformer] | type[StableDiffusion]
        made = Transformer if of_tokens else StableDiffusion
        built = made(model, type(model).__name__)
        _refuse_changes(built, device, named, options)
        if decoder is not None:
            _decode_with(built, os.path.expanduser(decoder))
        return built
    device = usable(device)
    if named is None:
        named = "float16" if device.type == "cuda" else "float32"
    if named not in _DTYPES:
        raise ModelError(f"dtype is {named!r}; choose one of {', '.join(_DTYPES)}")
    refuse_code_options(options)
    name = os.fspath(model)
    try:
        with _without_bars():
            denoiser = _loaded(name, _DTYPES[named], options)
    except ModelError:
        raise
    except Exception as error:
        # diffusers, transformers, safetensors and the hub each raise errors of their own.
        raise ModelError(f"cannot load {name!r}: {first_line(error)}\n{_CHOICES}") from error
    denoiser.pipeline.to(device)
    if decoder is not None:
        _decode_with(denoiser, os.path.expanduser(decoder))
    return denoiser


def as_model(model: Model) -> Denoiser:
    """Return a model from `load` as it is, and a diffusers pipeline as wrapped by `load`."""
    return model if hasattr(model, "predict") else load(model)


def _refuse_changes(
    built: PipelineModel,
    device: str | torch.device | None,
    dtype: str | None,
    options: dict[str, Any],
) -> None:
    """Refuse options that a user's pipeline does not meet, because it is left as it is.

    Raises:
        ModelError: There is such an option.
    """
    if options:
        raise ModelError(
            f"{', '.join(options)}: only for models that are read from files, and {built.name} is "
            "already built; omit it"
        )
    own = str(built.dtype).removeprefix("torch.")
    if dtype not in (None, own):
        raise ModelError(
            f"dtype is {dtype!r} and the {built.name} is in {own}, which is left as it is; call "
            f"pipeline.to(torch.{dtype}) first, or omit it"
        )
    wanted = built.device if device is None else usable(device)
    if (wanted.type, wanted.index or 0) != (built.device.type, built.device.index or 0):
        raise ModelError(
            f"device is {str(device)!r} and the {built.name} is on {str(built.device)!r}, where it "
            f"stays; call pipeline.to({str(device)!r}) first, or omit it"
        )


def _decode_with(denoiser: PipelineModel, decoder: str) -> None:
    try:
        denoiser.decode_with(decoder)
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"cannot load the decoder {decoder!r}: {first_line(error)}\nGive a folder or hub id "
            "of an AutoencoderTiny, such as 'madebyollin/taesd' for Stable Diffusion v1 and v2"
        ) from error


def _loaded(name: str, dtype: torch.dtype, options: dict[str, Any]) -> PipelineModel:
    if name == PLAYGROUND:
        folder = os.fspath(playground.folder())
        return StableDiffusion.from_folder(folder, name, dtype, **options)
    path = Path(name).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        return StableDiffusion.from_file(path, name, dtype, **options)
    folder = _located(path, name)
    index = pipeline_index(folder, options)
    refuse_code(index, name)
    attribute = attribute_in(index, name)
    made = Transformer if attribute == "transformer" else StableDiffusion
    # Pickles can run code.
    return made.from_folder(folder, name, dtype, **{**options, "use_safetensors": True})


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hide progress bars for reading local files, which takes seconds; downloads keep theirs."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


_CHOICES = (
    "Give 'playground', a folder that holds a diffusers pipeline (model_index.json), a "
    ".safetensors file, or the hub id of a Stable Diffusion (v1, v2, XL, 3), PixArt, Flux.1, "
    "AuraFlow or Sana model."
)


def _located(path: Path, name: str) -> str:
    """Return the name to load by; refuse early what is neither a pipeline's folder nor a hub id.

    Raises:
        ModelError: It is neither.
    """
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise ModelError(f"the folder {name!r} has no model_index.json.\n{_CHOICES}")
        return str(path)
    if path.is_file():
        raise ModelError(
            f"the file {name!r} is not a .safetensors file; others can run code when they are "
            f"read. Convert it first.\n{_CHOICES}"
        )
    owner, slash, rest = name.partition("/")
    if not (owner and slash and rest) or "/" in rest or name[0] in ".~/":
        raise ModelError(f"no model {name!r}.\n{_CHOICES}")
    return name
