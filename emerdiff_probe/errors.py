"""What the package raises: one base, and a kind for each thing that can be wrong.

A message gives the value, the choices and the next step, so that it can be acted on where it is
read: ``no site 'up_blocks.9'; closest: 'up_blocks.1'. See model.sites().``
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


def first_line(error: Exception) -> str:
    r"""The kind of an error of another library, and the first line of what it says.

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
        begun: How it was begun, nested dictionaries of JSON values.
        asked: What is asked for now.
        what: Is continued, for the message.
        instead: Where else it could be begun anew.

    Raises:
        ConfigError: Something differs. The message gives both values of each.
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
            f"Give the old values to continue it, or {instead} to begin anew"
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
