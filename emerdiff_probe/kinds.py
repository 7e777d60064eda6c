"""Tell the kinds of the package's datasets apart, and check which one a function receives.

The attribute ``schema`` identifies a kind; if a computation has dropped attributes, the variables
do.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.schema import MODEL_X, RECORDING, RESPONSES, SEGMENTATION, SWEEP

__all__ = ["KINDS", "Kind", "described", "expect", "kind_of"]


class Kind(NamedTuple):
    """A kind of dataset.

    Attributes:
        words: The name of the kind, with its article.
        made: A clause on what makes one.
    """

    words: str
    made: str


def _name(schema: str) -> str:
    """Return a schema without its version."""
    return schema.partition("/")[0]


KINDS: Final = {
    _name(RECORDING): Kind("a recording", "ep.record(), ep.probe() or ep.open() gives one"),
    _name(SEGMENTATION): Kind("a segmentation", "ep.segment() gives one"),
    _name(RESPONSES): Kind("responses", "ep.respond() or ep.open_responses() gives them"),
    _name(SWEEP): Kind("a sweep", "ep.sweep() gives one"),
}
"""The kinds by the name of their schema. Compressed responses count as responses."""


def kind_of(data: Any) -> str | None:
    """Return the key in `KINDS` of an object's kind; None for any other object.

    >>> kind_of(xr.Dataset(attrs={"schema": "sweep/1"})), kind_of(3)
    ('sweep', None)
    """
    if not isinstance(data, xr.DataTree | xr.Dataset):
        return None
    name = _name(str(data.attrs.get("schema", ""))).removeprefix("compressed-")
    if name in KINDS and (name == "recording") == isinstance(data, xr.DataTree):
        return name
    if isinstance(data, xr.DataTree):
        leaves = list(data.leaves)
        there = bool(leaves) and all("value" in leaf.data_vars for leaf in leaves)
        return _name(RECORDING) if there else None
    variables = data.data_vars
    if {"response", "left", "tiles"} & set(variables):
        return _name(RESPONSES)
    if "labels" not in variables:
        return None
    swept = "difference" in variables and variables["difference"].ndim > 3
    return _name(SWEEP if swept and MODEL_X in data.dims else SEGMENTATION)


def described(data: Any) -> str:
    """Return a description of an object in words.

    >>> described(xr.Dataset({"a": 1})), described([1])
    ('a Dataset of a', 'a list')
    """
    kind = kind_of(data)
    if kind is not None:
        return KINDS[kind].words
    if isinstance(data, xr.Dataset):
        return f"a Dataset of {', '.join(map(str, data.data_vars)) or 'nothing'}"
    return f"a {type(data).__name__}"


def expect(data: Any, schema: str) -> None:
    """Check that a dataset is of the kind that a function expects.

    Args:
        data: The argument of the function.
        schema: The schema of the kind, such as `schema.RECORDING`.

    Raises:
        InputError: It is of another kind; the message says which, and what makes the right one.
    """
    kind = KINDS[_name(schema)]
    if schema == RECORDING and (sizes := _sizes(data)):
        raise InputError(
            f"this is a tree of recordings of images of several sizes, {', '.join(sizes)}; choose "
            f"one of them, as in tree[{sizes[0]!r}]"
        )
    if kind_of(data) != _name(schema):
        raise InputError(f"this is {described(data)}, not {kind.words}; {kind.made}")


def _sizes(data: Any) -> list[str]:
    """Return the names of the recordings in a tree of images of several sizes."""
    if not isinstance(data, xr.DataTree) or data.attrs:
        return []
    marks = [_name(str(each.attrs.get("schema", ""))) for each in data.children.values()]
    return list(data.children) if set(marks) == {_name(RECORDING)} else []
