"""Segment many inputs into one folder: a folder each, and a contact sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from emerdiff_probe import exports
from emerdiff_probe.distributed.folders import in_folder, part_name
from emerdiff_probe.distributed.items import Item
from emerdiff_probe.distributed.jobs import Job
from emerdiff_probe.distributed.team import Team

__all__ = ["Segment"]


@dataclass(frozen=True)
class Segment:
    """Segment images; see `emerdiff_probe.emerdiff.segment`.

    Attributes:
        masks: Number of masks, or "auto".
        engine: How modulated runs are computed.
        seed: Seed of all noise.
        run: Further settings.
    """

    masks: int | str = 20
    engine: str | None = None
    seed: int | None = None
    run: Mapping[str, Any] = field(default_factory=dict)

    def begun(
        self, items: Sequence[Item], part: Sequence[Item], out: Path, team: Team, progress: bool
    ) -> AbstractContextManager[Job]:
        """Return what is left to segment."""
        return in_folder(
            items,
            part,
            out,
            team,
            about={"task": "segment", **asdict(self)},
            work=lambda item: partial(_segment, self, item, out / part_name(item.key)),
            done=lambda key: (out / part_name(key) / "index.html").is_file(),
            ended=lambda: exports.write_sheets(out),
        )


def _segment(task: Segment, item: Item, folder: Path, model: Any) -> None:
    from emerdiff_probe.emerdiff import segment

    ds = segment(
        model,
        item.source(),
        task.masks,
        engine=task.engine,
        seed=task.seed,
        progress=False,
        **task.run,
    )
    exports.write(ds, folder)
