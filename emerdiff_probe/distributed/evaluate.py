"""Score EmerDiff and its baselines on many pictures with known truth: a file of scores each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emerdiff_probe.distributed.folders import in_folder, part_name
from emerdiff_probe.distributed.inputs import FIRST_SEED, SCENE_COUNT
from emerdiff_probe.distributed.items import Item
from emerdiff_probe.distributed.jobs import Job
from emerdiff_probe.distributed.team import Team
from emerdiff_probe.errors import InputError
from emerdiff_probe.paths import made_at_once

if TYPE_CHECKING:
    from emerdiff_probe.evaluation import Dataset, Evaluation

__all__ = ["Evaluate"]


@dataclass(frozen=True)
class Evaluate:
    """Score EmerDiff and its baselines; see `emerdiff_probe.evaluation.evaluate`.

    Attributes:
        protocols: Names of protocols; none stands for the usual ones.
        masks: Number of masks of every image.
        seed: Seed of all noise.
        run: Further settings of the method.
    """

    protocols: Sequence[str] = ()
    masks: int = 12
    seed: int = 0
    run: Mapping[str, Any] = field(default_factory=dict)

    def items(self, inputs: Any) -> tuple[Item, ...]:
        """Return the pictures of a data set, which each know their truth.

        Raises:
            InputError: It is no data set.
        """
        from emerdiff_probe import evaluation

        if isinstance(inputs, str) and inputs.startswith("scenes-"):
            level: Any = inputs.removeprefix("scenes-")
            seeds = range(FIRST_SEED, FIRST_SEED + SCENE_COUNT)
            inputs = evaluation.scene_dataset(seeds, level)
        elif isinstance(inputs, str | Path):
            inputs = evaluation.plain_folder(Path(inputs).absolute())
        if not isinstance(inputs, evaluation.Dataset):
            raise InputError(
                f"pictures with known truth are needed, and {type(inputs).__name__} has none; give "
                "a data set, as ep.evaluation.plain_folder(folder)"
            )
        return tuple(
            Item(key, partial(_one, dataclasses.replace(inputs, keys=(key,))))
            for key in inputs.keys
        )

    def begun(
        self, items: Sequence[Item], part: Sequence[Item], out: Path, team: Team, progress: bool
    ) -> AbstractContextManager[Job]:
        """Return what is left to score."""
        dataset: Any = items[0].source()
        about = {"task": "evaluate", "dataset": dataset.name, **dataclasses.asdict(self)}
        return in_folder(
            items,
            part,
            out,
            team,
            about=about,
            work=lambda item: partial(_scored, self, item, out),
            done=lambda key: _scores(out, key).is_file(),
            ended=lambda: self._gathered(items, out, dataset.name),
        )

    def _gathered(self, items: Sequence[Item], out: Path, name: str) -> None:
        """Write the tables of all pictures that are scored."""
        from emerdiff_probe.evaluation.evaluate import evaluation_of

        files = [_scores(out, item.key) for item in items]
        rows = [row for file in files if file.is_file() for row in json.loads(file.read_text())]
        if not rows:
            return
        found: Evaluation = evaluation_of(name, rows, self._protocols(), out)
        with made_at_once(out / "pictures.csv", replace=True) as new:
            found.pictures.to_csv(new, index=False)
        with made_at_once(out / "summary.csv", replace=True) as new:
            found.summary().to_csv(new)

    def _protocols(self) -> Sequence[str]:
        from emerdiff_probe.evaluation.evaluate import USUAL

        return tuple(self.protocols) or USUAL


def _one(dataset: Dataset) -> Any:
    return dataset


def _scores(out: Path, key: str) -> Path:
    return out / "scores" / f"{part_name(key)}.json"


def _scored(task: Evaluate, item: Item, out: Path, model: Any) -> None:
    from emerdiff_probe.emerdiff import EmerDiffConfig
    from emerdiff_probe.evaluation.evaluate import scored
    from emerdiff_probe.evaluation.methods import emerdiff_and_baselines
    from emerdiff_probe.evaluation.rivals import of_unet

    network = of_unet(model)
    config = EmerDiffConfig.for_model(network).replace(seed=task.seed, **task.run)
    method = emerdiff_and_baselines(network, task.masks, config)
    dataset: Any = item.source()
    if problem := dataset.problem(item.key):
        raise InputError(problem)
    rows = scored(method, dataset, task._protocols(), out, False, False, item.key)
    file = _scores(out, item.key)
    with made_at_once(file, replace=True) as new:
        new.write_text(json.dumps(rows))
