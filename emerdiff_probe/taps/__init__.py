"""Install forward hooks and replace functions of a model; no other room does either.

A tap lasts as long as its ``with`` block and leaves the model as it was found, even after an error.
Taps may overlap and may close in any order. While a tap is open, a compiled network runs eagerly,
because hooks added after the first call of a ``torch.compile`` module would silently not fire. A
tap sees and changes only the calls of its own thread; other threads that want to open one wait for
it.
"""

from emerdiff_probe.taps.attention import attentions, product_sites, with_processors
from emerdiff_probe.taps.beginnings import given, prefix
from emerdiff_probe.taps.beside import BesideCapture, capture_beside, hooked_beside
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
from emerdiff_probe.taps.products import multiplied

__all__ = [
    "BesideCapture",
    "Call",
    "Capture",
    "attentions",
    "capture",
    "capture_beside",
    "check_rows",
    "current_call",
    "given",
    "hooked",
    "hooked_beside",
    "modules_at",
    "multiplied",
    "prefix",
    "product_sites",
    "restored_after_errors",
    "watched",
    "with_processors",
]
