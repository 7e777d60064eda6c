"""`map()`: many inputs, on this machine's processes or a cluster's, in one place."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd

from emerdiff_probe.distributed.evaluate import Evaluate
from emerdiff_probe.distributed.inputs import Inputs, inputs_of
from emerdiff_probe.distributed.items import Item
from emerdiff_probe.distributed.jobs import Task
from emerdiff_probe.distributed.progress import finished, reason
from emerdiff_probe.distributed.record import Record
from emerdiff_probe.distributed.respond import Respond
from emerdiff_probe.distributed.segment import Segment
from emerdiff_probe.distributed.shards import Shard
from emerdiff_probe.distributed.team import stops_all, team_of
from emerdiff_probe.errors import ConfigError, closest
from emerdiff_probe.paths import local, made_at_once

__all__ = ["Mapped", "map_inputs"]

TASKS: Final[dict[str, Any]] = {
    "record": Record,
    "segment": Segment,
    "respond": Respond,
    "evaluate": Evaluate,
}
"""Tasks by name."""

_WORDS: Final = {
    "record": "recording",
    "segment": "segmenting",
    "respond": "responding",
    "evaluate": "scoring",
}


@dataclass(frozen=True, eq=False)
class Mapped:
    """Say what became of inputs.

    Attributes:
        out: Where the results are.
        table: A row for each input of the shard: ``key``, ``state`` ("done" or "failed") and
            ``reason``, which is empty for what is done.
        shard: Which part of all inputs it is.
    """

    out: Path
    table: pd.DataFrame
    shard: Shard

    @property
    def failed(self) -> pd.DataFrame:
        """Return the rows of the inputs that failed."""
        return self.table[self.table["state"] == "failed"]

    def __repr__(self) -> str:
        part = f"shard {self.shard}, " if self.shard.count > 1 else ""
        return (
            f"Mapped({part}{len(self.table)} inputs, {len(self.failed)} of them failed, "
            f"'{self.out}')"
        )

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>" + (self.failed._repr_html_() if len(self.failed) else "")


def map_inputs(
    task: Literal["record", "segment", "respond", "evaluate"],
    inputs: Inputs,
    out: str | os.PathLike[str],
    *,
    model: Any = "playground",
    load: Mapping[str, Any] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    shard: str | None = None,
    progress: bool = True,
    **settings: Any,
) -> Mapped:
    """Record, segment, shift or score many inputs, on several processes or machines.

    Each input is committed by itself. The same call does what is left: what failed, and what was
    in work when a process ended. For example::

        ep.map("record", "my-pictures", "many.zarr", sites="mid_block", workers=2)
        ep.open("many.zarr")

    Args:
        task: What to do.
        inputs: A folder of images, a name of scenes, or pairs of a key and an input; see
            `emerdiff_probe.distributed.inputs_of`. Workers read them, so that a folder has the same
            name for all. To evaluate: scenes, a folder as `emerdiff_probe.evaluation.plain_folder`
            takes it, or a data set.
        out: Where results go. Recordings go into one store. The others go into a folder with a part
            for each input, ``table.csv``, and of segmentations ``contact-sheet.html``, of scores
            ``summary.csv``.
        model: Name of the model, as `emerdiff_probe.load` takes it. A model that is loaded serves
            without workers and scheduler.
        load: Further arguments of `emerdiff_probe.load`, as ``{"dtype": "float16"}``.
        workers: Number of processes to start on this machine; each loads the model once, and with
            several GPUs each takes one. By default this process does the work.
        scheduler: Address of a scheduler of Dask, as ``"tcp://node1:8786"``, whose workers do it.
        shard: Which part of all inputs to do, as "3/16"; by default that of a job array of SLURM or
            of RANK and WORLD_SIZE, else all. Shards share one place, and each does its own part.
        progress: Whether to show a bar with the time left.
        **settings: Settings of the task, as `emerdiff_probe.recording.record`,
            `emerdiff_probe.emerdiff.segment` or `emerdiff_probe.emerdiff.respond` takes them; to
            evaluate ``protocols``, ``masks``, ``seed`` and settings of the method.

    Returns:
        What became of each input. Those that failed are in a file beside ``out``, too, named as
        ``many.zarr.failures.csv``.

    Raises:
        InputError: No input can be used.
        ConfigError: A setting is wrong, or others than ``out`` was begun with.
        ModelError: The model cannot be loaded.
        StoreError: ``out`` is something else, or the disk has too little room.
    """
    job_of = _task(task, settings)
    part_of = Shard.of_environment() if shard is None else Shard.parse(shard)
    place = local(out).absolute()
    items = job_of.items(inputs) if isinstance(job_of, Evaluate) else inputs_of(inputs)
    part = part_of.of(items)
    with (
        team_of(model, load or {}, workers, scheduler) as team,
        job_of.begun(items, part, place, team, progress) as job,
    ):
        failed = dict(job.failed)
        for key, result in finished(_WORDS[task], job.left, team, progress):
            if isinstance(result, Exception):
                if stops_all(result):
                    raise result
                failed[key] = reason(result)
        mapped = Mapped(place, _table(part, failed), part_of)
        _write_failures(mapped)  # before the folder's table, which has the reasons of all shards
    return mapped


def _table(part: Sequence[Item], failed: Mapping[str, str]) -> pd.DataFrame:
    rows = [
        {
            "key": item.key,
            "state": "failed" if item.key in failed else "done",
            "reason": failed.get(item.key, ""),
        }
        for item in part
    ]
    return pd.DataFrame(rows, columns=["key", "state", "reason"])


def _task(name: str, settings: Mapping[str, Any]) -> Task:
    if name not in TASKS:
        raise ConfigError(f"no task {name!r}; {closest(name, TASKS)}")
    kind = TASKS[name]
    own = {each.name for each in dataclasses.fields(kind)} - {"run"}
    return kind(
        **{key: value for key, value in settings.items() if key in own},
        run={key: value for key, value in settings.items() if key not in own},
    )


def _write_failures(mapped: Mapped) -> None:
    """Write those that failed beside the results; a file of an earlier call goes."""
    shard = mapped.shard
    part = f"-{shard.number}-of-{shard.count}" if shard.count > 1 else ""
    path = mapped.out.with_name(f"{mapped.out.name}.failures{part}.csv")
    if mapped.failed.empty:
        path.unlink(missing_ok=True)
        return
    with made_at_once(path, replace=True) as new:
        mapped.failed[["key", "reason"]].to_csv(new, index=False)
