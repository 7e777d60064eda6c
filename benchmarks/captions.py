"""Measure whether a model draws what a caption says, as a small classifier sees it.

The classifier learns from scenes, whose truth is known for every pixel: the kind of thing at a
location, and the colour that the caption gives that thing. It then looks at pictures drawn from
prompts. Its accuracy on unseen scenes, shown through the same autoencoder, limits what it can tell
about drawn ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.runs import sample
from emerdiff_probe.scenes import COLOURS, KINDS, NAMED_FROM, Scene, scene

__all__ = [
    "STEPS",
    "Classifier",
    "Examples",
    "draw",
    "examples",
    "follow",
    "judge",
    "prompt_for",
    "train_classifier",
]

COLOUR_NAMES: Final = tuple(COLOURS)
STEPS: Final = 25
"""Number of steps of drawing a picture."""

_BATCH: Final = 16


class Classifier(nn.Module):
    """Classify the kind and colour at each of 32 x 32 locations, by a small U-Net."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        # Halved four times, from 128 to 8 locations a side, and back to 32.
        sizes = (width, 2 * width, 4 * width, 4 * width)
        self.down = nn.ModuleList(
            _layer(before, after, stride=2) for before, after in itertools.pairwise((3, *sizes))
        )
        self.up = nn.ModuleList(
            [_layer(sizes[3] + sizes[2], sizes[2]), _layer(sizes[2] + sizes[1], sizes[1])]
        )
        self.kinds = nn.Conv2d(sizes[1], 1 + len(KINDS), 1)
        self.colours = nn.Conv2d(sizes[1], len(COLOURS), 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of what is visible where.

        Args:
            pictures: Pictures, uint8 (batch, 3, 128, 128).

        Returns:
            Logits of kinds (batch, 1 + kind, 32, 32), those of no thing first, and of colours
            (batch, colour, 32, 32).
        """
        found, seen = pictures.float() / 255 - 0.5, []
        for layer in self.down:
            found = layer(found)
            seen.append(found)
        for layer, finer in zip(self.up, (seen[2], seen[1]), strict=True):
            found = layer(torch.cat([F.interpolate(found, scale_factor=2.0), finer], dim=1))
        return self.kinds(found), self.colours(found)


def _layer(before: int, after: int, stride: int = 1) -> nn.Module:
    convolution = nn.Conv2d(before, after, 2 + stride, stride=stride, padding=1)
    return nn.Sequential(convolution, nn.GroupNorm(8, after), nn.ReLU())


class Examples(NamedTuple):
    """Hold scenes as a model's autoencoder shows them, and what is visible in them.

    Attributes:
        pictures: Pictures, uint8 (scene, 3, 128, 128).
        kinds: Whether each kind is visible, float32 (scene, kind), 1 or 0.
        colours: Index of each kind's colour, int64 (scene, kind); -1 where the kind is not visible,
            or visible in several colours.
        kind_at: Kind at each location, int64 (scene, 32, 32), as 1 + its index; 0 for no thing.
        colour_at: Index of that thing's colour, int64 (scene, 32, 32); -1 for no thing.
    """

    pictures: Tensor
    kinds: Tensor
    colours: Tensor
    kind_at: Tensor
    colour_at: Tensor


def examples(model: StableDiffusion, seeds: Sequence[int]) -> Examples:
    """Render scenes and pass them through a model's autoencoder.

    The classifier must know the traces that the autoencoder leaves, or it would judge those.
    """
    pictures, kinds, colours, places = [], [], [], []
    for seed in tqdm(seeds, desc="scenes", unit="scene"):
        each = scene(seed)
        image = torch.from_numpy(each.image / 255.0).float().permute(2, 0, 1)[None]
        pictures.append(_bytes(model.decode(model.encode(image))))
        named: dict[str, set[str]] = {}
        for thing in each.things:
            named.setdefault(thing.kind, set()).add(thing.colour)
        kinds.append([float(kind in named) for kind in KINDS])
        single = [sorted(named.get(kind, ())) for kind in KINDS]
        colours.append([COLOUR_NAMES.index(s[0]) if len(s) == 1 else -1 for s in single])
        places.append(_places(each))
    kind_at, colour_at = (torch.from_numpy(np.stack(maps)) for maps in zip(*places, strict=True))
    return Examples(
        torch.cat(pictures), torch.tensor(kinds), torch.tensor(colours), kind_at, colour_at
    )


def _places(each: Scene) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return kind and colour at every fourth pixel."""
    kind = np.zeros(each.instances.shape, np.int64)
    colour = np.full(each.instances.shape, -1, np.int64)
    for thing in each.things:
        seen = each.instances == thing.instance
        kind[seen] = 1 + KINDS.index(thing.kind)
        colour[seen] = COLOUR_NAMES.index(thing.colour)
    return kind[2::4, 2::4], colour[2::4, 2::4]


def train_classifier(known: Examples, *, epochs: int = 10, seed: int = 0) -> Classifier:
    """Train on examples, half of the batches mirrored; in bfloat16, as models are trained here.

    Args:
        known: Examples to learn from; at least one batch of 16.
        epochs: Number of times that each is seen.
        seed: Seed of weights and order.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = Classifier()
        # Most locations show no thing.
        weights = torch.ones(1 + len(KINDS))
        weights[0] = 0.5
        optimizer = torch.optim.AdamW(classifier.parameters(), 2e-3)
        batches = len(known.pictures) // _BATCH
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * batches)
        for _ in tqdm(range(epochs), desc="classifier", unit="epoch"):
            order = torch.randperm(len(known.pictures))[: batches * _BATCH]
            for rows in order.view(batches, _BATCH):
                mirrored = [-1] if torch.rand(()) < 0.5 else []
                with torch.autocast("cpu", torch.bfloat16):
                    kinds, colours = classifier(known.pictures[rows].flip(mirrored))
                kind_at = known.kind_at[rows].flip(mirrored)
                colour_at = known.colour_at[rows].flip(mirrored)
                loss = F.cross_entropy(kinds.float(), kind_at, weights)
                loss = loss + F.cross_entropy(colours.float(), colour_at, ignore_index=-1)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return classifier.eval().requires_grad_(False)


def judge(classifier: Classifier, unseen: Examples) -> dict[str, float]:
    """Measure how well a classifier recognises things in pictures outside its training set.

    Returns:
        Shares in [0, 1]. Among kinds that are there in one colour: ``kind seen``, ``colour seen``
        (the most likely colour is the true one) and ``both seen``. Among kinds that are not there:
        ``seen without being there``.
    """
    there, likeliest = _seen(classifier, unseen.pictures)
    named = unseen.colours >= 0
    right = likeliest == unseen.colours
    shares = {
        "kind seen": there[named],
        "colour seen": right[named],
        "both seen": (there & right)[named],
        "seen without being there": there[unseen.kinds == 0],
    }
    return {name: float(values.float().mean()) for name, values in shares.items()}


def follow(
    classifier: Classifier,
    model: StableDiffusion,
    *,
    seeds: Sequence[int],
    guidance: float,
) -> pd.DataFrame:
    """Draw every kind in every colour and ask a classifier what it sees.

    Returns:
        Table with a row for each picture: ``kind``, ``colour``, ``seed``, and whether the
        classifier sees the kind (``kind seen``), finds the requested colour most likely (``colour
        seen``), and both.
    """
    asked = list(itertools.product(seeds, KINDS, COLOUR_NAMES))
    rows = []
    for seed, kind, colour in tqdm(asked, desc="drawing", unit="picture"):
        prompt = prompt_for(kind, colour)
        there, likeliest = _seen(classifier, draw(model, prompt, seed=seed, guidance=guidance))
        number = KINDS.index(kind)
        kind_seen = bool(there[0, number])
        colour_seen = COLOUR_NAMES[int(likeliest[0, number])] == colour
        rows.append(
            {
                "kind": kind,
                "colour": colour,
                "seed": seed,
                "kind seen": kind_seen,
                "colour seen": colour_seen,
                "both seen": kind_seen and colour_seen,
            }
        )
    return pd.DataFrame(rows)


def prompt_for(kind: str, colour: str) -> str:
    """Name one thing as captions do."""
    coloured = f"{'an' if colour == 'orange' else 'a'} {colour}"
    return f"a person in {coloured} shirt" if kind == "person" else f"{coloured} {kind}"


def draw(model: StableDiffusion, prompt: str, *, seed: int, guidance: float) -> Tensor:
    """Draw one picture from a prompt, uint8 (1, 3, y, x)."""
    side = model.image_size
    condition = model.condition(prompt, guidance)
    *_, last = sample(model, condition, steps=STEPS, seed=seed, height=side, width=side)
    return _bytes(model.decode(last.next_latents))


def _seen(classifier: Classifier, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Return whether each kind is there, and its most likely colour's index, both (batch, kind)."""
    there, likeliest = [], []
    for batch in pictures.split(64):
        kinds, colours = classifier(batch)
        places = F.one_hot(kinds.argmax(1), 1 + len(KINDS)).sum((1, 2))[:, 1:]
        there.append(places * 16 >= NAMED_FROM)  # a place stands for 4 x 4 pixels
        votes = torch.einsum("bkyx,bcyx->bkc", kinds.softmax(1)[:, 1:], colours.log_softmax(1))
        likeliest.append(votes.argmax(-1))
    return torch.cat(there), torch.cat(likeliest)


def _bytes(decoded: Tensor) -> Tensor:
    return (decoded.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
