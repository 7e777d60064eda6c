"""The small world: the same on every machine, labelled exactly, and not solved by colour."""

import hashlib
import itertools
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from emerdiff_probe import scenes
from emerdiff_probe.errors import InputError
from emerdiff_probe.scenes.canvas import Canvas
from emerdiff_probe.scenes.captions import MOST_WORDS
from emerdiff_probe.scenes.dice import Dice, smooth_noise
from emerdiff_probe.scenes.materials import PATTERNS, SURFACES, Palette, Place
from emerdiff_probe.scenes.shapes import ellipse, polygon, union, without

# Of picture, both labels, instances and caption. They change only with the world itself, and with
# it every number that was measured on it.
HASHES = {
    (0, False): "2b1c5a621148ef81",
    (7, False): "416b06bc10cd29c3",
    (1_000_000, False): "f3d77485a0aff834",
    (1_100_000, True): "12024a0cf9ba962f",
    (10**30, False): "a5ed322261996dbf",
}


def digest(scene):
    state = hashlib.blake2b(digest_size=8)
    for array in (scene.image, scene.parts, scene.objects, scene.instances):
        state.update(array.tobytes())
    state.update(scene.caption.encode())
    return state.hexdigest()


@pytest.fixture(scope="module")
def many():
    return [scenes.scene(seed) for seed in range(200)]


@pytest.mark.parametrize(("seed", "dissociation"), HASHES)
def test_a_seed_gives_the_same_bits_everywhere(seed, dissociation):
    made = scenes.scene(seed, dissociation=dissociation)
    assert digest(made) == HASHES[seed, dissociation]
    assert made.image.dtype == np.uint8
    assert made.image.shape == (128, 128, 3)


def test_seeds_and_subsets_differ():
    digests = {
        digest(scenes.scene(seed, dissociation=subset))
        for seed, subset in itertools.product(range(20), (False, True))
    }
    assert len(digests) == 40


def test_splits_are_disjoint_and_every_later_seed_is_for_testing():
    assert not set(scenes.TRAIN) & set(scenes.VALIDATION)
    assert scenes.scene(0).split == scenes.split_of(999_999) == "train"
    assert scenes.split_of(1_000_000) == scenes.split_of(1_099_999) == "validation"
    assert scenes.split_of(1_100_000) == scenes.scene(10**30).split == "test"


@pytest.mark.parametrize("seed", [-1, 1.5, "3", None])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(InputError, match="seed is"):
        scenes.scene(seed)


def test_numpy_integers_are_seeds():
    assert digest(scenes.scene(np.int64(7))) == digest(scenes.scene(7))


def test_all_classes_occur_and_objects_follow_from_parts(many):
    assert len(scenes.OBJECTS) >= 7
    assert len(scenes.PARTS) >= 18
    assert {part for made in many for part in np.unique(made.parts)} == set(
        range(len(scenes.PARTS))
    )
    for made in many:
        assert np.array_equal(made.objects, scenes.OBJECT_OF_PART[made.parts])


def test_instances_hold_whole_things(many):
    things = {"house", "tree", "car", "person", "animal", "boat"}
    for made in many:
        of_things = np.isin(made.objects, [scenes.OBJECTS.index(name) for name in things])
        assert np.array_equal(made.instances > 0, of_things)
        for number in range(1, made.instances.max() + 1):
            assert len(np.unique(made.objects[made.instances == number])) <= 1


def test_captions_use_the_known_words_and_name_what_is_there(many):
    for made in many:
        words = made.caption.split()
        assert set(words) <= set(scenes.CAPTION_WORDS)
        present = {scenes.OBJECTS[index] for index in np.unique(made.objects)}
        for word in {"house", "tree", "car", "person", "boat", "road", "fence", "sun"} & set(words):
            assert word in present
        if {"dog", "horse", "cow"} & set(words):
            assert "animal" in present


def test_captions_fit_the_text_encoder_and_most_are_long(many):
    lengths = [len(made.caption.split()) for made in many]
    assert max(lengths) <= MOST_WORDS
    assert 25 < np.median(lengths) < 50
    assert 0.04 < np.mean([length < 12 for length in lengths]) < 0.25


def test_captions_say_truly_where_a_thing_is(many):
    """A caption that names one place is of one thing; its pixels are there."""
    told = 0
    for made in many:
        places = [word for word in made.caption.split() if word in {"left", "middle", "right"}]
        if len(places) == 1 and made.instances.max() == 1:
            column = np.nonzero(made.instances)[1].mean()
            assert {"left": column < 49, "middle": 47 < column < 81, "right": column > 79}[
                places[0]
            ]
            told += 1
    assert told > 10


def test_captions_tell_the_colours_of_surfaces(many):
    """The colour word before "grass" is that of most of the grass, up to light and shade."""
    hits = []
    for made in many:
        words = made.caption.split()
        if "grass" not in words or made.caption.endswith("night"):
            continue
        name = words[words.index("grass") - 1]
        pixels = made.image[made.parts == scenes.PARTS.index("grass")].astype(int)
        distances = {n: np.abs(pixels - c).sum(1).min() for n, c in scenes.COLOURS.items()}
        hits.append(distances[name] < 90)
    assert len(hits) > 40
    assert np.mean(hits) > 0.9


def test_every_part_is_of_a_material_of_its_own():
    assert set(SURFACES) == set(scenes.PARTS)
    assert len({surface.pattern for surface in SURFACES.values()}) == len(scenes.PARTS)
    assert {surface.pattern for surface in SURFACES.values()} == set(PATTERNS)


@pytest.mark.parametrize("part", SURFACES)
def test_both_tones_of_a_material_have_a_fair_share(part):
    """Else colour alone would find the surface."""
    size = {"house door": (24, 10), "house window": (14, 12)}.get(part, (40, 40))
    dice = Dice(1)
    surface, shares = SURFACES[part], []
    for _ in range(8):
        x, y = np.arange(size[1], dtype=np.int32)[None], np.arange(size[0], dtype=np.int32)[:, None]
        place = Place(x, y, size[1], size[0], smooth_noise(dice, 128, 10)[: size[0], : size[1]])
        period = dice.between(*surface.period)
        share = PATTERNS[surface.pattern](place, period, dice.between(0, 127))
        assert share.shape == size
        assert share.min() >= 0
        assert share.max() <= 256
        shares.append(share.mean() / 256)
    assert 0.15 < np.mean(shares) < 0.85


def test_colours_hint_but_do_not_tell(many):
    """Grass is green more often than cars are, and has every other typical colour too."""
    words = Counter(
        (second, first)
        for made in many
        for first, second in itertools.pairwise(made.caption.split())
        if first in scenes.COLOURS and second in {"grass", "car"}
    )
    grass = {colour: count for (noun, colour), count in words.items() if noun == "grass"}
    cars = {colour: count for (noun, colour), count in words.items() if noun == "car"}
    assert 0.2 < grass["green"] / sum(grass.values()) < 0.7
    assert cars["green"] / sum(cars.values()) < grass["green"] / sum(grass.values())
    assert len(grass) > 5


def test_place_says_little(many):
    """The horizon is anywhere from high to low, and things are anywhere along the ground."""
    ground = [np.nonzero((made.parts == scenes.PARTS.index("grass")).any(1))[0] for made in many]
    tops = np.array([rows.min() for rows in ground if len(rows)])
    assert np.quantile(tops, 0.1) < 40
    assert np.quantile(tops, 0.9) > 80
    columns = np.array([np.nonzero(made.instances)[1].mean() for made in many])
    assert columns.std() > 20


def edge_statistics(made):
    """Share of label edges without a colour edge, and of colour edges without a label edge."""
    colour = made.image.astype(int)
    colour_step = np.abs(np.diff(colour, axis=1)).sum(-1) > 48
    label_step = np.diff(made.parts.astype(int), axis=1) != 0
    return (~colour_step & label_step).sum() / label_step.sum(), (
        colour_step & ~label_step
    ).sum() / colour_step.sum()


def test_edges_of_colour_are_not_edges_of_labels(many):
    hidden, false = np.mean([edge_statistics(made) for made in many[:50]], axis=0)
    assert hidden > 0.05
    assert false > 0.7
    extreme = [edge_statistics(scenes.scene(seed, dissociation=True)) for seed in range(50)]
    more_hidden, more_false = np.mean(extreme, axis=0)
    assert more_hidden > hidden + 0.1
    assert more_false > 0.8


def bits_of(shape, size=24):
    x, y = np.arange(size)[None] * 2 + 1, np.arange(size)[:, None] * 2 + 1
    return shape.inside(x, y)


def test_an_ellipse_holds_the_centres_within():
    bits = bits_of(ellipse(11, 9, 8, 5))
    for y, x in itertools.product(range(24), repeat=2):
        across, down = Fraction(2 * x + 1 - 22, 16), Fraction(2 * y + 1 - 18, 10)
        assert bits[y, x] == (across**2 + down**2 <= 1)


def test_a_polygon_holds_the_centres_within():
    bits = bits_of(polygon((2, 3), (20, 8), (9, 21)))
    edges = [((2, 3), (20, 8)), ((20, 8), (9, 21)), ((9, 21), (2, 3))]
    for y, x in itertools.product(range(24), repeat=2):
        px, py = x + Fraction(1, 2), y + Fraction(1, 2)
        sides = [(bx - ax) * (py - ay) - (by - ay) * (px - ax) for (ax, ay), (bx, by) in edges]
        if 0 not in sides:
            assert bits[y, x] == all(side > 0 for side in sides)


def test_unions_and_holes():
    disc, small = ellipse(12, 12, 8, 8), ellipse(12, 12, 4, 4)
    ring = without(disc, small)
    assert np.array_equal(bits_of(ring) | bits_of(small), bits_of(disc))
    assert not (bits_of(ring) & bits_of(small)).any()
    assert np.array_equal(bits_of(union(ring, small)), bits_of(disc))


def test_painting_outside_the_canvas_changes_nothing():
    dice = Dice(3)
    canvas = Canvas(dice)
    canvas.paint(ellipse(-50, 20, 10, 10), "sun", Palette(dice).material("sun"))
    assert not canvas.colours.any()
    assert not canvas.parts.any()


def test_dice_are_fair_and_bounded():
    dice = Dice(1, 2)
    throws = [dice.between(-2, 3) for _ in range(6000)]
    counts = np.bincount(np.array(throws) + 2, minlength=6)
    assert counts.sum() == 6000
    assert (np.abs(counts - 1000) < 150).all()
    assert sorted(dice.sample("abc", 3)) == ["a", "b", "c"]


def test_noise_is_smooth_and_spans_its_range():
    field = smooth_noise(Dice(5), 128, 8)
    assert field.min() >= 0
    assert field.max() <= 255
    assert np.abs(np.diff(field, axis=0)).max() <= 255 // 8 + 2
    assert field.std() > 30
