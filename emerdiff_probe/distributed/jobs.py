"""A kind of work on many inputs: what is to be done for each, and what was wrong before."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from emerdiff_probe.distributed.items import Item
from emerdiff_probe.distributed.team import Team, Work

__all__ = ["Job", "Task"]


@dataclass(frozen=True)
class Job:
    """Hold the work on some inputs.

    Attributes:
        left: What is still to be done, by key.
        failed: Why an input cannot be used, by key.
    """

    left: dict[str, Work]
    failed: dict[str, str]


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
