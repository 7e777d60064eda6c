"""Small recordings of random values, made without a model."""

import numpy as np
import xarray as xr

from emerdiff_probe import schema
from emerdiff_probe.sites import Site
from emerdiff_probe.store import IMAGE, LATENTS, Leaf, Plan, leaf_path
from emerdiff_probe.store.summary import LAYOUT

LAYER = "up_blocks.0.attentions.0.transformer_blocks.0.attn2"
SITES = {
    "conv_in:out": (("y", "x", "channel"), (16, 16, 3)),
    "mid_block:out": (("y", "x", "channel"), (4, 4, 5)),
    f"{LAYER}:key": (("token", "head", "channel"), (6, 2, 3)),
    f"{LAYER}:query": (("y", "x", "head", "channel"), (8, 8, 2, 3)),
}


def small_plan(timesteps=4, samples=2):
    leaves = [
        Leaf(leaf_path(Site.parse(name)), dims, shape, "float32")
        for name, (dims, shape) in SITES.items()
    ]
    leaves += [
        Leaf(LATENTS, ("y", "x", "channel"), (16, 16, 2), "float32", guided=False),
        Leaf(IMAGE, ("y", "x", "rgb"), (32, 32, 3), "uint8", guided=False, timed=False),
    ]
    about = [{"prompt": "ab"[i % 2], "seed": i, "source": "prompt"} for i in range(samples)]
    times = tuple(range(timesteps * 20 - 19, 0, -20))
    return Plan(
        leaves=tuple(leaves),
        samples=tuple(about),
        guidance=("uncond", "cond"),
        timesteps=times,
        steps=tuple(range(timesteps)),
        tokens=np.full((samples, 2, 6), "word"),
        size=(32, 32),
        config={
            "sites": list(SITES),
            "sources": {str(i): each for i, each in enumerate(about)},
            "timesteps": list(times),
        },
        about={"model": {"name": "none"}, "versions": schema.package_versions()},
    )


def filled(sink, blocks=None):
    """Gives a sink random values, the same for equal plans: all of them, or so many blocks."""
    try:
        _fill(sink, blocks)
    finally:
        sink.close()
    return sink


def _fill(sink, blocks):
    plan = sink.plan
    for sample in range(len(plan.samples)):
        samples = slice(sample, sample + 1)
        done, _ = sink.begun(samples)
        for number, block in list(enumerate(plan.blocks))[done:blocks]:
            random = np.random.default_rng([sample, number])
            values = {
                leaf.path: random.random(
                    (*plan.leading(leaf, 1, block.stop - block.start), *leaf.shape), np.float32
                )
                for leaf in plan.leaves
                if leaf.timed
            }
            latents = next(leaf for leaf in plan.leaves if leaf.path == LATENTS)
            following = np.full((1, *latents.shape), 1 + sample + 10 * number, np.float32)
            sink.write(samples, number, values, following)
        if blocks is None and not sink.finished(samples):
            picture = np.random.default_rng(sample).integers(0, 255, (1, 32, 32, 3))
            sink.finish(samples, picture.astype(np.uint8))


def equal(one, other):
    """See that two recordings are equal to the last bit, labels and all but how they are cut."""
    assert {leaf.path for leaf in one.leaves} == {leaf.path for leaf in other.leaves}
    for leaf in one.leaves:
        xr.testing.assert_identical(leaf["value"].load(), other[leaf.path]["value"].load())
    roots = [tree.to_dataset().load() for tree in (one, other)]
    for root in roots:
        root.attrs.pop(LAYOUT, None)
    xr.testing.assert_identical(*roots)
