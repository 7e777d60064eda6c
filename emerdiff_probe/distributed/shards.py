"""Parts of many inputs, for machines that share nothing but a disk."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emerdiff_probe.errors import ConfigError

__all__ = ["Shard"]


@dataclass(frozen=True)
class Shard:
    """Name one of several parts, which together are all inputs.

    Attributes:
        number: Its number, from 1.
        count: How many parts there are.
    """

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard of a text.

        Raises:
            ConfigError: It is none.

        >>> Shard.parse("3/16")
        Shard(number=3, count=16)
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        shard = cls(*map(int, found.groups())) if found else cls(0)
        if not 1 <= shard.number <= shard.count:
            raise ConfigError(f"no shard {text!r}; of sixteen give one of 1/16 to 16/16")
        return shard

    @classmethod
    def of_environment(cls, environment: Mapping[str, str] = os.environ) -> Shard:
        """Return the shard that a job array of SLURM, or a launcher as torchrun, has started.

        All inputs are one shard where neither has.

        >>> Shard.of_environment({"RANK": "2", "WORLD_SIZE": "4"})
        Shard(number=3, count=4)
        """
        try:
            if "SLURM_ARRAY_TASK_COUNT" in environment:
                task, count, least, step = (
                    int(environment.get(f"SLURM_ARRAY_TASK_{name}", otherwise))
                    for name, otherwise in (("ID", ""), ("COUNT", ""), ("MIN", 0), ("STEP", 1))
                )
                return cls.parse(f"{(task - least) // step + 1}/{count}")
            if "RANK" in environment and "WORLD_SIZE" in environment:
                return cls.parse(f"{int(environment['RANK']) + 1}/{environment['WORLD_SIZE']}")
        except (ValueError, ConfigError) as error:
            raise ConfigError(
                f"the environment's SLURM_ARRAY_TASK_* or RANK and WORLD_SIZE name no shard "
                f"({error}); give one, as shard='1/1' for all inputs"
            ) from error
        return cls()

    def of(self, each: Sequence[Any]) -> Sequence[Any]:
        """Return the shard's part, which has inputs from all over.

        >>> Shard(2, 3).of("abcdefgh")
        'beh'
        """
        return each[self.number - 1 :: self.count]

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"
