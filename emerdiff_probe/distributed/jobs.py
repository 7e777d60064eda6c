"""A kind of work on many inputs: what is to be done for each, and what was wrong before."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from emerdiff_probe.distributed.inputs import Item
from emerdiff_probe.distributed.team import Team, Work

__all__ = ["Job", "Task"]


@dataclass(frozen=True)
class Job:
    """Hold the work on some inputs.

    Attributes:
        left: What is still to be done, by key.
        failed: Why an input cannot be used, by key.
        noted: What is done with the result of a finished call, given its key and the result.
    """

    left: dict[str, Work]
    failed: dict[str, str]
    noted: Callable[[str, Any], None] = field(default=lambda key, result: None)


class Task(Protocol):
    """A kind of work on many inputs. Its attributes are its settings, names and numbers."""

    def begun(
        self, items: Sequence[Item], part: Sequence[Item], out: Path, team: Team, progress: bool
    ) -> AbstractContextManager[Job]:
        """Return the work, during which the place of the results is held.

        Args:
            items: All inputs.
            part: Those to work on here.
            out: Where results go.
            team: Who works.
            progress: Whether to show bars.
        """
