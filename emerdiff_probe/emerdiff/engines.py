"""Compute modulated runs by engines, chosen by name; all return the same kind of result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Protocol

import torch
from torch import Tensor

from emerdiff_probe.emerdiff import jump, literal, shared, short
from emerdiff_probe.emerdiff.config import EmerDiffConfig
from emerdiff_probe.emerdiff.literal import Modulated
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.models.denoiser import Denoiser
from emerdiff_probe.runs import Run, Trajectory

__all__ = [
    "ENGINES",
    "Engine",
    "decoded",
    "engine_named",
    "engine_of",
    "one_by_one",
    "prepared",
]


class Engine(Protocol):
    """Run the modulated denoisings of masks; see `literal.modulate`."""

    def __call__(
        self,
        model: Denoiser,
        trajectory: Trajectory,
        masks: Tensor,
        config: EmerDiffConfig,
        *,
        progress: bool = False,
    ) -> Modulated:
        """Run them."""


ENGINES: Final[dict[str, Engine]] = {
    "literal": literal.modulate,
    "shared": shared.modulate,
    "short": short.modulate,
    "jump": jump.modulate,
}
"""The engines from the oracle to the fastest: "literal" follows the paper step by step, "shared"
gives the same result up to rounding in less time, "short" takes fewer steps after t_m, "jump" none.
"""


def engine_named(name: str) -> Engine:
    """Return one of `ENGINES` by name.

    Raises:
        ConfigError: There is no engine of that name.
    """
    if name not in ENGINES:
        note = "; run.sensitivity() is the adjoint one" if name == "adjoint" else ""
        raise ConfigError(f"no engine {name!r}; choose one of {', '.join(ENGINES)}{note}")
    return ENGINES[name]


def one_by_one(run: Run, config: EmerDiffConfig) -> bool:
    """Return whether only the literal engine can compute the branches of a run.

    This is so if the run was replayed under interventions, or if nothing is injected.
    """
    return bool(run.interventions) or not config.injection


def engine_of(run: Run, name: str | None, config: EmerDiffConfig) -> str:
    """Return the name of the engine that answers for a run.

    Args:
        run: The run.
        name: One of `ENGINES`; None means "shared", or "literal" if `one_by_one`.
        config: All settings.

    Raises:
        ConfigError: There is no engine of that name; or the run was replayed under interventions,
            which all but the literal engine would apply twice.
    """
    if name is None:
        return "literal" if one_by_one(run, config) else "shared"
    engine_named(name)
    if run.interventions and name != "literal":
        raise ConfigError(
            f"the run was replayed under interventions, which engine {name!r} would apply twice "
            "where branches start from what the run has computed; choose engine='literal', or "
            "omit engine"
        )
    return name


def prepared(
    name: str, model: Denoiser, trajectory: Trajectory, config: EmerDiffConfig
) -> Callable[..., Modulated]:
    """Return an engine for a trajectory that keeps the unmodulated run, for many masks.

    Call it with masks, and with ``config=`` for other settings that leave the unmodulated run as it
    is. For Stable Diffusion v1 it keeps about 130 MiB per timestep in float32.
    """
    engine = engine_named(name)
    if name == "literal" or not config.injection:
        return partial(engine, model, trajectory, config=config)
    if name == "jump":
        first = next(shared.watch(model, trajectory, config))
        return partial(jump.modulate, model, trajectory, config=config, watched=[first])
    if name == "short":
        trajectory = short.shortened(model, trajectory, config)
    watched = list(shared.watch(model, trajectory, config))
    return partial(shared.modulate, model, trajectory, config=config, watched=watched)


def decoded(model: Denoiser, modulated: Modulated, config: EmerDiffConfig) -> Iterator[Tensor]:
    """Yield the responses of masks in batches: I+ minus I-, signed.

    With one side only, a response is twice the difference to the unmodulated image, which is the
    same if responses are linear. In latent space nothing is decoded.

    Yields:
        float32, shape (mask, rgb, y, x), or (mask, channel, y, x) for latents; not clamped.
    """
    view = model.decode if config.space == "picture" else Tensor.float
    still = view(modulated.unmodulated) if config.sides == "one" else None
    half = max(config.batch // 2, 1)
    for rows in torch.arange(len(modulated.plus)).split(half):
        plus = view(modulated.plus[rows])
        yield plus - view(modulated.minus[rows]) if still is None else 2 * (plus - still)
