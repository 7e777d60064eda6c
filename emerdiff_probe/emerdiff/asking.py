"""Settle the settings of questions to a run, and make the runs of short forms."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from emerdiff_probe import checks
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.inputs import Prompt, as_input
from emerdiff_probe.models import Denoiser, Model, as_model
from emerdiff_probe.models.layouts import layout_of
from emerdiff_probe.runs import Run, RunSettings, prepare
from emerdiff_probe.runs.making import made
from emerdiff_probe.sites import Site

__all__ = ["made_for", "settled"]


def settled(run: Run, config: EmerDiffConfig | None, changes: Mapping[str, Any]) -> EmerDiffConfig:
    """Return the complete settings of a question to a run.

    Args:
        run: The run.
        config: All settings; by default those that fit the model.
        changes: Single settings.

    Raises:
        ConfigError: There is no such setting, it cannot have this value, or the run was made with
            another one.
    """
    for name in RunSettings.names():
        if name in changes:
            raise ConfigError(
                f"{name} is fixed when a run is made, and is {getattr(run.settings, name)!r} in "
                f"this one; make another with ep.generate(..., {name}={changes[name]!r}) or "
                "ep.invert(...)"
            )
    if config is None:
        own = dataclasses.asdict(run.settings)
        config = EmerDiffConfig.for_model(run.model).replace(**own, seed=_clustering_seed(run.seed))
        config = _fitted(config, run.model, run.trajectory.timesteps, 5)
    else:
        _compare(run, config)
    config = config.replace(**changes)
    grid = run.trajectory.timesteps
    for name in ("modulation_timestep", "feature_timestep"):
        if (asked := getattr(config, name)) not in grid:
            nearest = min(grid, key=lambda each: abs(each - asked))
            raise ConfigError(
                f"{name} is {asked}, which is not on the grid of the run's {config.steps} steps: "
                f"{', '.join(map(str, reversed(grid)))}; ask with {name}={nearest}, the nearest, "
                "or make the run in other steps"
            )
    return config


def _fitted(
    config: EmerDiffConfig, model: Denoiser, timesteps: Sequence[int], level: int
) -> EmerDiffConfig:
    """Return the default settings on a run's grid, which for flows depends on the image's size."""
    if layout_of(model.unet).is_unet:
        return config
    warnings.warn(
        f"the settings of the method for {model.family} follow a rule (the attention in the "
        "middle, the timesteps nearest to the paper's) and are untested on published weights",
        stacklevel=level,
    )
    return config.on_grid(timesteps)


def _clustering_seed(seed: int) -> int:
    # k-means takes smaller seeds than runs do.
    return seed % (checks.MOST_SEED + 1)


def _compare(run: Run, config: EmerDiffConfig) -> None:
    """Refuse settings that contradict the run; warn about those made for other models.

    Raises:
        ConfigError: A setting differs from the one that the run was made with.
    """
    if config.family is not None and config.family != run.model.family:
        warnings.warn(
            f"these settings were made for {config.family}, and {run.model.name!r} is "
            f"{run.model.family}; omit config to use EmerDiffConfig.for_model(model)",
            stacklevel=5,  # past settled, the function and the method of a run
        )
    decisive = ["steps"]
    if isinstance(run.prepared.source, Prompt):
        decisive += ["guidance", "condition"]
    if not run.prepared.drawn:
        decisive.append("inversion")
        if config.inversion != "edit_friendly":
            decisive.append("start")
    for name in decisive:
        asked, own = getattr(config, name), getattr(run.settings, name)
        if asked != own:
            raise ConfigError(
                f"the settings have {name}={asked!r}, and the run was made with {own!r}; make the "
                f"run with {name}={asked!r}, or pass config.replace({name}={own!r})"
            )


def made_for(
    model: Model,
    source: Any,
    config: EmerDiffConfig | None = None,
    *,
    seed: int | None = None,
    progress: bool = False,
    **settings: Any,
) -> tuple[Run, EmerDiffConfig]:
    """Return a run made for one question, and the settings of the question.

    The run is inverted no further than the question needs, and features are read on the way.

    Args:
        model: A model from `emerdiff_probe.load`, or a diffusers pipeline.
        source: A prompt or an image, as for `emerdiff_probe.inputs.as_input`.
        config: All settings; by default those that fit the model.
        seed: The seed of all noise; by default a prompt's own, else that of the config, else 0.
        progress: Whether to show a progress bar.
        **settings: Single settings, of the run and of the question.
    """
    model, source = as_model(model), as_input(source)
    chosen = (config or EmerDiffConfig.for_model(model)).replace(**settings)
    if config is not None and seed is None and not isinstance(source, Prompt):
        seed = config.seed
    names = RunSettings.names()
    prepared = prepare(
        model,
        source,
        seed=seed,
        settings=chosen.of_run(),
        **{name: value for name, value in settings.items() if name in names},
    )
    own = dataclasses.asdict(prepared.settings)
    chosen = chosen.replace(**own, seed=chosen.seed if config else _clustering_seed(prepared.seed))
    if config is None:
        chosen = _fitted(chosen, model, prepared.timesteps, 4).replace(**settings)
    run = made(
        prepared,
        first=max(chosen.modulation_timestep, chosen.feature_timestep),
        harvest={chosen.feature_timestep: [Site.parse(chosen.feature_site)]},
        progress=progress,
    )
    return run, chosen
