"""Folders of small pictures, and recordings of them by one process."""

from PIL import Image

import emerdiff_probe as ep
from tests.store.recordings import equal

SETTINGS = {"sites": "mid_block", "steps": 2}


def folder(path, count=4, bad=()):
    """Make a folder of scenes, 32 pixels wide, and of files that are none."""
    path.mkdir()
    for number in range(count):
        image = Image.fromarray(ep.scenes.scene(number).image)
        image.resize((32, 32)).save(path / f"{number}.png")
    for name in bad:
        (path / name).write_text("no image")
    return path


def check_equal(store, pictures, model, **settings):
    """See that a store has what one process records of the same pictures, to the last bit."""
    files = sorted(each for each in pictures.iterdir() if each.read_bytes()[:1] != b"n")
    expected = ep.record(model, files, progress=False, **{**SETTINGS, **settings})
    found = ep.open(store)
    found.attrs["model"] = expected.attrs["model"]  # compared up to rounding when it is resumed
    equal(found, expected)
