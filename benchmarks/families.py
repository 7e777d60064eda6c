"""Which families of models can do what: each is tried on a small pipeline of random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

import emerdiff_probe as ep
from benchmarks.task import Task
from emerdiff_probe.emerdiff import ENGINES
from emerdiff_probe.errors import ModelError, ProbeError
from emerdiff_probe.evaluation import reports
from emerdiff_probe.interventions import attention_kept
from emerdiff_probe.models.arguments import default_latents
from emerdiff_probe.models.catalogue import catalogue, chosen
from emerdiff_probe.models.layouts import layout_named, layout_of, network_of
from emerdiff_probe.paths import made_at_once
from emerdiff_probe.sites import Site
from tests.checkpoints import stable_diffusion, stable_diffusion_xl
from tests.families import FAMILIES, PROBED, draw, unconditional

__all__ = ["CAPABILITIES", "PIPELINES", "benchmark", "table"]

PIPELINES: Final[Mapping[str, Callable[[], Any]]] = {
    "Stable Diffusion v1": lambda: stable_diffusion("v1"),
    "Stable Diffusion v2": lambda: stable_diffusion("v2"),
    "Stable Diffusion XL": stable_diffusion_xl,
    "DDPM (UNet2DModel)": unconditional,
    "PixArt": FAMILIES["pixart"],
    "Stable Diffusion 3.5": FAMILIES["stable-diffusion-3"],
    "Flux.1": FAMILIES["flux"],
    "DiT": PROBED["dit"],
    "AuraFlow": FAMILIES["auraflow"],
    "Sana": FAMILIES["sana"],
}
"""Makers of small pipelines, in the layouts of published models."""

_REFUSED: Final = (
    "StableCascadeUNet",
    "WanTransformer3DModel",
    "UNet3DConditionModel",
    "StableAudioDiTModel",
    "PriorTransformer",
    "QwenImageTransformer2DModel",
    "Flux2Transformer2DModel",
)
"""Classes for which it is said how they are refused."""

WORKS: Final = "works"


class Wrong(Exception):
    """Something went another way than it should, and nothing said so."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A small pipeline, and a picture that it draws.

    Attributes:
        pipeline: The pipeline.
        block: A block with a site of its own.
    """

    pipeline: Any
    block: str

    @classmethod
    def of(cls, pipeline: Any) -> Subject:
        """Return what is tried, with the block in the middle of it."""
        pipeline.set_progress_bar_config(disable=True)
        network = network_of(pipeline)
        table = catalogue(network, default_latents(network), 77)
        blocks = chosen(table, "blocks").index
        return cls(pipeline, Site.parse(blocks[len(blocks) // 2]).path)

    def draw(self, prompt: str = "a red house") -> NDArray[np.float32]:
        """Return a picture, always of the same noise."""
        return draw(self.pipeline, prompt, 128, 128)

    @cached_property
    def run(self) -> ep.Run:
        """A short run of the pipeline as a model."""
        return ep.generate(
            self.pipeline, "a red house", steps=4, height=128, width=128, progress=False
        )


def _expect(true: bool, what: str) -> None:
    if not true:
        raise Wrong(what)


def _probe(subject: Subject) -> None:
    picture, seen = subject.draw(), list[Any]()
    module = network_of(subject.pipeline).get_submodule(subject.block)
    handle = module.register_forward_hook(lambda _m, _i, output: seen.append(output))
    with ep.probe(subject.pipeline, "*", dtype="float32") as recorder:
        _expect(np.array_equal(subject.draw(), picture), "a probe changes the picture")
    handle.remove()
    values = ep.site(recorder.tree, subject.block).isel(timestep=0)
    found, places = values.values.ravel(), values.sizes["y"] * values.sizes["x"]
    outputs = seen[0] if isinstance(seen[0], tuple) else (seen[0],)
    # Maps have their channels first, and some blocks the text in the same tensor.
    own = [each.movedim(1, -1) if each.ndim == 4 else each for each in outputs]
    own += [part for each in own for part in (each[:, :places], each[:, -places:])]
    same = (np.array_equal(each.numpy().ravel(), found) for each in own)
    _expect(any(same), "a recording is not what a hook sees")


def _attention(subject: Subject) -> None:
    with ep.probe(subject.pipeline, "*:query, *:key, *:value") as recorder:
        subject.draw()
    _expect(len(recorder.tree.leaves) > 3, "no attention was recorded")


def _intervene(subject: Subject) -> None:
    picture = subject.draw()
    with ep.probe(subject.pipeline, subject.block, dtype="float32") as recorder:
        subject.draw()
    own = ep.site(recorder.tree, subject.block)
    with ep.intervene(subject.pipeline, ep.Replace(subject.block, own)):
        _expect(np.array_equal(subject.draw(), picture), "own values change the picture")
    with ep.intervene(subject.pipeline, ep.Ablate(subject.block)):
        _expect(not np.array_equal(subject.draw(), picture), "an ablation changes nothing")


def _inject(subject: Subject) -> None:
    picture = subject.draw()
    with attention_kept(subject.pipeline) as own:
        subject.draw()
    with attention_kept(subject.pipeline) as others:
        subject.draw("a tree beside a blue lake")
    with ep.intervene(subject.pipeline, ep.InjectAttention(own)):
        given = subject.draw()
    _expect(np.allclose(given, picture, atol=1e-5), "own products change the picture")
    with ep.intervene(subject.pipeline, ep.InjectAttention(others)):
        _expect(not np.array_equal(subject.draw(), given), "other products change nothing")


def _load(subject: Subject) -> None:
    model = ep.load(subject.pipeline)
    latents = torch.randn(model.latent_shape(128, 128), generator=torch.Generator().manual_seed(0))
    predicted = model.predict(latents, 281, model.condition("a red house"))
    _expect(bool(predicted.isfinite().all()), "a prediction is not finite")


def _record(subject: Subject) -> None:
    run = subject.run
    tree = run.record(subject.block, dtype="float32", progress=False)
    assert isinstance(tree, xr.DataTree)  # no plan was asked for
    values = ep.site(tree, subject.block)
    back = run.replay(ep.Replace(subject.block, values), progress=False)
    _expect(np.array_equal(back.picture, run.picture), "own values change a run")


def _segment(engine: str) -> Callable[[Subject], None]:
    def segment(subject: Subject) -> None:
        difference = _difference(subject, engine)
        still = _difference(subject, engine, strength=1e-6)
        _expect(bool(difference.max() > 100 * still.max()), "no pixel is moved")
        if engine == "shared":
            literal = _difference(subject, "literal")
            same = bool(np.abs(difference - literal).max() < 1e-3 * literal.max())
            _expect(same, "the engines 'shared' and 'literal' differ")

    return segment


def _difference(subject: Subject, engine: str, **settings: Any) -> NDArray[np.float32]:
    settings = _settings(subject) | {"space": "latent"} | settings
    found = subject.run.segment(masks=3, engine=engine, progress=False, **settings)
    values: NDArray[np.float32] = found["difference"].values
    return values


def _respond(subject: Subject) -> None:
    found = subject.run.respond(masks=3, progress=False, dtype="float32", **_settings(subject))
    _expect(bool(np.abs(found["response"]).max() > 1e-7), "no pixel answers")


def _sensitivity(subject: Subject) -> None:
    """Compare a derivative with the answer to a small shift."""
    settings = _settings(subject) | {"strength": 0.5}
    weights = np.zeros((1, 3, 128, 128), np.float32)
    weights[0, 1, 40:60, 70:90] = 1
    found = subject.run.sensitivity(weights, progress=False, **settings).values[0]
    row, column = np.unravel_index(np.abs(found).argmax(), found.shape)
    mask = np.zeros((1, *found.shape), np.float32)
    mask[0, row, column] = 1
    response = subject.run.respond(
        masks=mask, engine="literal", progress=False, dtype="float32", **settings
    )["response"]
    moved = float((response.values[0] * weights[0]).sum())
    expected = float(found[row, column])
    _expect(abs(moved - expected) < 0.1 * abs(expected), f"{expected:.3g} is not {moved:.3g}")


def _settings(subject: Subject) -> dict[str, Any]:
    """Timesteps of the short run's grid; those of transformers follow a rule."""
    if not layout_of(network_of(subject.pipeline)).is_unet:
        return {"strength": 10.0}
    return {"modulation_timestep": 251, "short_steps": 1}


CAPABILITIES: Final[Mapping[str, Callable[[Subject], None]]] = {
    "probe": _probe,
    "attention": _attention,
    "intervene": _intervene,
    "inject": _inject,
    "load": _load,
    "record": _record,
    **{f"segment, {engine}": _segment(engine) for engine in ENGINES},
    "respond": _respond,
    "sensitivity": _sensitivity,
}
"""Checks to try, each with its controls."""


def tried(subject: Subject, capability: str) -> str:
    """Return whether a capability works, or why not in a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            CAPABILITIES[capability](subject)
    except ProbeError as error:
        return str(error).splitlines()[0]
    except Wrong as error:
        return f"WRONG: {error}"
    return WORKS


def table(pipelines: Mapping[str, Callable[[], Any]] = PIPELINES) -> pd.DataFrame:
    """Return what works, family by capability: "works", or a sentence."""
    rows = {}
    for name, make in tqdm(pipelines.items(), desc="families", unit="family"):
        subject = Subject.of(make())
        rows[name] = {capability: tried(subject, capability) for capability in CAPABILITIES}
    return pd.DataFrame.from_dict(rows, orient="index")


def refused() -> dict[str, str]:
    """Return how classes are refused, by name."""
    found = {}
    for name in _REFUSED:
        try:
            layout_named(name)
        except ModelError as error:
            found[name] = str(error).partition(". Supported")[0]
    return found


def benchmark(task: Task) -> None:
    """Measure what each family can do."""
    scores = table()
    sentences = list(dict.fromkeys(each for each in scores.to_numpy().ravel() if each != WORKS))
    short = scores.map(lambda each: each if each == WORKS else f"no ({sentences.index(each) + 1})")
    notes = "\n".join(f"{number}. {each}" for number, each in enumerate(sentences, 1))
    text = f"""# What works in which family of models

Each cell was tried on a small pipeline of random weights in the family's own layout: blocks,
streams, packing, text encoders, schedule and the pipeline's own call. Made by
`python -m benchmarks families`.

{reports.to_markdown(short)}

{notes}

What is checked:

- *probe*: all sites are recorded; the picture stays the same to the last bit; the recording is
  what a plain forward hook sees.
- *attention*: queries, keys and values of all attentions are recorded.
- *intervene*: a block's own recorded values, put back, change no bit; its ablation changes the
  picture.
- *inject*: the run's own queries and keys change nothing (to 1e-5); those of another prompt do.
- *load*: the pipeline is taken as a model, and its prediction is finite.
- *record*: a run is recorded, and replayed with its own values to the same picture.
- *segment*, *respond*: something is moved, by more than rounding, at the sites of
  `EmerDiffConfig.for_model`. Those of transformers follow a rule and are untried on published
  weights. The engine "shared" gives what "literal" gives, to a thousandth.
- *sensitivity*: the derivative by the shift of a location is what the literal engine answers to a
  small one, within a tenth.

Weights are random, so this says what can be computed, and nothing of what a published model knows.

## Refused by name

{reports.bullets([f"`{name}`: {reason}" for name, reason in refused().items()])}
"""
    with made_at_once(task.out / "families.md", replace=True) as new:
        new.write_text(text)
