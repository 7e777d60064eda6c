"""Record, intervene in and segment with diffusion models, in Jupyter.

For example::

    import emerdiff_probe as ep

    model = ep.load("playground")
    run = ep.generate(model, "a red house", seed=3)  # or ep.invert(model, "cat.jpg")
    recording = run.record("*attn2:query", store="run.zarr")
    segments = run.segment(masks=12)
    responses = run.respond()

The import is light: torch and diffusers are loaded when first needed.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from emerdiff_probe.afterwards import when_imported
from emerdiff_probe.errors import ProbeError
from emerdiff_probe.inputs import Latents, Photo, Prompt

if TYPE_CHECKING:
    from emerdiff_probe import layers, metrics, responses, scenes, segments, views, widgets
    from emerdiff_probe.distributed import map_inputs as map
    from emerdiff_probe.emerdiff import (
        EmerDiffConfig,
        respond,
        segment,
    )
    from emerdiff_probe.interventions import (
        Ablate,
        EditFeature,
        InjectAttention,
        Noise,
        Replace,
        Scale,
        Shift,
        Steer,
        intervene,
    )
    from emerdiff_probe.layers.attention import attention
    from emerdiff_probe.layers.dictionary import Dictionary
    from emerdiff_probe.models import load
    from emerdiff_probe.recording import probe, record
    from emerdiff_probe.recording import reducers as reduce
    from emerdiff_probe.runs import Run, generate, invert
    from emerdiff_probe.store import gather, open_responses, pack, rechunk, site
    from emerdiff_probe.store import open_recording as open

__all__ = [
    "Ablate",
    "Dictionary",
    "EditFeature",
    "EmerDiffConfig",
    "InjectAttention",
    "Latents",
    "Noise",
    "Photo",
    "ProbeError",
    "Prompt",
    "Replace",
    "Run",
    "Scale",
    "Shift",
    "Steer",
    "attention",
    "gather",
    "generate",
    "intervene",
    "invert",
    "layers",
    "load",
    "map",
    "metrics",
    "open",
    "open_responses",
    "pack",
    "probe",
    "rechunk",
    "record",
    "reduce",
    "respond",
    "responses",
    "scenes",
    "segment",
    "segments",
    "site",
    "views",
    "widgets",
]

__version__ = version("emerdiff-probe")

_HOMES = {
    "emerdiff_probe.distributed": ("map",),
    "emerdiff_probe.emerdiff": (
        "EmerDiffConfig",
        "respond",
        "segment",
    ),
    "emerdiff_probe.interventions": (
        "Ablate",
        "EditFeature",
        "InjectAttention",
        "Noise",
        "Replace",
        "Scale",
        "Shift",
        "Steer",
        "intervene",
    ),
    "emerdiff_probe.layers.attention": ("attention",),
    "emerdiff_probe.layers.dictionary": ("Dictionary",),
    "emerdiff_probe.models": ("load",),
    "emerdiff_probe.recording": ("probe", "record", "reduce"),
    "emerdiff_probe.runs": ("Run", "generate", "invert"),
    "emerdiff_probe.store": ("gather", "open", "open_responses", "pack", "rechunk", "site"),
}
_PLACES = {name: module for module, names in _HOMES.items() for name in names}
_OWN_NAMES = {"map": "map_inputs", "open": "open_recording", "reduce": "reducers"}
"""Names that differ in their room: there, ``open`` and ``map`` must not hide Python's."""
_ROOMS = frozenset(room.name for room in iter_modules(__path__))


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return import_module(f"emerdiff_probe.{name}")
    if name in _PLACES:
        return getattr(import_module(_PLACES[name]), _OWN_NAMES.get(name, name))
    raise AttributeError(f"module 'emerdiff_probe' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _register_accessors() -> None:
    import_module("emerdiff_probe.accessors").register()


when_imported("xarray", _register_accessors)
