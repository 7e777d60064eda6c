"""Does the model draw what a caption says? A small classifier that knows the scenes is asked.

It learns from scenes and their captions which kinds of things are to be seen and in which colours,
and then looks at pictures drawn from prompts. What it reaches on unseen scenes, shown through the
same autoencoder, bounds what it can tell of drawn ones.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Final, NamedTuple

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.probing import sample
from emerdiff_probe.scenes import COLOURS, KINDS, scene

__all__ = [
    "STEPS",
    "Classifier",
    "Examples",
    "draw",
    "examples",
    "follow",
    "judge",
    "train_classifier",
]

COLOUR_NAMES: Final = tuple(COLOURS)
STEPS: Final = 25
"""Of drawing a picture."""

_THING: Final = re.compile(f"({'|'.join(COLOURS)}) ({'|'.join(KINDS)})")


class Classifier(nn.Module):
    """Which kinds of things are in a picture, and in which colour each is: a small conv net."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = [3, width, 2 * width, 4 * width, 4 * width, 4 * width]
        for before, after in itertools.pairwise(channels):
            layers += [
                nn.Conv2d(before, after, 4, stride=2, padding=1),
                nn.GroupNorm(8, after),
                nn.ReLU(),
            ]
        self.body = nn.Sequential(*layers)
        self.kinds = nn.Conv2d(channels[-1], len(KINDS), 1)
        self.colours = nn.Conv2d(channels[-1], len(KINDS) * len(COLOURS), 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of what is to be seen.

        Args:
            pictures: uint8 (batch, 3, 128, 128).

        Returns:
            Logits that a kind is there (batch, kind), and of its colours (batch, kind, colour).
        """
        features = self.body(pictures.float() / 255 - 0.5)
        found = self.kinds(features).flatten(2)
        # A thing is where its kind is most likely; its colour is read off there.
        where = found.softmax(-1)
        colours = self.colours(features).flatten(2).unflatten(1, (len(KINDS), len(COLOURS)))
        return found.logsumexp(-1), torch.einsum("bkcp,bkp->bkc", colours, where)


class Examples(NamedTuple):
    """Scenes as a model's autoencoder shows them, and what their captions say.

    Attributes:
        pictures: uint8 (scene, 3, 128, 128).
        kinds: float32 (scene, kind), 1 where a kind is named.
        colours: int64 (scene, kind), the index of the kind's colour; -1 where the kind is not
            named, or named in several colours.
    """

    pictures: Tensor
    kinds: Tensor
    colours: Tensor


def examples(model: StableDiffusion, seeds: Sequence[int]) -> Examples:
    """Renders scenes and passes them through a model's autoencoder.

    The classifier is to know the traces that the autoencoder leaves, or it would judge those.
    """
    pictures, kinds, colours = [], [], []
    for seed in tqdm(seeds, desc="scenes", unit="scene"):
        each = scene(seed)
        image = torch.from_numpy(each.image / 255.0).float().permute(2, 0, 1)[None]
        pictures.append(_bytes(model.decode(model.encode(image))))
        named: dict[str, set[str]] = {}
        for colour, kind in _THING.findall(each.caption):
            named.setdefault(kind, set()).add(colour)
        kinds.append([float(kind in named) for kind in KINDS])
        single = [sorted(named.get(kind, ())) for kind in KINDS]
        colours.append([COLOUR_NAMES.index(s[0]) if len(s) == 1 else -1 for s in single])
    return Examples(torch.cat(pictures), torch.tensor(kinds), torch.tensor(colours))


def train_classifier(known: Examples, *, epochs: int = 8, seed: int = 0) -> Classifier:
    """Trains on examples, half of the batches mirrored.

    Args:
        known: To learn from; at least 64.
        epochs: How often each is seen.
        seed: Of weights and order.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = Classifier()
        optimizer = torch.optim.AdamW(classifier.parameters(), 2e-3)
        batches = len(known.pictures) // 64
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * batches)
        for _ in tqdm(range(epochs), desc="classifier", unit="epoch"):
            for rows in torch.randperm(len(known.pictures))[: batches * 64].view(batches, 64):
                batch = known.pictures[rows]
                there, colours = classifier(batch.flip(-1) if torch.rand(()) < 0.5 else batch)
                loss = F.binary_cross_entropy_with_logits(there, known.kinds[rows])
                loss = loss + F.cross_entropy(
                    colours.flatten(0, 1), known.colours[rows].flatten(), ignore_index=-1
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return classifier.eval().requires_grad_(False)


def judge(classifier: Classifier, unseen: Examples) -> dict[str, float]:
    """How well a classifier reads captions off pictures that it has not learnt from.

    Returns:
        Shares in [0, 1]: of things named in one colour those ``kind seen``, ``colour seen`` (the
        kind's likeliest colour is the caption's) and ``both seen``; of kinds that are not named
        those ``seen without being named``.
    """
    there, likeliest = _seen(classifier, unseen.pictures)
    named = unseen.colours >= 0
    right = likeliest == unseen.colours
    shares = {
        "kind seen": there[named],
        "colour seen": right[named],
        "both seen": (there & right)[named],
        "seen without being named": there[unseen.kinds == 0],
    }
    return {name: float(values.float().mean()) for name, values in shares.items()}


def follow(
    classifier: Classifier,
    model: StableDiffusion,
    *,
    seeds: Sequence[int],
    guidance: float,
) -> pd.DataFrame:
    """Draws every kind in every colour and asks a classifier what it sees.

    Returns:
        A row for each picture: ``kind``, ``colour``, ``seed``, and whether the classifier sees
        the kind (``kind seen``), finds the colour asked for likeliest (``colour seen``), and both.
    """
    asked = list(itertools.product(seeds, KINDS, COLOUR_NAMES))
    rows = []
    for seed, kind, colour in tqdm(asked, desc="drawing", unit="picture"):
        prompt = f"{'an' if colour == 'orange' else 'a'} {colour} {kind}"
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


def draw(model: StableDiffusion, prompt: str, *, seed: int, guidance: float) -> Tensor:
    """One picture from a prompt: uint8 (1, 3, y, x)."""
    side = model.image_size
    condition = model.condition(prompt, guidance)
    *_, last = sample(model, condition, steps=STEPS, seed=seed, height=side, width=side)
    return _bytes(model.decode(last.next_latents))


def _seen(classifier: Classifier, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Whether each kind is there, and the index of its likeliest colour: (batch, kind) both."""
    parts = [classifier(batch) for batch in pictures.split(64)]
    there, colours = (torch.cat(each) for each in zip(*parts, strict=True))
    return there > 0, colours.argmax(-1)


def _bytes(decoded: Tensor) -> Tensor:
    return (decoded.clamp(0, 1) * 255).round().to(torch.uint8).cpu()
