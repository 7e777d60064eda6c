"""Measure the responses of many inputs: a store each, in one folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from emerdiff_probe.distributed.folders import in_folder, part_name
from emerdiff_probe.distributed.items import Item
from emerdiff_probe.distributed.jobs import Job
from emerdiff_probe.distributed.team import Team
from emerdiff_probe.store import responses_missing

__all__ = ["Respond"]


@dataclass(frozen=True)
class Respond:
    """Shift latent locations or masks; see `emerdiff_probe.emerdiff.respond`.

    Attributes:
        masks: "locations", a number of masks, or "auto".
        engine: How modulated runs are computed.
        seed: Seed of all noise.
        dtype: Type of the responses.
        run: Further settings.
    """

    masks: int | str = "locations"
    engine: str | None = None
    seed: int | None = None
    dtype: Literal["float16", "float32"] = "float16"
    run: Mapping[str, Any] = field(default_factory=dict)

    def begun(
        self, items: Sequence[Item], part: Sequence[Item], out: Path, team: Team, progress: bool
    ) -> AbstractContextManager[Job]:
        """Return what is left to measure; what is begun is resumed."""
        return in_folder(
            items,
            part,
            out,
            team,
            about={"task": "respond", **asdict(self)},
            work=lambda item: partial(_respond, self, item, _store(out, item.key)),
            done=lambda key: responses_missing(_store(out, key)) == 0,
        )


def _store(out: Path, key: str) -> Path:
    return out / f"{part_name(key)}.zarr"


def _respond(task: Respond, item: Item, store: Path, model: Any) -> None:
    from emerdiff_probe.emerdiff import respond

    respond(
        model,
        item.source(),
        task.masks,
        engine=task.engine,
        seed=task.seed,
        dtype=task.dtype,
        store=store,
        progress=False,
        **task.run,
    )
