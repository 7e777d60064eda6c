"""Labels, metadata and values have checksums, so that nothing is silently another."""

import errno
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
import xarray as xr
import zarr
from zarr.storage import _local

import emerdiff_probe as ep
from emerdiff_probe.errors import StoreError
from emerdiff_probe.store import ResponseStore, Streamed, info, open_responses, reading, sealing
from emerdiff_probe.store import plan as plans
from emerdiff_probe.store.positions import number_of
from emerdiff_probe.store.texts import texts_of
from tests.store.flips import flipped, read, silent
from tests.store.recordings import filled, small_plan


@pytest.fixture
def stored(tmp_path):
    return filled(Streamed(tmp_path / "run.zarr", small_plan())).path


@pytest.fixture
def responses(tmp_path):
    random = np.random.default_rng(0)
    values = random.random((2, 3, 4, 5)).astype(np.float16)
    rest = xr.Dataset(
        {
            "picture": (("y", "x", "rgb"), random.integers(0, 255, (4, 5, 3)).astype(np.uint8)),
            "masks": (("mask", "source_y", "source_x"), random.random((2, 2, 2), np.float32)),
            "low_res": (("source_y", "source_x"), np.zeros((2, 2), np.int16)),
        },
        coords={
            "y": np.arange(4) + 0.5,
            "x": np.arange(5) + 0.5,
            "rgb": ["r", "g", "b"],
            "mask": [0, 1],
            "source_y": [1.0, 3.0],
            "source_x": [1.25, 3.75],
        },
        attrs={"schema": "responses/1", "config": "{}"},
    )
    store = ResponseStore(tmp_path / "responses.zarr", {"name": "none"}, {"strength": 1})
    with store:
        store.begin(rest, xr.DataArray(values, dims=("mask", "rgb", "y", "x")))
        for number, each in enumerate(values):
            store.write((number,), each)
    opened = open_responses(store.path)
    np.testing.assert_array_equal(opened["response"], values.astype(np.float32))
    assert opened["rgb"].values.tolist() == ["r", "g", "b"]
    return store.path


def test_a_flipped_bit_anywhere_in_a_recording_is_told(tmp_path):
    stored = filled(Streamed(tmp_path / "run.zarr", small_plan(2, 1))).path
    everywhere = read(ep.open)
    whole = everywhere(stored)
    tried = list(flipped(stored, everywhere, each=1))
    assert len(tried) > 60
    assert [(what, wrong) for what, found in tried if (wrong := silent(found, whole))] == []
    # All but the metadata of the root and its labels costs one leaf, or nothing.
    costs = {
        what: sum(isinstance(each, Exception) for each in found.values()) for what, found in tried
    }
    assert max(costs.values()) == 1
    assert not silent(everywhere(stored), whole)


def test_a_flipped_bit_anywhere_in_responses_is_told(responses):
    everywhere = read(open_responses)
    whole = everywhere(responses)
    tried = list(flipped(responses, everywhere, each=2))
    assert len(tried) > 60
    assert [(what, wrong) for what, found in tried if (wrong := silent(found, whole))] == []


def test_the_search_for_silent_damage_finds_it(stored, monkeypatch):
    everywhere = read(ep.open)
    whole = everywhere(stored)
    zarr.open_array(stored / "timestep", mode="r+")[0] = 7
    assert isinstance(everywhere(stored)[""], StoreError)
    monkeypatch.setattr(reading, "checked_labels", lambda array, _: texts_of(array[...]))
    assert "//timestep" in silent(everywhere(stored), whole)


@pytest.mark.parametrize("name", ["timestep", "step", "prompt", "seed", "source", "sample"])
def test_labels_that_are_lost_are_told_with_their_file(stored, name):
    file = next(
        each for each in (stored / name).rglob("*") if each.name != "zarr.json" and each.is_file()
    )
    file.unlink()
    match = rf"run\.zarr' has labels that are damaged or lost: '{file.relative_to(stored)}'"
    with pytest.raises(StoreError, match=match):
        ep.open(stored)


def test_labels_of_equal_size_that_were_swapped_are_told(stored):
    one, other = (next((stored / name).rglob("c*/*")) for name in ("timestep", "step"))
    one_bytes, other_bytes = one.read_bytes(), other.read_bytes()
    one.write_bytes(other_bytes)
    other.write_bytes(one_bytes)
    with pytest.raises(StoreError, match=r"labels that are damaged or lost: '(timestep|step)/c/0'"):
        ep.open(stored)


def _swap(one, other):
    one_bytes, other_bytes = one.read_bytes(), other.read_bytes()
    assert one_bytes != other_bytes
    one.write_bytes(other_bytes)
    other.write_bytes(one_bytes)


def _chunks(array):
    return sorted(each for each in array.glob("c.*"))


@pytest.mark.parametrize("kind", ["steps", "points", "recording", "packed"])
@pytest.mark.parametrize("leaf", ["conv_in/out", "image"])
def test_whole_chunks_that_were_swapped_are_told(tmp_path, monkeypatch, kind, leaf):
    monkeypatch.setattr(plans, "_LONGEST_BLOCK", 2)
    place = filled(Streamed(tmp_path / "run.zarr", small_plan())).path
    if kind in ("steps", "points"):
        place = ep.rechunk(place, kind, tmp_path / f"{kind}.zarr")
    whole = read(ep.open)(place)
    _swap(*_chunks(place / leaf / "value")[:2])
    if kind == "packed":
        place = ep.pack(place, tmp_path / "run.zip")
    found = read(ep.open)(place)
    assert silent(found, whole) == []
    told = {name: str(each) for name, each in found.items() if isinstance(each, StoreError)}
    assert list(told) == [f"/{leaf}/value"]
    (message,) = told.values()
    assert f"has values that belong elsewhere in the chunk '{leaf}/value/c." in message
    name = leaf.partition("/")[0]
    with pytest.raises(StoreError, match="belong elsewhere"):  # of a part alone, too
        ep.site(ep.open(place), name).isel(sample=0, x=3, y=slice(2, 4)).load()


def test_chunks_between_equal_arrays_that_were_swapped_are_told(stored):
    random = np.random.default_rng(0)
    values = random.random((1, 4, 5)).astype(np.float32)
    numbers = {number_of(path, (0, 0, 0), values) for path in ("a/value", "b/value")}
    numbers |= {number_of("a/value", (1, 0, 0), values), number_of("a/value", (0, 0, 0), -values)}
    assert len(numbers) == 4
    assert number_of("a/value", (0, 0, 0), values) == number_of(
        "a/value", (0, 0, 0), values.astype(">f4")
    )


def test_latents_to_go_on_from_that_were_swapped_are_told(stored):
    _swap(*_chunks(stored / "restart/value")[:2])
    (stored / "image/value/c.0.0.0.0").unlink()
    with pytest.raises(StoreError, match=r"cannot be resumed: .* another .* in 'restart"):
        filled(Streamed(stored, small_plan()))


def test_responses_that_were_swapped_are_told(responses):
    _swap(*_chunks(responses / "response"))
    opened = open_responses(responses)
    with pytest.raises(StoreError, match=r"belong elsewhere in .* 'response/c\.[01]\.0\.0\.0'"):
        opened["response"].load()
    _swap(*_chunks(responses / "response_positions"))  # with what they are known by
    with pytest.raises(StoreError, match="belong elsewhere"):
        open_responses(responses)["response"].load()


def test_without_the_table_of_positions_values_are_read_with_a_warning(stored, responses):
    (table,) = {each.name for each in _chunks(stored / "positions/value")} - {
        "c.0.1.0", "c.1.0.0", "c.1.1.0"
    }  # fmt: skip
    whole = read(ep.open)(stored)
    (stored / "positions/value" / table).write_bytes(b"none")
    with pytest.warns(UserWarning, match=r"damaged file 'positions/value/c\.0\.0\.0'"):
        values = ep.site(ep.open(stored), "conv_in").values
    np.testing.assert_array_equal(values, whole["/conv_in/out/value"])
    (responses / "response_positions/c.1").write_bytes(b"none")
    with pytest.warns(UserWarning, match=r"'response_positions/c\.1' is damaged"):
        assert np.isfinite(open_responses(responses)["response"]).all()


def test_a_leaf_whose_labels_are_damaged_costs_that_leaf(stored):
    whole = ep.open(stored)
    (stored / "mid_block/out/y/c.0").unlink()
    run = ep.open(stored)
    with pytest.raises(StoreError, match=r"labels .* lost: 'mid_block/out/y/c\.0'"):
        ep.site(run, "mid_block").load()
    for name in ("conv_in", "latents", "image"):
        xr.testing.assert_identical(ep.site(run, name).load(), ep.site(whole, name).load())


def test_a_picture_that_is_lost_is_not_black(stored):
    (stored / "image/value/c.1.0.0.0").unlink()
    pictures = ep.site(ep.open(stored), "image")
    assert pictures.isel(sample=0).values.any()
    with pytest.raises(StoreError, match=r"has lost the chunk 'image/value/c\.1\.0\.0\.0'"):
        pictures.load()


def test_a_store_without_checksums_is_refused_with_a_sentence(stored):
    root = json.loads((stored / "zarr.json").read_text())
    del root["attributes"][sealing.WHOLE]
    (stored / "zarr.json").write_text(json.dumps(root))
    for look in (ep.open, info):
        with pytest.raises(StoreError, match="no checksum, as stores of versions before this one"):
            look(stored)


def reseal(folder, change):
    """Changes the metadata of a store as one does who wants it to be taken for whole."""
    root = json.loads((folder / "zarr.json").read_text())
    change(root, root["consolidated_metadata"]["metadata"])
    root["attributes"][sealing.WHOLE] = sealing._whole(root)
    (folder / "zarr.json").write_text(json.dumps(root))


def _codec(name):
    def change(root, nodes):
        nodes["prompt"]["codecs"] = [{"name": name, "configuration": {}}]

    return change


def _set(path, key, value):
    def change(root, nodes):
        nodes[path][key] = value

    return change


def _attribute(name, value):
    def change(root, nodes):
        root["attributes"][name] = value

    return change


def _named(path):
    def change(root, nodes):
        nodes[path] = nodes["prompt"]

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (_codec("numcodecs.pickle"), "'prompt' is encoded with 'numcodecs.pickle'"),
        (_codec("pickle"), "'prompt' is encoded with 'pickle'"),
        (_set("prompt", "zarr_format", 2), "'prompt' is not in Zarr's format 3"),
        (_set("prompt", "data_type", {"name": "variable_length_bytes"}), "numbers and texts"),
        (_set("timestep", "shape", [10**10]), "'timestep' has 10,000,000,000 labels"),
        (_set("timestep", "shape", ["4"]), "'timestep' has invalid sizes"),
        (_set("mid_block/out/value", "shape", [2, 2, 4, 4, 4, 10**10]), "has sizes"),
        (_set("mid_block/out/value", "shape", [2, 2, 4, 4, 4, 2**26]), "too many for its sizes"),
        (
            _set(
                "conv_in/out/value",
                "chunk_grid",
                {"name": "regular", "configuration": {"chunk_shape": [10**6] * 6}},
            ),
            "chunks of .* at most .* are read",
        ),
        (_set("prompt", "storage_transformers", [{"name": "x"}]), "storage transformers"),
        (_named("../prompt"), "'../prompt' is not a valid name of an array"),
        (_named("/etc/passwd"), "'/etc/passwd' is not a valid name of an array"),
        (_attribute("config", "{"), "damaged, or not of the form it claims"),
        (_attribute("model", "[]"), "'model' is not a JSON object"),
        (_attribute("versions", 3), "damaged, or not of the form it claims"),
    ],
)
def test_what_a_store_may_ask_for_is_bounded(stored, change, match):
    reseal(stored, change)
    for look in (ep.open, info):
        with pytest.raises(StoreError, match=match):
            look(stored)


def test_a_store_that_is_resealed_unchanged_opens(stored):
    reseal(stored, lambda root, nodes: None)
    assert info(stored).finished


def test_stores_of_zarr_2_are_never_looked_into(tmp_path):
    """Their codecs can run code: here one that numcodecs had."""
    folder = tmp_path / "old.zarr"
    for name, form in (("", None), ("prompt", {"filters": [{"id": "vlen-utf8"}]})):
        (folder / name).mkdir(parents=True)
        if form is None:
            (folder / ".zgroup").write_text('{"zarr_format": 2}')
            (folder / ".zattrs").write_text('{"schema": "recording/1"}')
        else:
            about = {
                "zarr_format": 2,
                "shape": [1],
                "chunks": [1],
                "dtype": "|O",
                "order": "C",
                "fill_value": "",
                "compressor": {"id": "pickle"},
                **form,
            }
            (folder / name / ".zarray").write_text(json.dumps(about))
    (folder / "prompt" / "0").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    for look in (ep.open, info, open_responses):
        with pytest.raises(StoreError):
            look(folder)
    assert not (tmp_path / "ran").exists()


def test_a_zip_file_that_inflates_is_refused(stored, tmp_path):
    packed = shutil.make_archive(tmp_path / "run", "zip", stored)
    assert info(packed).finished
    with (
        zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as file,
        file.open("conv_in/out/value/c.9", "w") as entry,
    ):
        for _ in range(300):
            entry.write(bytes(2**20))
    with pytest.raises(StoreError, match=r"would inflate to .* which no recording does"):
        ep.open(packed)


def test_links_are_not_packed(stored, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    os.symlink(secret, stored / "conv_in/out/value/c.9")
    with pytest.raises(StoreError, match=r"c\.9' is a link, .*replace it by the file itself"):
        ep.pack(stored, tmp_path / "run.zip")
    assert not (tmp_path / "run.zip").exists()


def test_a_full_disk_is_told_by_responses_and_what_was_killed_leaves_nothing(
    responses, monkeypatch
):
    store = ResponseStore(responses, {"name": "none"}, {"strength": 1})
    left = responses / "response/c.1.0.0.0.abc.partial"
    left.write_bytes(bytes(100))
    values = open_responses(responses)["response"].values
    with store:
        store.begin(xr.Dataset(), xr.DataArray(np.zeros((2, 3, 4, 5), np.float16)))
        assert not left.exists()
        with monkeypatch.context() as full:

            def refused(*_, **__):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            full.setattr(_local, "_put", refused)
            with pytest.raises(StoreError, match=r"No space left.*same call resumes from there"):
                store.write((1,), values[1])
        store.write((1,), values[1])
    np.testing.assert_array_equal(open_responses(responses)["response"], values)
