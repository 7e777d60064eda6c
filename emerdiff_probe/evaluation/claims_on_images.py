"""The paper's claims on a data set of images, with models of one's own."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from emerdiff_probe.emerdiff import EmerDiffConfig
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.evaluation import ablations
from emerdiff_probe.evaluation.ablations import Setting, tables
from emerdiff_probe.evaluation.claims_table import measured, write
from emerdiff_probe.evaluation.datasets import Dataset
from emerdiff_probe.evaluation.journal import SEGMENTS
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.models.identity import identity
from emerdiff_probe.schema import package_versions

__all__ = ["Operations", "benchmark_images", "operations"]

_FAMILIES: Final = "models of one layout can be compared, since settings name layers"


class Operations(NamedTuple):
    """Count what one image costs.

    Attributes:
        rows: Rows of UNet calls.
        decodings: Images that the autoencoder decodes.
    """

    rows: int
    decodings: int


def operations(model: StableDiffusion, config: EmerDiffConfig, masks: int) -> Operations:
    """Count what all settings of all tables cost for one image, each with its own t_m and K.

    Args:
        model: The model; nothing is run.
        config: The frozen settings.
        masks: K, where it is not what is changed.
    """
    every: set[Setting] = set()
    for settings in tables(model, config, masks).values():
        every |= set(settings.values())
    visited = model.schedule.timesteps(config.steps)

    def after(timestep: int) -> int:
        return sum(each <= timestep for each in visited)

    shifts = {
        (each.config.modulation_site, each.config.modulation_timestep)
        for each in every
        if each.config.injection
    }
    modulations = [each.config.modulation_timestep for each in every]
    features = [each.config.feature_timestep for each in every]
    branches = {each: each.masks * (2 if each.config.sides == "both" else 1) for each in every}
    rows = after(max(modulations + features)) + sum(after(timestep) for _, timestep in shifts)
    rows += sum(count * after(each.config.modulation_timestep) for each, count in branches.items())
    return Operations(rows, sum(branches.values()))


def benchmark_images(
    models: Sequence[StableDiffusion],
    dataset: Dataset,
    out: Path,
    kept: Path,
    *,
    masks: int = SEGMENTS,
    processes: int = 1,
    skip: bool = False,
) -> None:
    """Test the claims on a data set and write claims.md, claims.csv and pictures.

    Args:
        models: Models of one layout; the first gives the settings.
        dataset: The images and their truth.
        out: Folder for the table.
        kept: Folder for finished parts; the same call resumes from it, and one with more
            images or models computes only those.
        masks: K, where it is not what is changed.
        processes: Images at the same time.
        skip: Leaves out images that cannot be used, with a warning.

    Raises:
        ConfigError: Models are of several layouts.
        InputError: Images cannot be used.
        StoreError: ``kept`` holds results of something else under this name.
    """
    families = sorted({model.family for model in models})
    if len(families) > 1:
        raise ConfigError(f"models are {', '.join(families)}; {_FAMILIES}. Test them one by one")
    config = EmerDiffConfig.for_model(models[0])
    different = list({model.weights: model for model in models}.values())
    slug = re.sub(r"[^a-z0-9]+", "-", dataset.name.lower()).strip("-")
    every = [
        measured(
            model,
            config,
            dataset,
            kept / f"claims-{slug}-{masks}-{model.weights}",
            {**ablations.identity(model, config), "model": identity(model), "masks": masks},
            masks=masks,
            processes=processes,
            skip=skip,
        )
        for model in different
    ]
    introduction = _introduction(different, dataset, config, masks)
    write(out, different, config, every, introduction, masks=masks, unit="images")


def _introduction(
    models: Sequence[StableDiffusion], dataset: Dataset, config: EmerDiffConfig, masks: int
) -> str:
    rows, decodings = operations(models[0], config, masks)
    names = "\n".join(f"- `{model.name}`, weights {model.weights}" for model in models)
    provenance = {
        "dataset": dataset.name,
        "images": len(dataset.keys),
        "first": dataset.keys[0],
        "last": dataset.keys[-1],
        "masks": masks,
        "config": json.loads(config.to_json()),
        "models": [identity(model) for model in models],
        "versions": package_versions(),
    }
    return f"""# The paper's claims on {dataset.name}

Each table of Namekata et al. (2024) that changes one setting of the method, with the settings of
`EmerDiffConfig.for_model` for the rest: the paper's, as far as they are known, where the layout is
that of Stable Diffusion v1. {len(dataset.keys)} images; {masks} masks where K is not what is
changed. An image takes {rows:,} rows of UNet calls and {decodings:,} decodings, by count.

{names}

```json
{json.dumps(provenance, indent=1, default=str)}
```
"""
