"""Taps: the one place that installs forward hooks and replaces functions of a model.

A tap lives as long as its ``with`` block and leaves the model as it was found, whatever happens
inside. Taps may overlap, and end in any order. While one is open a compiled UNet runs eagerly,
since hooks added after ``torch.compile``'s first call would silently not fire. A tap sees and
changes the calls of its own thread alone; other threads that ask for their turn wait for it.
"""

from emerdiff_probe.taps.attention import attentions, product_sites, with_processors
from emerdiff_probe.taps.beginnings import given, prefix
from emerdiff_probe.taps.hooks import (
    Call,
    Capture,
    capture,
    check_rows,
    current_call,
    hooked,
    modules_at,
    watched,
)
from emerdiff_probe.taps.perturbed import restored_after_errors

__all__ = [
    "Call",
    "Capture",
    "attentions",
    "capture",
    "check_rows",
    "current_call",
    "given",
    "hooked",
    "modules_at",
    "prefix",
    "product_sites",
    "restored_after_errors",
    "watched",
    "with_processors",
]
