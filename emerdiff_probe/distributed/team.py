"""Who works on many inputs: this process, or the workers of Dask; each has the model once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from emerdiff_probe import checks
from emerdiff_probe.errors import ConfigError, ModelError, SiteError

__all__ = ["ModelName", "Lazy", "Team", "Work", "stops_all", "team_of"]

Work: TypeAlias = Callable[[Any], Any]
"""Function of a model. It travels as names and numbers, and so does its result."""


def stops_all(error: BaseException) -> bool:
    """Return whether an error is about what all inputs have in common."""
    return isinstance(error, ConfigError | SiteError | ModelError)


@dataclass(frozen=True)
class ModelName:
    """Name a model, so that others can load it.

    Attributes:
        name: As `emerdiff_probe.load` takes it.
        options: Further arguments of `emerdiff_probe.load`.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self, **further: Any) -> Any:
        """Return the model."""
        import emerdiff_probe as ep

        return ep.load(self.name, **{**further, **self.options})


class Team(Protocol):
    """Several who work at the same time."""

    def run(self, calls: Iterable[tuple[str, Work]]) -> Iterator[tuple[str, Any]]:
        """Yield the result of each call by its key, or the error that it ended in, as they come."""


@dataclass(frozen=True)
class Here:
    """This process.

    Attributes:
        model: Model to work with.
    """

    model: Any

    def run(self, calls: Iterable[tuple[str, Work]]) -> Iterator[tuple[str, Any]]:
        """Yield the result of each call by its key, or the error that it ended in."""
        for key, work in calls:
            try:
                yield key, work(self.model)
            except Exception as error:
                yield key, error


class Lazy:
    """A team that comes together when there is work: where all is done, nobody loads a model.

    Args:
        gathered: What the team is while it lasts.
    """

    def __init__(self, gathered: Callable[[], AbstractContextManager[Team]]) -> None:
        self._gathered = gathered
        self._team: Team | None = None
        self._open = ExitStack()

    def run(self, calls: Iterable[tuple[str, Work]]) -> Iterator[tuple[str, Any]]:
        """Yield the result of each call by its key, or the error that it ended in, as they come."""
        if self._team is None:
            self._team = self._open.enter_context(self._gathered())
        yield from self._team.run(calls)

    def __enter__(self) -> Lazy:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def team_of(
    model: Any, options: Mapping[str, Any], workers: int | None, scheduler: str | None
) -> Lazy:
    """Return who works.

    Args:
        model: Name of a model, or a model.
        options: For loading it.
        workers: Number of processes to start on this machine; by default this process works.
        scheduler: Address of a scheduler of Dask, whose workers work.

    Raises:
        ConfigError: Both are given, Dask is missing, or a model is given that workers cannot load.
    """
    named = isinstance(model, str | os.PathLike)
    if not named and options:
        raise ConfigError(f"load={dict(options)!r} is for models that are given by name")
    name = ModelName(_absolute(os.fspath(model)), options) if named else None
    if workers is None and scheduler is None:
        return Lazy(lambda: nullcontext(Here(model if name is None else name.load())))
    if workers is not None and scheduler is not None:
        raise ConfigError("workers and scheduler are given; give one of both")
    if name is None:
        raise ConfigError(
            f"workers load the model themselves, and a {type(model).__name__} is loaded already; "
            "give its name or folder, or leave out workers and scheduler to work in this process"
        )
    count = None if workers is None else checks.integer("workers", workers, 1)
    try:
        from emerdiff_probe.distributed.cluster import on_dask
    except ModuleNotFoundError as error:
        raise ConfigError(
            "workers need dask.distributed: pip install 'emerdiff-probe[distributed]'"
        ) from error
    return Lazy(lambda: on_dask(name, count, scheduler))


def _absolute(name: str) -> str:
    """Return the name of a folder as other processes can use it."""
    path = os.path.expanduser(name)
    return os.path.abspath(path) if os.path.exists(path) and name != "playground" else name
