"""Calls that are worked on, with a bar that has the time left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tqdm.auto import tqdm

from emerdiff_probe.distributed.team import Team, Work
from emerdiff_probe.errors import ProbeError, first_line

__all__ = ["finished", "reason"]


def finished(
    words: str, calls: Mapping[str, Work], team: Team, progress: bool = True
) -> Iterator[tuple[str, Any]]:
    """Yield the result of each call by its key, or the error that it ended in, as they come.

    Args:
        words: What is done, for the bar.
        calls: By key.
        team: Who works.
        progress: Whether to show a bar with the time left.
    """
    if not calls:
        return
    with tqdm(total=len(calls), desc=words, unit="input", disable=not progress) as bar:
        for key, result in team.run(calls.items()):
            bar.update()
            yield key, result


def reason(error: Exception) -> str:
    """Return why an input failed, in a line."""
    text = str(error) if isinstance(error, ProbeError) else first_line(error)
    return " ".join(text.split())
