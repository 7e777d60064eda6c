"""Plan what a recording of runs will hold, before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from emerdiff_probe import checks, schema
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.inputs import Prompt
from emerdiff_probe.models.denoiser import Condition
from emerdiff_probe.models.identity import identity
from emerdiff_probe.models.layouts import joint_attentions
from emerdiff_probe.recording.callers import HALVES
from emerdiff_probe.recording.reducer_chains import Reduction, kept_tokens
from emerdiff_probe.runs import Prepared, Run, Trajectory
from emerdiff_probe.sites import Site
from emerdiff_probe.store import IMAGE, LATENTS, Leaf, Plan

__all__ = ["Sample", "joint", "model_identity", "plan_recording", "wanted_timesteps"]


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample of a recording.

    Attributes:
        prepared: An input, ready for its model.
        name: The name by which it is selected.
        run: Its run, if it exists already.
    """

    prepared: Prepared
    name: str
    run: Run | None = None

    @property
    def timesteps(self) -> tuple[int, ...]:
        """Return all timesteps of its run."""
        return self.prepared.timesteps if self.run is None else self.run.trajectory.timesteps

    @property
    def trajectory(self) -> Trajectory:
        """Return the trajectory of its run."""
        return self.prepared.trajectory if self.run is None else self.run.trajectory

    @property
    def interventions(self) -> tuple[Any, ...]:
        """Return the interventions that its run is under."""
        return () if self.run is None else self.run.interventions

    @property
    def about(self) -> dict[str, Any]:
        """Return prompt, seed and source, for the recording's coordinates and its identity."""
        prepared = self.prepared
        source = f"{prepared.about}, {prepared.fit}"
        if isinstance(prepared.source, Prompt) and prepared.drawn:
            source = prepared.source.described
        return {"prompt": prepared.prompt, "seed": prepared.seed, "source": source}


def joint(network: nn.Module, sites: Iterable[Site]) -> dict[str, Any]:
    """Return the attentions that join image and text, for a recording's configuration.

    The result is empty if there are none.
    """
    found = joint_attentions(network, [site.path for site in sites])
    return {"joint": found} if found else {}


def wanted_timesteps(sample: Sample, asked: Sequence[int] | None) -> tuple[int, ...]:
    """Return the timesteps to record, from the most noise to the least.

    Raises:
        ConfigError: None is given, or one that the run does not visit.
    """
    visited = sample.timesteps
    if asked is None:
        return visited
    wanted = tuple(sorted(set(checks.timesteps("timesteps", asked)), reverse=True))
    if unknown := sorted(set(wanted) - set(visited)):
        raise ConfigError(
            f"timesteps {unknown} are not on the grid of {sample.prepared.settings.steps} steps: "
            f"{', '.join(map(str, reversed(visited)))}"
        )
    if not wanted:
        raise ConfigError("timesteps is empty; omit it to record all of them")
    return tuple(map(int, wanted))


def plan_recording(
    samples: Sequence[Sample],
    reduced: Mapping[Site, Reduction],
    timesteps: tuple[int, ...],
    batch: int,
    dtype: str,
    further: Mapping[str, Any],
) -> Plan:
    """Return the plan of a recording.

    Args:
        samples: Samples of one model, size and number of guidance halves.
        reduced: The reduction of each site's values.
        timesteps: The timesteps to record.
        batch: The number of samples in one network call.
        dtype: The dtype of the values.
        further: Further settings that determine the values.
    """
    first = samples[0].prepared
    model, settings, (height, width) = first.model, first.settings, first.size
    guided = first.condition.halves == 2
    conditions = [each.prepared.condition for each in samples]
    tokens = np.array(
        [[each.unconditional_tokens, each.tokens] if guided else each.tokens for each in conditions]
    )
    _, channels, *grid = model.latent_shape(height, width)
    places = (schema.Y, schema.X)
    leaves = [reduction.leaf(dtype) for reduction in reduced.values()]
    leaves += [
        Leaf(LATENTS, (*places, schema.CHANNEL), (*grid, channels), "float32", guided=False),
        Leaf(IMAGE, (*places, schema.RGB), (height, width, 3), "uint8", guided=False, timed=False),
    ]
    config: dict[str, Any] = {
        "sources": {str(number): each.about for number, each in enumerate(samples)},
        "sites": list(map(str, reduced)),
        "steps": settings.steps,
        "timesteps": list(timesteps),
        "guidance": first.condition.guidance,
        "batch": batch,
        "dtype": dtype,
        **further,
    }
    if not first.drawn:
        config["inversion"] = settings.inversion
        if settings.inversion != "edit_friendly":
            config["start"] = settings.start
    if under := samples[0].interventions:
        config["interventions"] = list(map(repr, under))
    visited = samples[0].timesteps
    return Plan(
        leaves=tuple(leaves),
        samples=tuple(each.about for each in samples),
        names=tuple(each.name for each in samples),
        guidance=HALVES if guided else (),
        timesteps=timesteps,
        steps=tuple(visited.index(t) for t in timesteps),
        tokens=tokens[..., kept_tokens(reduced, tokens.shape[-1])],
        size=first.own_size,
        config=config,
        masks=_masks(conditions, guided, kept_tokens(reduced, tokens.shape[-1])),
        about={
            "model": model_identity(samples),
            "versions": schema.package_versions(),
        },
    )


def _masks(
    conditions: Sequence[Condition], guided: bool, kept: list[int]
) -> dict[str, NDArray[np.float32]]:
    """Return the tokens that models with a text mask can see; empty for other models."""
    if conditions[0].mask is None:
        return {}
    parts = ("unconditional_mask", "mask") if guided else ("mask",)
    rows = [
        np.stack([getattr(each, part)[0].float().cpu().numpy()[kept] for part in parts])
        for each in conditions
    ]
    masks = np.stack(rows)
    return {"encoder_attention_mask": masks if guided else masks[:, 0]}


def model_identity(samples: Sequence[Sample]) -> dict[str, Any]:
    """Return the model's identity, which must not have changed since an existing run was made."""
    made = [each.run for each in samples if each.run is not None]
    return made[0].unchanged() if made else identity(samples[0].prepared.model)
