"""What a diffusion model knows of each pixel: probing, modulation and segmentation in Jupyter.

    import emerdiff_probe as ep

    model = ep.load("playground")
    segments = ep.segment(model, ep.Prompt("a red house"), masks=12)

The import is light: torch and diffusers are loaded when first needed.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from emerdiff_probe.errors import ProbeError
from emerdiff_probe.sources import Photo, Prompt

if TYPE_CHECKING:
    from emerdiff_probe import analysis, scenes, views
    from emerdiff_probe.models import load
    from emerdiff_probe.modulation import EmerDiffConfig, segment

__all__ = [
    "EmerDiffConfig",
    "Photo",
    "ProbeError",
    "Prompt",
    "analysis",
    "load",
    "scenes",
    "segment",
    "views",
]

__version__ = version("emerdiff-probe")

_PLACES = {
    "EmerDiffConfig": "emerdiff_probe.modulation",
    "load": "emerdiff_probe.models",
    "segment": "emerdiff_probe.modulation",
}
_ROOMS = ("analysis", "scenes", "views")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"emerdiff_probe.{name}")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), name)
    raise AttributeError(f"module 'emerdiff_probe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
