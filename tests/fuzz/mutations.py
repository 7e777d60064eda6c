"""Random damage to bytes and to JSON, the same for equal seeds."""

import copy
import random

VALUES = [None, True, -1, 0, 3, 2**31, 10**10, 1e300, float("nan"), "", "\0", "\x1b[2J", "../..",
          "pickle", [], [1], [[]], {}, {"name": "pickle"}, "a" * 300, "\ud800"]  # fmt: skip


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return bytes of which some were flipped, cut out, doubled or replaced."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(found) + 1)
        match chance.randrange(5):
            case 0 if place < len(found):
                found[place] ^= 1 << chance.randrange(8)
            case 1:
                del found[place : place + chance.randint(1, 64)]
            case 2:
                found[place:place] = chance.randbytes(chance.randint(1, 16))
            case 3:
                found[place : place + 4] = chance.choice([b"\xff" * 4, bytes(4), b"\x7f" * 4])
            case _:
                del found[place:]
    return bytes(found)


def changed(tree, chance: random.Random):
    """Return a JSON value of which one part is another."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree))
    where, key = chance.choice(places)
    if chance.random() < 0.2:
        del where[key]
    else:
        where[key] = chance.choice(VALUES)
    return tree


def _places(tree):
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree))
    for key in keys:
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _places(tree[key])
