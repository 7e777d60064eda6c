"""Give several commands the same options, which reach each as one argument."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

__all__ = ["Command", "with_options"]

Command: TypeAlias = Callable[..., None]


def with_options(group: str, options: Sequence[inspect.Parameter]) -> Callable[[Command], Command]:
    """Return a decorator that adds options to a command.

    Args:
        group: Name of the command's argument that gets those that have a value, by name.
        options: Keyword-only parameters, annotated as Typer takes them.
    """

    def decorated(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [each for each in signature.parameters.values() if each.name != group]

        @functools.wraps(command)
        def with_them(**arguments: Any) -> None:
            given = {each.name: arguments.pop(each.name) for each in options}
            chosen = {name: value for name, value in given.items() if value is not None}
            command(**arguments, **{group: chosen})

        whole = signature.replace(parameters=[*own, *options])
        # Typer asks a function for its signature, and types have no such attribute.
        with_them.__signature__ = whole  # type: ignore[attr-defined]
        return with_them

    return decorated
