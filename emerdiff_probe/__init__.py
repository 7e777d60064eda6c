"""What a diffusion model knows of each pixel: probing, modulation and segmentation in Jupyter.

    import emerdiff_probe as ep

    model = ep.load("playground")
    segments = ep.segment(model, ep.Prompt("a red house"), masks=12)
    run = ep.record(model, ep.Prompt("a red house"), "*attn2:query", store="run.zarr")

The import is light: torch and diffusers are loaded when first needed.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from emerdiff_probe.errors import ProbeError
from emerdiff_probe.sources import Photo, Prompt

if TYPE_CHECKING:
    from emerdiff_probe import analysis, scenes, views, widgets
    from emerdiff_probe.models import load
    from emerdiff_probe.modulation import EmerDiffConfig, segment
    from emerdiff_probe.probing import record
    from emerdiff_probe.store import open_recording as open
    from emerdiff_probe.store import site

__all__ = [
    "EmerDiffConfig",
    "Photo",
    "ProbeError",
    "Prompt",
    "analysis",
    "load",
    "open",
    "record",
    "scenes",
    "segment",
    "site",
    "views",
    "widgets",
]

__version__ = version("emerdiff-probe")

_PLACES = {
    "EmerDiffConfig": ("emerdiff_probe.modulation", "EmerDiffConfig"),
    "load": ("emerdiff_probe.models", "load"),
    "open": ("emerdiff_probe.store", "open_recording"),
    "record": ("emerdiff_probe.probing", "record"),
    "segment": ("emerdiff_probe.modulation", "segment"),
    "site": ("emerdiff_probe.store", "site"),
}
_ROOMS = ("analysis", "scenes", "views", "widgets")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"emerdiff_probe.{name}")
    if name in _PLACES:
        module, own = _PLACES[name]
        return getattr(import_module(module), own)
    raise AttributeError(f"module 'emerdiff_probe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
