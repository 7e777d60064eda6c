"""Make the atlas of a model: which layer and timestep carries which kind of semantics."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import torch
import xarray as xr
from plotly.subplots import make_subplots

from benchmarks.task import ATLAS_SEEDS, Task
from emerdiff_probe import views
from emerdiff_probe.evaluation import reports
from emerdiff_probe.evaluation.journal import SEGMENTS
from emerdiff_probe.inputs import Photo
from emerdiff_probe.layers import (
    CKABetween,
    ClustersAndLabels,
    EffectiveRank,
    Explained,
    LinearProbe,
    atlas,
)
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.recording import record
from emerdiff_probe.scenes import scene
from emerdiff_probe.schema import TIMESTEP
from emerdiff_probe.views.colours import SEQUENTIAL
from emerdiff_probe.views.panels import site_text

__all__ = ["MEASURES", "PANELS", "TIMESTEPS", "benchmark", "measured", "sites"]

TIMESTEPS: Final = (801, 481, 281, 121, 1)

MEASURES: Final = (
    LinearProbe(points=64),
    Explained(),
    EffectiveRank(),
    ClustersAndLabels(count=SEGMENTS, normalise="l2"),
    CKABetween(),
)

PANELS: Final = {
    "probe accuracy": "how many places' parts a linear probe reads, in other scenes",
    "its control": "the same probe, of shuffled labels",
    "position": "variance explained by the place in the picture",
    "colour": "variance explained by the colour of the place",
    "semantics": "variance explained by the parts at the place",
    "semantics only": "of it, what neither position nor colour explains",
    "effective rank": "directions in which features vary",
    "ARI with parts": f"of {SEGMENTS} clusters of all scenes together",
}
"""Panels of every site and timestep, in words."""

ALIKE: Final = (
    ("probe accuracy", "its control"),
    ("position", "colour", "semantics", "semantics only"),
)
"""Panels that share one colour scale."""

COMPARED: Final = 281
"""Timestep of the figure of CKA."""


def benchmark(task: Task) -> None:
    """Make the atlas of a model, on validation scenes."""
    seeds = ATLAS_SEEDS[: task.scenes]
    begun = time.perf_counter()
    found = measured(task.model, seeds)
    minutes = (time.perf_counter() - begun) / 60
    table = _table(found)
    chance = float(found["probe_chance"].mean())
    text = f"""# What the model's layers know, and when

{len(seeds)} validation scenes from seed {seeds[0]}, inverted, at {len(TIMESTEPS)} of 50 timesteps;
{found.sizes["site"]} sites: the outputs of all blocks and transformers, and the queries that the
paper reads. Model weights {task.model.weights}. Made by `make benchmark-atlas` in
{minutes:.0f} minutes with {torch.get_num_threads()} threads.

{reports.bullets([f"**{name}**: {words}." for name, words in PANELS.items()])}

The most frequent part alone would give a probe {chance:.2f}. Shares of variance are of scenes that
were not fitted, so they can be below 0; position, colour and semantics overlap, as parts have their
places and colours.

![Measures by site and timestep](atlas.png)

## Where each is largest

{reports.to_markdown(_largest(table))}

## How alike layers are

Linear CKA at t = {COMPARED}, debiased; places are averaged to the coarsest grid.

![CKA between sites](atlas-cka.png)

## Over timesteps

Means over sites.

{reports.to_markdown(table.groupby("timestep", sort=False)[list(PANELS)].mean().round(3))}

## Site by site

Means over timesteps.

{reports.to_markdown(table.groupby("site", sort=False)[list(PANELS)].mean().round(3))}
"""
    reports.write(task.out, "atlas", text, table, _chart(table))
    alike = views.atlas(found["cka"].sel({TIMESTEP: COMPARED}), limits=(0, 1))
    reports.draw(task.out / "atlas-cka.png", alike)


def sites(model: StableDiffusion) -> list[str]:
    """Return sites to measure, in the model's order: outputs of blocks and transformers, queries.

    The queries are those of the cross-attentions in the upward block that the paper reads.
    """
    table = model.sites()
    blocks = set(model.sites("blocks").index)
    queries = {each for each in model.sites("semantic").index if each.endswith("attn2:query")}
    outputs = {each for each in table.index if _transformer(each)}
    return [each for each in table.index if each in blocks | queries | outputs]


def _transformer(site: str) -> bool:
    module, _, port = site.partition(":")
    return port == "out" and module.split(".")[-2:-1] == ["attentions"]


def measured(model: StableDiffusion, seeds: range) -> xr.Dataset:
    """Take every measure at every site and timestep.

    Args:
        model: Model to measure.
        seeds: Seeds of the scenes.

    Returns:
        Dataset as `emerdiff_probe.layers.atlas` returns it.
    """
    subjects = [scene(seed) for seed in seeds]
    with tempfile.TemporaryDirectory() as folder:
        run = record(
            model,
            [Photo(each.image) for each in subjects],
            sites(model),
            steps=50,
            timesteps=TIMESTEPS,
            batch=8,
            store=Path(folder) / "run.zarr",
        )
        assert isinstance(run, xr.DataTree)  # no plan was asked for
        return atlas(run, MEASURES, labels=np.stack([each.parts for each in subjects]))


def _table(found: xr.Dataset) -> pd.DataFrame:
    """Return a row for each site and timestep, and a column for each panel."""
    shares = found["explained"]
    columns = {
        "probe accuracy": found["probe_accuracy"],
        "its control": found["probe_control"],
        "position": shares.sel(share="position"),
        "colour": shares.sel(share="colour"),
        "semantics": shares.sel(share="semantics"),
        "semantics only": shares.sel(share="only semantics"),
        "effective rank": found["effective_rank"],
        "ARI with parts": found["labels_ari"],
    }
    rows = [
        {"site": site, TIMESTEP: timestep}
        | {
            name: float(each.sel({"site": site, TIMESTEP: timestep}))
            for name, each in columns.items()
        }
        for site in found["site"].values
        for timestep in found[TIMESTEP].values
    ]
    return pd.DataFrame(rows)


def _largest(table: pd.DataFrame) -> pd.DataFrame:
    """Return where each measure is largest."""
    rows = []
    for name in PANELS:
        best = table.loc[table[name].idxmax()]
        rows.append(
            {
                "measure": name,
                "largest": f"{best[name]:.3f}",
                "site": best["site"],
                TIMESTEP: best[TIMESTEP],
                "mean of all": f"{table[name].mean():.3f}",
            }
        )
    return pd.DataFrame(rows).set_index("measure")


def _chart(table: pd.DataFrame) -> go.Figure:
    """Draw a panel of colours and numbers for each measure, sites from the first to the last."""
    columns = 4
    figure = make_subplots(
        -(-len(PANELS) // columns),
        columns,
        subplot_titles=list(PANELS),
        shared_yaxes=True,
        horizontal_spacing=0.02,
        vertical_spacing=0.07,
    )
    for panel, name in enumerate(PANELS):
        wide = table.pivot_table(index="site", columns=TIMESTEP, values=name, sort=False)
        together = next((list(group) for group in ALIKE if name in group), [name])
        values = table[together].to_numpy()
        figure.add_trace(
            go.Heatmap(
                z=wide.to_numpy(),
                x=[str(each) for each in wide.columns],
                y=[site_text(each) for each in wide.index],
                colorscale=SEQUENTIAL,
                zmin=max(values.min(), 0),
                zmax=values.max(),
                texttemplate="%{z:.1f}" if name == "effective rank" else "%{z:.2f}",
                textfont_size=9,
                showscale=False,
                xgap=1,
                ygap=1,
            ),
            row=panel // columns + 1,
            col=panel % columns + 1,
        )
    figure.update_xaxes(type="category")
    figure.update_xaxes(title=TIMESTEP, row=2)
    figure.update_yaxes(autorange="reversed")
    return figure.update_layout(
        width=1500,
        height=130 + 2 * 21 * table["site"].nunique(),
        template="plotly_white",
        margin={"l": 10, "r": 10, "t": 40, "b": 10},
    )
