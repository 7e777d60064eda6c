"""What the package raises: one base, and a kind for each thing that can be wrong.

A message gives the value, the choices and the next step, so that it can be acted on where it is
read: ``no site 'up_blocks.9'; closest: 'up_blocks.1'. See model.sites().``
"""

import difflib
from collections.abc import Iterable

__all__ = [
    "CaptureError",
    "ConfigError",
    "InputError",
    "ModelError",
    "ProbeError",
    "SiteError",
    "StoreError",
    "closest",
]


class ProbeError(Exception):
    """Base of all errors that the package raises on purpose."""


class InputError(ProbeError):
    """A picture, prompt, array or number that cannot be used."""


class ModelError(ProbeError):
    """A model that cannot be loaded, or whose layout is refused."""


class SiteError(ProbeError):
    """No such site in this model."""


class CaptureError(ProbeError):
    """A tap that fired more or less often than the run has steps."""


class ConfigError(ProbeError):
    """Settings that contradict each other, or what a store was begun with."""


class StoreError(ProbeError):
    """A recording or dataset that is damaged, incomplete or not of the form it claims."""


def closest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """The choices most like a name that was not found, as text for an error message.

    Args:
        name: What was asked for.
        choices: What there is.
        count: How many to give at most.

    Returns:
        ``closest: 'a', 'b'``, or, where nothing is alike, ``choices: 'x', 'y', ...``.

    >>> closest("atn2", ["attn1", "attn2", "ff"])
    "closest: 'attn2', 'attn1'"
    >>> closest("zebra", ["attn1", "attn2"])
    "choices: 'attn1', 'attn2'"
    >>> closest("zebra", [])
    'there are none'
    """
    names = list(dict.fromkeys(choices))
    if not names:
        return "there are none"
    if alike := difflib.get_close_matches(name, names, n=count):
        return "closest: " + ", ".join(map(repr, alike))
    more = ", ..." if len(names) > count else ""
    return "choices: " + ", ".join(map(repr, names[:count])) + more
