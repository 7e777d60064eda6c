"""`load()`: a model by its name, folder, hub id or pipeline."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.utils import logging

from emerdiff_probe.errors import ModelError
from emerdiff_probe.models import playground
from emerdiff_probe.models.stable_diffusion import StableDiffusion

__all__ = ["load"]

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
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    **options: Any,
) -> StableDiffusion:
    """Loads a denoiser.

    Args:
        model: ``"playground"`` (bundled, offline), a folder saved by diffusers, a hub id of a
            Stable Diffusion v1 or v2 model such as ``"CompVis/stable-diffusion-v1-4"``, or a
            pipeline that is already built, which is then used as it stands.
        device: Where to run; by default CUDA if there is one, else the CPU.
        dtype: By default float32 on a CPU and float16 on CUDA.
        **options: For ``StableDiffusionPipeline.from_pretrained``: ``revision``, ``variant``, ...

    Raises:
        ModelError: There is no such model, or its layout is not known.
    """
    if not isinstance(model, str | os.PathLike):
        return StableDiffusion(model, type(model).__name__)
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = _usable(device)
    if dtype is None:
        dtype = "float16" if device.type == "cuda" else "float32"
    if dtype not in _DTYPES:
        raise ModelError(f"dtype is {dtype!r}; choose one of {', '.join(_DTYPES)}")
    name = os.fspath(model)
    folder = os.fspath(playground.folder()) if name == PLAYGROUND else name
    try:
        with _without_bars():
            denoiser = StableDiffusion.from_folder(
                _located(folder), name, _DTYPES[dtype], **options
            )
    except ModelError:
        raise
    except Exception as error:
        # diffusers, transformers, safetensors and the hub each raise kinds of their own.
        raise ModelError(f"cannot load {name!r}: {_first_line(error)}\n{_CHOICES}") from error
    denoiser.pipeline.to(device)
    return denoiser


@contextmanager
def _without_bars() -> Iterator[None]:
    """No bar for reading files that are here, which takes seconds; downloads keep theirs."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _usable(device: str | torch.device) -> torch.device:
    """Refuses early a device that this machine or this torch has not."""
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        # A torch without CUDA asserts; other missing devices raise the other two.
        raise ModelError(
            f"cannot run on device {str(device)!r} ({_first_line(error)[:160]}); "
            "'cpu' always works, 'cuda' or 'mps' where there is one"
        ) from error


_CHOICES = (
    "Give 'playground', a folder that holds a diffusers pipeline (model_index.json), or the hub id "
    "of a Stable Diffusion v1 or v2 model."
)


def _located(name: str) -> str:
    """Refuses early what can be neither a folder of a pipeline nor a hub id."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "model_index.json").is_file():
            raise ModelError(f"the folder {name!r} has no model_index.json.\n{_CHOICES}")
        return str(path)
    owner, slash, rest = name.partition("/")
    if path.exists() or not (owner and slash and rest) or "/" in rest or name[0] in ".~/":
        raise ModelError(f"no model {name!r}.\n{_CHOICES}")
    return name


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"
