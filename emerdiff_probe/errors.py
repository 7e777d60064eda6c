"""Errors that the package raises: one base class, and a class for each kind of fault.

A message gives the value, the choices and the next step, so that readers can act on it: ``no site
'up_blocks.9'; closest: 'up_blocks.1'. See model.sites().``
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = [
    "CaptureError",
    "ConfigError",
    "InputError",
    "ModelError",
    "ProbeError",
    "SiteError",
    "StoreError",
    "check_unchanged",
    "closest",
    "first_line",
]


class ProbeError(Exception):
    """Base class of all errors that the package raises on purpose."""


class InputError(ProbeError):
    """An image, prompt, array or number that cannot be used."""


class ModelError(ProbeError):
    """A model that cannot be loaded, or whose layout is not supported."""


class SiteError(ProbeError):
    """A site that the model or recording does not have, or that cannot do what is asked."""


class CaptureError(ProbeError):
    """A tap that fired more or less often than the run has steps, or saw an unusable tensor."""


class ConfigError(ProbeError):
    """Settings that contradict each other, or those that a store was begun with."""


class StoreError(ProbeError):
    """A recording or dataset that is damaged, incomplete or not of the form it claims."""


def closest(name: str, choices: Iterable[str], count: int = 3) -> str:
    """Return the choices most similar to a name that was not found, for an error message.

    Args:
        name: The name that was asked for.
        choices: The names that exist.
        count: The largest number of choices to list.

    Returns:
        ``closest: 'a', 'b'``, or, if nothing is similar, ``choices: 'x', 'y', ...``.

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


def first_line(error: Exception) -> str:
    r"""Return the class of another library's error, and the first line of its message.

    >>> first_line(OSError("no such file\nand more"))
    'OSError: no such file'
    """
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else ''}"


def check_unchanged(
    begun: Mapping[str, Any], asked: Mapping[str, Any], what: str, instead: str
) -> None:
    """Refuse to continue something with other settings than it was begun with.

    Args:
        begun: The settings it was begun with, as nested dictionaries of JSON values.
        asked: The settings asked for now.
        what: The name of what is continued, for the message.
        instead: How to start over elsewhere, for the message.

    Raises:
        ConfigError: Settings differ. The message gives both values of each.
    """
    old, new = dict(_flat(begun)), dict(_flat(asked))
    changed = [
        f"{name}: begun with {old.get(name)!r}, now {new.get(name)!r}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if changed:
        raise ConfigError(
            f"{what} was begun with other settings ({'; '.join(changed)}). "
            f"Use the old values to continue it, or {instead} to start over"
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
