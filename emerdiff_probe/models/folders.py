"""Examine folders of pipelines before any weights are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import diffusers
import torch

from emerdiff_probe.errors import ModelError
from emerdiff_probe.models.layouts import ATTRIBUTES, OTHER_ATTRIBUTES, layout_named

__all__ = ["DTYPE", "attribute_in", "of_one_dtype", "pipeline_index", "quiet_transformers"]

# Newer versions of diffusers call it "dtype" and warn about the older name.
DTYPE: Final = (
    "dtype" if tuple(map(int, diffusers.__version__.split(".")[:2])) >= (0, 40) else "torch_dtype"
)
_HUB_OPTIONS: Final = ("cache_dir", "force_download", "local_files_only", "revision", "token")
_NEEDED: Final = ("vae", "text_encoder", "tokenizer", "scheduler")
_NONE: Final = (None, [None, None])


def pipeline_index(folder: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``model_index.json`` of a folder or a hub id.

    Args:
        folder: A path, or a hub id.
        options: The options of loading, of which those for the hub are used.
    """
    from diffusers import DiffusionPipeline

    of_the_hub = {name: options[name] for name in _HUB_OPTIONS if name in options}
    index: dict[str, Any] = DiffusionPipeline.load_config(folder, **of_the_hub)
    return index


def attribute_in(index: Mapping[str, Any], name: str) -> str:
    """Return the attribute of a pipeline that holds its network: "unet" or "transformer".

    Args:
        index: The result of `pipeline_index`.
        name: The name of the model, for messages.

    Raises:
        ModelError: The pipeline has no known network, or lacks a part that runs need.
    """
    kind = index.get("_class_name", "pipeline")
    found = [each for each in ATTRIBUTES if index.get(each) not in _NONE]
    if not found:
        for part in OTHER_ATTRIBUTES:
            if index.get(part) not in _NONE:
                layout_named(index[part][1])  # refused with its reason, if there is one
        raise ModelError(
            f"{name}: a {kind} has no unet or transformer; choose a model that has one"
        )
    attribute = found[0]
    try:
        layout = layout_named(index[attribute][1])
    except ModelError as error:
        raise ModelError(f"{name}: {kind}: {error}") from error
    if layout.text is None:
        raise ModelError(
            f"{name}: a {kind} works without a text, and runs need a text-to-image model; record "
            "your own call of it with ep.probe(pipe)"
        )
    missing = [each for each in _NEEDED if index.get(each) in _NONE]
    if missing and attribute == "transformer":
        raise ModelError(
            f"{name}: a {kind} has no {', '.join(missing)}, which runs need; record your own call "
            "of it with ep.probe(pipe)"
        )
    return attribute


def of_one_dtype(pipeline: Any, dtype: torch.dtype) -> Any:
    """Return a pipeline whose text encoders have the given dtype, too."""
    # Some versions of transformers leave a text encoder in the dtype that it is stored in.
    for name, part in pipeline.components.items():
        if name.startswith("text_encoder") and part is not None:
            part.to(dtype)
    return pipeline


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress transformers' messages about torchvision while diffusers' pipelines are imported."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
