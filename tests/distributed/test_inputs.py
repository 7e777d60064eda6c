"""Inputs of many kinds by their keys; what cannot be read is told when it is its turn."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image

import emerdiff_probe as ep
from emerdiff_probe.distributed import Shard, inputs_of
from emerdiff_probe.errors import ConfigError, InputError
from emerdiff_probe.inputs import Photo, Prompt
from tests.distributed.pictures import folder


def keys(items):
    return [item.key for item in items]


def test_folders_give_their_images_and_say_what_they_leave_out(tmp_path):
    pictures = folder(tmp_path / "pictures", 2)
    folder(pictures / "deep", 1)
    (pictures / "upper.JPG").write_text("")
    (pictures / ".hidden.png").write_text("")
    (pictures / "notes.txt").write_text("")
    with pytest.warns(UserWarning, match=r"1 files in .* left out \(choices: 'notes.txt'\)"):
        items = inputs_of(pictures)
    assert keys(items) == ["0.png", "1.png", "deep/0.png", "upper.JPG"]
    np.testing.assert_array_equal(items[0].source().rgb(), Photo(pictures / "0.png").rgb())
    with pytest.warns(UserWarning, match="left out"):
        assert keys(inputs_of(pictures, count=2)) == ["0.png", "1.png"]


def test_scenes_are_named_by_their_seeds():
    items = inputs_of("scenes-parts", first_seed=7, count=2)
    assert keys(items) == ["7", "8"]
    np.testing.assert_array_equal(items[1].source().rgb(), ep.scenes.scene(8).image)
    assert len(inputs_of("scenes-objects")) == 100


def test_tables_of_prompts(tmp_path):
    table = tmp_path / "prompts.csv"
    lines = ["prompt,seed,width,mood", "a red house,3,64,calm", "a boat,,,", ",1,,", "a,x,,"]
    table.write_text("\ufeff" + "\n".join(lines))
    with pytest.warns(UserWarning, match="are not read: mood"):
        items = inputs_of(str(table))
    assert keys(items) == ["a red house", "a boat", "row 3", "a"]
    assert items[0].source() == Prompt("a red house", 3, width=64)
    assert items[1].source() == Prompt("a boat")
    with pytest.raises(InputError, match=r"row 3 of .*prompts\.csv' has no prompt"):
        items[2].source()
    with pytest.raises(InputError, match=r"seed, .* are whole numbers: .*'x'"):
        items[3].source()


def test_tables_of_images_and_tables_that_are_none(tmp_path):
    pictures = folder(tmp_path / "pictures", 1)
    table = tmp_path / "images.tsv"
    table.write_text("key\timage\nfirst\tpictures/0.png\n")
    (item,) = inputs_of(table)
    assert item.key == "first"
    np.testing.assert_array_equal(item.source().rgb(), Photo(pictures / "0.png").rgb())
    wrong = tmp_path / "wrong.csv"
    for content, fault in (
        (b"words\na red house\n", "has the columns 'words'; name one of them 'prompt'"),
        (b"prompt\nune \xe9toile\n", "cannot be read as a table .*; give CSV in UTF-8"),
        (b"", "cannot be read as a table"),
    ):
        wrong.write_bytes(content)
        with pytest.raises(InputError, match=fault):
            inputs_of(wrong)
    (tmp_path / "wrong.parquet").write_bytes(b"none")
    with pytest.raises(InputError, match="Parquet"):
        inputs_of(tmp_path / "wrong.parquet")


def test_tars_of_webdataset(tmp_path):
    pictures = folder(tmp_path / "pictures", 2, bad=["bad.png"])
    with tarfile.open(tmp_path / "part-0.tar", "w") as tar:
        for name in ("0.png", "1.png", "bad.png"):
            tar.add(pictures / name, name)
        for name, text in (("0.txt", "of a picture"), ("alone.txt", "a red house\n")):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    items = inputs_of(tmp_path / "part-*.tar")
    assert keys(items) == ["0", "1", "bad", "alone"]
    np.testing.assert_array_equal(items[1].source().rgb(), Photo(pictures / "1.png").rgb())
    with pytest.raises(InputError, match=r"'bad\.png' in '.*part-0\.tar' is not an image"):
        items[2].source()
    assert items[3].source() == Prompt("a red house")
    (tmp_path / "bad.tar").write_text("none")
    with pytest.raises(InputError, match="cannot be read as a tar"):
        inputs_of(tmp_path / "bad.tar")


class Rows:
    """As Hugging Face's data sets are."""

    column_names = ("label", "image")

    def __len__(self):
        return 2

    def __getitem__(self, number):
        return {"label": number, "image": Image.new("RGB", (32, 32), (number, 0, 0))}


def test_data_sets_of_hugging_face():
    items = inputs_of(Rows())
    assert keys(items) == ["0", "1"]
    assert items[1].source().rgb()[0, 0].tolist() == [1, 0, 0]
    Rows.column_names = ("label",)
    with pytest.raises(InputError, match="the data set has the columns 'label'; rename one"):
        inputs_of(Rows())


def test_pairs_are_taken_and_all_else_is_told():
    items = inputs_of([("a", "a red house"), (2, lambda: Prompt("late"))])
    assert keys(items) == ["a", "2"]
    assert items[1].source() == Prompt("late")
    for given, fault in (
        ([("a", "x"), ("a", "y")], r"1 keys stand for several inputs \(choices: 'a'\)"),
        (["abc"], "inputs are pairs of a key and an input, not 'abc'"),
        ([], "there are no inputs in what was given"),
        ("nowhere", "no inputs '.*nowhere'; give a folder of images, a table"),
    ):
        with pytest.raises(InputError, match=fault):
            inputs_of(given)


def test_shards_are_all_inputs_together_and_of_the_environment():
    parts = [Shard(number, 3).of(range(8)) for number in (1, 2, 3)]
    assert sorted(each for part in parts for each in part) == list(range(8))
    slurm = {f"SLURM_ARRAY_TASK_{k}": v for k, v in {"ID": "7", "COUNT": "4", "MIN": "1"}.items()}
    assert Shard.of_environment(slurm | {"SLURM_ARRAY_TASK_STEP": "2"}) == Shard(4, 4)
    assert Shard.of_environment({}) == Shard(1, 1)
    for text in ("0/3", "4/3", "3", "a/b", "1/0", "-1/2"):
        with pytest.raises(ConfigError, match="no shard"):
            Shard.parse(text)
    with pytest.raises(ConfigError, match=r"name no shard .*; give one, as shard='1/1'"):
        Shard.of_environment({"RANK": "9", "WORLD_SIZE": "4"})
