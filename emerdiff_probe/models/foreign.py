"""Refuse code and pickles that come with a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from emerdiff_probe.errors import ModelError

__all__ = ["refuse_code", "refuse_code_options"]

_CODE_OPTIONS: Final = frozenset(
    {"trust_remote_code", "custom_pipeline", "custom_revision", "use_safetensors"}
)
_LIBRARIES: Final = frozenset({None, "diffusers", "transformers", "stable_diffusion"})
"""The libraries whose parts a pipeline may have; the last is diffusers' name for the module of a
safety checker.
"""


def refuse_code_options(options: Mapping[str, Any]) -> None:
    """Refuse options of ``from_pretrained`` that would run code that comes with a model.

    Raises:
        ModelError: There is such an option.
    """
    for name in _CODE_OPTIONS & options.keys():
        # An option that asks for the safe way does no harm.
        if options[name] not in (None, name == "use_safetensors"):
            raise ModelError(
                f"{name}={options[name]!r} can run code that comes with a model; omit it, or "
                "build the pipeline with diffusers if you trust it, and give that to ep.load()"
            )


def refuse_code(index: Mapping[str, Any], name: str) -> None:
    """Refuse a pipeline's index that names code outside diffusers and transformers.

    Older versions of diffusers import what it names, even a file in the working folder.

    Raises:
        ModelError: It does; the message names the code.
    """
    libraries = {
        part: kind[0] if isinstance(kind, list | tuple) and kind else None
        for part, kind in index.items()
        if not part.startswith("_") and isinstance(kind, list | tuple)
    }
    foreign = [part for part, library in libraries.items() if library not in _LIBRARIES]
    if foreign or not isinstance(index.get("_class_name", ""), str):
        part = foreign[0] if foreign else "_class_name"
        raise ModelError(
            f"{name}: its model_index.json names code for {part!r}, {index[part]!r}, and code that "
            "comes with a model is not run; build the pipeline with diffusers if you trust it, and "
            "give that to ep.load()"
        )
