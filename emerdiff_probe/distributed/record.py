"""Record many inputs into one store: a row each, which the worker that has it commits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from emerdiff_probe.distributed.items import Item
from emerdiff_probe.distributed.jobs import Job
from emerdiff_probe.distributed.progress import finished, reason
from emerdiff_probe.distributed.team import Team, Work, stops_all
from emerdiff_probe.errors import ConfigError, InputError
from emerdiff_probe.store import Place, Plan, Row, Rows, local_folder

if TYPE_CHECKING:
    from emerdiff_probe.recording.casting import Sites, ValueType
    from emerdiff_probe.recording.planning import Sample
    from emerdiff_probe.recording.recipe import Planned
    from emerdiff_probe.recording.reducer_chains import Reducers

__all__ = ["Record"]

_TOGETHER: Final = 16
"""Inputs that are looked at in one call, before the store is made."""

Looked: TypeAlias = tuple[list[Plan], dict[str, str]]
"""Plans of inputs, whose names are their keys, and by key why others cannot be used."""


@dataclass(frozen=True)
class Record:
    """Record the tensors at sites; see `emerdiff_probe.recording.record`.

    Attributes:
        sites: A pattern, or several.
        timesteps: Which are recorded.
        dtype: Type of the values.
        reduce: What makes values smaller.
        seed: Seed of all noise.
        run: Further settings of runs.
    """

    sites: Sites = "blocks"
    timesteps: Sequence[int] | None = None
    dtype: ValueType = "float16"
    reduce: Reducers = ()
    seed: int | None = None
    run: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def begun(
        self, items: Sequence[Item], part: Sequence[Item], out: Path, team: Team, progress: bool
    ) -> Iterator[Job]:
        """Make the store, if nobody has made it yet, and return what is left to record."""
        with Rows(local_folder(out)) as rows:
            places = rows.places()
            faults: dict[str, str] = {}
            if not places:
                plans, faults = self._looked(items, team, progress)
                rows.make(_by_size(plans, faults))
                places = rows.places()
            rows.share()
            late = [item for item in part if item.key not in places and item.key not in faults]
            if late:
                plans, found = self._looked(late, team, progress)
                names = (name for plan in plans for name in plan.names)
                faults |= found | dict.fromkeys(names, _LATE.format(out))
            yield Job(
                self._left(part, places, rows.whole()),
                {item.key: faults[item.key] for item in part if item.key in faults},
            )

    def _left(
        self, part: Sequence[Item], places: Mapping[str, Place], whole: Set[Place]
    ) -> dict[str, Work]:
        return {
            item.key: partial(_record, self, item, place)
            for item in part
            if (place := places.get(item.key)) and place not in whole
        }

    def _looked(self, items: Sequence[Item], team: Team, progress: bool) -> Looked:
        """Look at inputs, without a call of the network."""
        pieces = [items[first : first + _TOGETHER] for first in range(0, len(items), _TOGETHER)]
        calls = {str(number): partial(_plans, self, each) for number, each in enumerate(pieces)}
        results: dict[str, Looked] = {}
        for number, found in finished("looking at inputs", calls, team, progress):
            if isinstance(found, Exception):
                raise found
            results[number] = found
        plans: list[Plan] = []
        faults: dict[str, str] = {}
        for number in calls:  # in the order of the inputs
            plans += results[number][0]
            faults |= results[number][1]
        return plans, faults

    def sample(self, model: Any, item: Item) -> Sample:
        """Return an input, ready for a model."""
        from emerdiff_probe.models import as_model
        from emerdiff_probe.recording.planning import Sample
        from emerdiff_probe.runs import prepare

        prepared = prepare(as_model(model), item.source(), seed=self.seed, **self.run)
        return Sample(prepared, item.key)

    def planned(self, samples: Sequence[Sample]) -> Planned:
        """Return the recording of samples of one size.

        Raises:
            ConfigError: It would have to see all others first.
        """
        from emerdiff_probe.recording.recipe import Recipe

        recipe = Recipe(self.sites, self.timesteps, 1, self.dtype, self.reduce)
        planned = recipe.planned(samples)
        if any(reduction.unfitted for reduction in planned.reduced.values()):
            raise ConfigError(
                "principal components are those of all inputs, and here each is recorded by "
                "itself; choose project(count, kind='random'), or ep.record(model, [...])"
            )
        return planned


_LATE: Final = (
    "'{}' was made before this input was there or could be read; record it to another store"
)


def _plans(task: Record, items: Sequence[Item], model: Any) -> Looked:
    groups: dict[tuple[int, int], list[Sample]] = {}
    faults: dict[str, str] = {}
    for item in items:
        try:
            sample = task.sample(model, item)
            _ = sample.prepared.condition  # a text that cannot be encoded
        except Exception as error:
            if stops_all(error):
                raise
            faults[item.key] = reason(error)
        else:
            groups.setdefault(sample.prepared.own_size, []).append(sample)
    return [task.planned(samples).plan for samples in groups.values()], faults


def _record(task: Record, item: Item, place: Place, model: Any) -> None:
    planned = task.planned([task.sample(model, item)])
    planned.record(Row(place.folder, planned.plan, place.row), progress=False)


def _by_size(plans: Sequence[Plan], faults: Mapping[str, str]) -> dict[tuple[int, int], Plan]:
    if not plans:
        key, fault = next(iter(faults.items()))
        raise InputError(f"none of {len(faults)} inputs can be used; '{key}': {fault}")
    groups: dict[tuple[int, int], list[Plan]] = {}
    for plan in plans:
        groups.setdefault(plan.size, []).append(plan)
    return {size: Plan.joined(alike) for size, alike in groups.items()}
