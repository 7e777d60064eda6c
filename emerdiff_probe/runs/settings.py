"""Define the settings of a run, with the defaults that fit a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, get_args

from emerdiff_probe import checks
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.inputs import Prompt
from emerdiff_probe.models import Denoiser
from emerdiff_probe.runs.inversion import Inversion

__all__ = ["Origin", "RunSettings", "from_"]

Origin = Literal["paper", "inferred", "ours"]

_FITTING: Final[Mapping[str, Mapping[str, Any]]] = {
    "playground": {"steps": 25, "guidance": 4.0, "start": 481},
    # As their pipelines have them.
    "pixart": {"steps": 20, "guidance": 4.5},
    "stable-diffusion-3": {"steps": 28, "guidance": 7.0},
    "flux": {"steps": 28, "guidance": 3.5},
}
"""Settings that differ from the defaults, by the model's family."""


def from_(origin: Origin, note: str) -> dict[str, str]:
    """Return metadata of a setting: where its default comes from, and a note."""
    return {"origin": origin, "note": note}


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Hold the settings of a run, which all questions to it share.

    Attributes:
        steps: Number of sampling steps, of 1000.
        guidance: Scale of classifier-free guidance for prompts; 1 means none.
        condition: Text of a prompt's run: ``"prompt"`` for the drawing itself, or ``"empty"`` to
            invert the drawn image like a photograph, with the empty prompt.
        inversion: Method that turns an image into a trajectory; see
            `emerdiff_probe.runs.inversion`.
        start: Timestep from which images are denoised with the inversions "ddim" and "noising",
            where everything depends on it. Edit-friendly inversion draws every timestep of the grid
            independently.
    """

    steps: int = field(
        default=50, metadata=from_("paper", "50 of 1000, on the grid 1, 21, ..., 981")
    )
    guidance: float = field(default=7.5, metadata=from_("ours", "usual for Stable Diffusion v1"))
    condition: Literal["prompt", "empty"] = field(
        default="prompt", metadata=from_("ours", "one trajectory for all questions to a run")
    )
    inversion: Inversion = field(
        default="edit_friendly",
        metadata=from_("inferred", "the paper names none that could be read; likeliest"),
    )
    start: int = field(default=281, metadata=from_("inferred", "no more than t_m needs"))

    def __post_init__(self) -> None:
        self._set("steps", checks.integer("steps", self.steps, 1))
        self._set("start", checks.integer("start", self.start, 0))
        self._set("guidance", checks.number("guidance", self.guidance, 1))
        self._choose("condition", ("prompt", "empty"))
        self._choose("inversion", get_args(Inversion))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def _choose(self, name: str, choices: Sequence[str]) -> None:
        if getattr(self, name) not in choices:
            raise ConfigError(
                f"{name} is {getattr(self, name)!r}; choose one of {', '.join(choices)}"
            )

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all settings."""
        return tuple(each.name for each in dataclasses.fields(cls))

    @classmethod
    def for_family(cls, family: str, /, **changes: Any) -> Self:
        """Return the defaults for a family of models, with changes."""
        return cls(**{**_FITTING.get(family, {}), **changes})

    @classmethod
    def for_model(cls, model: Denoiser, /, **changes: Any) -> Self:
        """Return the defaults for a model, with changes."""
        return cls.for_family(model.family, **changes)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some settings changed.

        Raises:
            ConfigError: There is no such setting, or it cannot have the value.
        """
        if unknown := sorted(set(changes) - set(self.names())):
            of_prompts = {each.name for each in dataclasses.fields(Prompt) if each.init}
            hint = ""
            if set(unknown) <= of_prompts:
                hint = f"; what a prompt has goes into it: ep.Prompt(text, {unknown[0]}=...)"
            raise ConfigError(
                f"no setting {', '.join(unknown)}; choose from {', '.join(self.names())}{hint}"
            )
        return dataclasses.replace(self, **changes)
