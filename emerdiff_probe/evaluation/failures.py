"""Look into failures of the paper's claims: larger lambdas, and injection."""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple, cast

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange
from torch import Tensor

from emerdiff_probe.emerdiff import ENGINES, EmerDiffConfig, low_resolution_masks
from emerdiff_probe.emerdiff.asking import made_for
from emerdiff_probe.emerdiff.segmentation import assigned
from emerdiff_probe.emerdiff.shared import modulate, watch
from emerdiff_probe.evaluation import reports
from emerdiff_probe.evaluation.ablations import FACTORS, identity, segmented, strengths
from emerdiff_probe.evaluation.claims import MEASURES
from emerdiff_probe.evaluation.datasets import scene_dataset
from emerdiff_probe.evaluation.evaluate import evaluate
from emerdiff_probe.evaluation.journal import SEGMENTS, Journal, Row
from emerdiff_probe.evaluation.scoring import mean_with_interval, summary
from emerdiff_probe.inputs import Photo
from emerdiff_probe.interventions import attention_kept
from emerdiff_probe.interventions.injection import AttentionProducts
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.scenes import VALIDATION, scene
from emerdiff_probe.sites import Site

__all__ = ["FAILURE_SEEDS", "Moved", "SCENES", "moved_by_injection", "section"]

FAILURE_SEEDS: Final = VALIDATION[600:700]
"""Seeds of the scenes used to look into failures of the paper's claims."""

SCENES: Final = 10

LARGER: Final = (16, 64, 256)
"""Multiples of the frozen lambda beyond those of the table."""

SCORED: Final = {name: MEASURES[name] for name in ("majority-class", "boundary-f")}


def section(model: StableDiffusion, config: EmerDiffConfig, kept: Path, processes: int) -> str:
    """Return a section of the claims table, in Markdown.

    Args:
        model: Bundled model; the other models only show how much trainings differ.
        config: Frozen settings.
        kept: Folder for finished parts.
        processes: Number of scenes to run at the same time.
    """
    seeds = FAILURE_SEEDS[:SCENES]
    about = identity(model, config)
    every = strengths(config, (*FACTORS[-2:], *LARGER))
    scored = evaluate(
        segmented(model, every, {}),
        scene_dataset(seeds),
        list(SCORED),
        kept=kept / f"failures-{model.weights}",
        identity=about | {"strengths": list(every)},
        processes=processes,
    )

    def injected(seed: int) -> list[Row]:
        return [moved_by_injection(model, config, seed)._asdict()]

    journal = Journal(kept / f"injection-{model.weights}.jsonl", about)
    moved = journal.table({str(seed): seed for seed in seeds}, injected, processes=processes)
    attention, maps, labels = (
        "{:.1%} [{:.1%}, {:.1%}]".format(*mean_with_interval(moved[name].to_numpy()))
        for name in Moved._fields
    )
    return f"""## What was looked into

On {len(seeds)} validation scenes, seeds {seeds[0]} to {seeds[-1]}, with the bundled model; 95 %
intervals over scenes.

Lambda beyond the largest of Table 8:

{reports.to_markdown(summary(scored.pictures, SCORED).rename_axis("lambda"))}

Injection keeps the attention of a modulated run as it is in the unmodulated one. Without it
{attention} of what a location pays in self-attention goes elsewhere than there (total variation
distance; mean over layers, heads, locations, masks and the timesteps below t_m). This changes the
difference maps by {maps} (root mean square, of their own) and the label of {labels} of the pixels.
"""


class Moved(NamedTuple):
    """Hold what injection prevents, each as a share.

    Attributes:
        attention: Share of the attention that moves elsewhere without injection.
        maps: Root mean square change of the difference maps without it, relative to the maps.
        labels: Share of pixels that get another label without it.
    """

    attention: float
    maps: float
    labels: float


def moved_by_injection(model: StableDiffusion, config: EmerDiffConfig, seed: int) -> Moved:
    """Modulate a scene with injection and without it, and compare.

    Args:
        model: Model that modulates.
        config: Settings of the method.
        seed: Seed of the scene.
    """
    whole, config = made_for(model, Photo(scene(seed).image), config)
    features = whole.features(config.feature_site, config.feature_timestep)
    weights = low_resolution_masks(features, SEGMENTS, config)
    masks = torch.from_numpy(weights.values)
    trajectory = whole.trajectory.since(config.modulation_timestep)
    without = config.replace(injection=False, batch=2 * SEGMENTS)
    with attention_kept(model) as own:
        watched = list(watch(model, trajectory, config))
    injected = modulate(model, trajectory, masks, config, watched=watched)
    # At each timestep the literal engine calls the modulated runs last, here in one batch, so
    # their products are kept.
    with attention_kept(model) as theirs:
        free = ENGINES["literal"](model, trajectory, masks, without)
    moved = [
        _total_variation(model, own[timestep][-1], theirs[timestep][-1])
        for timestep in trajectory.timesteps
        if timestep < config.modulation_timestep  # at t_m itself nothing has moved yet
    ]
    with_it = assigned(whole, weights, injected, config)
    without_it = assigned(whole, weights, free, without)
    change = without_it["difference"] - with_it["difference"]
    return Moved(
        float(np.mean(moved)),
        float(np.sqrt((change**2).mean() / (with_it["difference"] ** 2).mean())),
        float((with_it["labels"] != without_it["labels"]).mean()),
    )


def _total_variation(
    model: StableDiffusion, own: AttentionProducts, theirs: AttentionProducts
) -> float:
    """Return half the absolute difference of probabilities, averaged over self-attentions."""
    layers = sorted({site.path for site in own if site.path.endswith(".attn1")})
    moved = [
        (_probabilities(model, path, theirs) - _probabilities(model, path, own)).abs().sum(-1) / 2
        for path in layers
    ]
    return float(np.mean([each.mean().item() for each in moved]))


def _probabilities(model: StableDiffusion, path: str, products: AttentionProducts) -> Tensor:
    """Return the softmax of Vaswani et al. 2017, eq. 1, (run, head, query, key)."""
    heads = cast(Attention, model.unet.get_submodule(path)).heads
    query, key = (
        rearrange(
            products[Site(path, port)].float(), "run at (head c) -> run head at c", head=heads
        )
        for port in ("query", "key")
    )
    return (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1)
