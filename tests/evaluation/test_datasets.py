"""Readers of data sets, on tiny trees of the published layouts."""

import hashlib
import os

import numpy as np
import pytest
from PIL import Image

from emerdiff_probe import scenes
from emerdiff_probe.errors import InputError
from emerdiff_probe.evaluation import cocostuff
from emerdiff_probe.evaluation.datasets import (
    IGNORE,
    ade20k,
    coco_stuff,
    plain_folder,
    scene_dataset,
)

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (16, 24, 3), dtype=np.uint8)


def columns(values):
    """Six labels as bands of 4 x 16 pixels."""
    return np.tile(np.repeat(values, 4), (16, 1))


def save(path, array, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array, np.uint8))
    image.save(path, **more)


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "images/b.png", PICTURE)
    save(tmp_path / "images/a.jpg", PICTURE)
    (tmp_path / "images/notes.txt").write_text("no picture")
    (tmp_path / "classes.csv").write_text("name,index\nsky,7\nhouse,3\n")
    for key in "ab":
        save(tmp_path / f"labels/{key}.png", columns([7, 7, 3, 3, 255, 0]))
    return tmp_path


class TestScenes:
    def test_are_the_scenes(self):
        parts, objects = scene_dataset([3, 5]), scene_dataset([5], "objects", dissociation=True)
        assert parts.keys == ("3", "5")
        assert np.array_equal(parts.load("5").truth, scenes.scene(5).parts)
        made = scenes.scene(5, dissociation=True)
        assert np.array_equal(objects.load("5").truth, made.objects)
        assert np.array_equal(objects.load("5").picture, made.image)
        assert objects.classes == scenes.OBJECTS
        assert parts.name != objects.name
        assert parts.problems() == {}
        with pytest.raises(InputError, match="scenes have no level 'things'"):
            scene_dataset([1], "things")


class TestPlainFolder:
    @pytest.mark.parametrize("part", ["images/b.png", "labels/b.png"])
    @pytest.mark.parametrize("error", [ValueError, SyntaxError, RuntimeError, MemoryError, OSError])
    def test_a_damaged_file_costs_its_picture(self, folder, monkeypatch, part, error):
        """Damaged files lead decoders into exceptions of any kind, early or late."""
        find, damaged = Image.open, folder / part

        def late(path, *more):
            image = find(path, *more)
            if path == damaged:
                monkeypatch.setattr(image, "load", lambda: (_ for _ in ()).throw(error("broken")))
            return image

        def early(path, *more):
            if path == damaged:
                raise error("broken")
            return find(path, *more)

        found = plain_folder(folder)
        monkeypatch.setattr(Image, "open", late)
        assert found.load("a").truth.shape == (16, 24)
        with pytest.raises(InputError, match=part.partition("/")[2]):
            found.load("b")
        monkeypatch.setattr(Image, "open", early)
        assert list(found.problems()) == ["b"]
        assert "broken" in found.problems()["b"]

    def test_two_pictures_for_one_label_map_are_refused(self, folder):
        save(folder / "images/b.jpg", PICTURE)
        with pytest.raises(InputError, match=r"two pictures for .*'b\.png': b\.jpg and b\.png"):
            plain_folder(folder)

    def test_a_pipe_is_not_waited_for(self, folder):
        (folder / "images/b.png").unlink()
        os.mkfifo(folder / "images/b.png")
        assert "is not a file" in plain_folder(folder).problems()["b"]

    def test_a_table_in_latin_1_is_told(self, folder):
        (folder / "classes.csv").write_bytes("name,index\nm\xfcll,7\n".encode("latin-1"))
        with pytest.raises(InputError, match=r"classes\.csv' cannot be read .*in UTF-8"):
            plain_folder(folder)
        # Spreadsheets begin a text with a mark.
        (folder / "classes.csv").write_text("name,index\nm\xfcll,7\n", "utf-8-sig")
        assert plain_folder(folder).classes == ("m\xfcll",)

    def test_indexed_labels(self, folder):
        found = plain_folder(folder)
        assert found.classes == ("sky", "house")
        assert found.keys == ("a", "b")
        assert found.first(1).keys == ("a",)
        example = found.load("b")
        assert np.array_equal(example.picture, PICTURE)
        assert example.truth[0, ::4].tolist() == [0, 0, 1, 1, IGNORE, IGNORE]

    def test_palettes_are_read_as_indices(self, folder):
        image = Image.fromarray(columns([7, 3, 7, 3, 3, 3]).astype(np.uint8), "P")
        image.putpalette(RNG.integers(0, 256, 768).tolist())
        image.save(folder / "labels/a.png")
        assert plain_folder(folder).load("a").truth[0, ::4].tolist() == [0, 1, 0, 1, 1, 1]

    def test_coloured_labels(self, folder):
        (folder / "classes.csv").write_text(
            "name,red,green,blue\nsky,250,0,1\nhouse,0,2,0\ntree,0,0,9\n"
        )
        colours = np.array([[250, 0, 1], [0, 0, 9], [0, 2, 0], [0, 0, 8], [251, 0, 1], [0, 0, 0]])
        save(folder / "labels/a.png", np.tile(np.repeat(colours, 4, 0), (16, 1, 1)))
        truth = plain_folder(folder).load("a").truth
        assert truth[0, ::4].tolist() == [0, 2, 1, IGNORE, IGNORE, IGNORE]

    def test_colours_without_a_table_are_refused(self, folder):
        save(folder / "labels/a.png", PICTURE)
        with pytest.raises(InputError, match="mode RGB, not one value for each pixel"):
            plain_folder(folder).load("a")

    def test_problems_are_found_without_reading_pixels(self, folder):
        (folder / "labels/a.png").unlink()
        save(folder / "labels/b.png", np.zeros((20, 24)))
        save(folder / "images/c.png", PICTURE)
        (folder / "labels/c.png").write_text("no picture")
        found = plain_folder(folder).problems()
        assert found["a"].startswith("no labels")
        assert (
            found["b"] == "the picture has (24, 16) pixels (width, height) and its labels (24, 20)"
        )
        assert "c.png' is not an image" in found["c"]

    def test_turned_photographs_have_the_size_they_are_shown_in(self, folder):
        exif = Image.Exif()
        exif[0x0112] = 6
        save(folder / "images/a.jpg", PICTURE, exif=exif)
        save(folder / "labels/a.png", np.full((24, 16), 3))
        found = plain_folder(folder)
        assert found.problems() == {}
        assert found.load("a").picture.shape[:2] == found.load("a").truth.shape == (24, 16)

    @pytest.mark.parametrize(
        "text",
        ["name\nsky\n", "name,index\nsky,x\n", "name,index\n", "name,index\na,1\nb,1\n",
         "name,index\nsky,-1\n"],
    )  # fmt: skip
    def test_refuses_other_tables(self, folder, text):
        (folder / "classes.csv").write_text(text)
        with pytest.raises(InputError, match="give columns name,index or"):
            plain_folder(folder)

    def test_refuses_what_is_not_there(self, folder, tmp_path):
        (folder / "classes.csv").rename(folder / "names.csv")
        with pytest.raises(InputError, match="with the names of the classes is missing"):
            plain_folder(folder)


class TestAde20k:
    @pytest.fixture
    def root(self, tmp_path):
        save(tmp_path / "images/validation/ADE_val_00000001.jpg", PICTURE)
        save(
            tmp_path / "annotations/validation/ADE_val_00000001.png",
            columns([0, 1, 2, 150, 151, 1]),
        )
        lines = [f"{i}\t0.1\t10\t1\t1\tclass {i}, thing {i}" for i in range(1, 151)]
        text = "\n".join(["Idx\tRatio\tTrain\tVal\tStuff\tName", *lines])
        (tmp_path / "objectInfo150.txt").write_text(text)
        return tmp_path

    def test_classes_count_from_zero_and_other_does_not_count(self, root):
        found = ade20k(root)
        assert found.keys == ("ADE_val_00000001",)
        assert (found.classes[0], found.classes[149]) == ("class 1", "class 150")
        truth = found.load(found.keys[0]).truth
        assert truth[0, ::4].tolist() == [IGNORE, 0, 1, 149, IGNORE, 0]

    def test_refuses_a_part(self, root):
        with pytest.raises(InputError, match="training' with pictures is missing"):
            ade20k(root, "training")
        (root / "objectInfo150.txt").write_text("Idx\tName\n1\twall\n")
        with pytest.raises(InputError, match="names 1 classes, not 150"):
            ade20k(root)


class TestCocoStuff:
    @pytest.fixture(params=["published", "renamed"])
    def root(self, tmp_path, request):
        images, labels = {
            "published": ("val2017", "stuffthingmaps_trainval2017/val2017"),
            "renamed": ("images/val2017", "annotations/val2017"),
        }[request.param]
        for key in ("000000000139", "000000000285"):
            save(tmp_path / images / f"{key}.jpg", PICTURE)
            # person, car, the street sign that nothing is labelled as, banner, wood, unlabelled
            save(
                tmp_path / labels / f"{key}.png",
                columns([0, 2, 11, 91, 181, 255]),
            )
        return tmp_path

    def test_all_classes(self, root):
        found = coco_stuff(root)
        assert len(found.classes) == 171
        truth = found.load("000000000139").truth[0, ::4]
        names = [found.classes[i] if i >= 0 else None for i in truth]
        assert names == ["person", "car", None, "banner", "wood", None]
        assert truth.max() == 170

    def test_groups(self, root):
        found = coco_stuff(root, 27, keys=["000000000285"])
        assert found.keys == ("000000000285",)
        truth = found.load("000000000285").truth[0, ::4]
        names = [found.classes[i] if i >= 0 else None for i in truth]
        assert names == [
            "person", "vehicle", "outdoor", "textile stuff", "solid stuff", None
        ]  # fmt: skip

    def test_refusals(self, root):
        with pytest.raises(InputError, match="classes=80; choose 171, or 27"):
            coco_stuff(root, 80)
        with pytest.raises(InputError, match="has no picture '7'"):
            coco_stuff(root, keys=["7"])
        with pytest.raises(InputError, match="none of these folders"):
            coco_stuff(root, split="train2017")


def test_the_table_of_coco_stuff():
    """Numbers of classes as published (a class's number is its value plus 1)."""
    assert len(cocostuff.NAMES) == 182
    assert len(cocostuff.FINE) == 171
    assert len(cocostuff.GROUPS) == 27
    published = {
        1: "person", 13: "stop sign", 44: "bottle", 62: "chair", 72: "tv", 90: "toothbrush",
        92: "banner", 106: "clouds", 119: "flower", 124: "grass", 149: "road", 155: "sea",
        157: "sky-other", 169: "tree", 177: "wall-wood", 182: "wood",
    }  # fmt: skip
    assert {number: cocostuff.NAMES[number - 1] for number in published} == published
    unused = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
    assert set(range(1, 183)) - set((cocostuff.FINE + 1).tolist()) == unused
    assert set(cocostuff.GROUP_OF) == set(range(27))
    # Compared value by value with the table of STEGO (src/data.py, fine_to_coarse).
    every = "\n".join(cocostuff.GROUPS[group] for group in cocostuff.GROUP_OF)
    assert hashlib.sha256(every.encode()).hexdigest().startswith("647bd14223ef682b")
