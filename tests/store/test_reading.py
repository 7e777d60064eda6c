"""Recordings are opened from anywhere, place by place, and while they are written."""

import json
import shutil
import threading
import time
import zipfile

import fsspec
import numpy as np
import pytest
import xarray as xr
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError, SiteError, StoreError
from emerdiff_probe.store import Memory, Streamed, info, writing
from emerdiff_probe.store import plan as plans
from tests.store.recordings import SITES, equal, filled, small_plan

QUERY = "up_blocks.0.attentions.0.transformer_blocks.0.attn2:query"


@pytest.fixture
def stored(tmp_path):
    return filled(Streamed(tmp_path / "run.zarr", small_plan())).path


def test_a_point_of_all_layers():
    run = filled(Memory(small_plan())).tree()
    point = ep.gather(run, y=17, x=30)
    assert list(point) == [name for name in SITES if not name.endswith(":key")]
    # On the grid of 4 x 4 of a picture of 32: row 2, column 3.
    deep = point["mid_block:out"]
    assert (float(deep["y"]), float(deep["x"])) == (20, 28)
    xr.testing.assert_equal(
        deep.drop_vars(["y", "x"]), ep.site(run, "mid_block").isel(y=2, x=3, drop=True)
    )
    assert point[QUERY].dims == ("sample", "guidance", "timestep", "head", "channel")
    assert deep["prompt"].values.tolist() == ["a", "b"]
    assert {values.sizes["channel"] for values in point.values()} == {3, 5}
    other = ep.gather(run, "mid_block", y=30, x=17)["mid_block:out"]
    assert not np.array_equal(other, deep)
    assert list(ep.gather(run, ["*:query", "conv_in"], y=0, x=32)) == ["conv_in:out", QUERY]


def test_a_point_is_read_when_it_is_needed(stored):
    point = ep.gather(ep.open(stored), "conv_in", y=1, x=1)["conv_in:out"]
    assert point.chunks
    for chunk in (stored / "conv_in/out/value").glob("c.*"):
        chunk.unlink()
    with pytest.raises(StoreError, match=r"has lost the chunk 'conv_in/out/value/c\.[01](\.0){5}'"):
        point.load()


def test_places_and_sites_that_are_not_there_are_refused():
    run = filled(Memory(small_plan())).tree()
    with pytest.raises(InputError, match="outside the image; choose y from 0 to 32"):
        ep.gather(run, y=33, x=0)
    with pytest.raises(SiteError, match="no site matches 'mid_blok'; closest: 'mid_block"):
        ep.gather(run, "mid_blok", y=0, x=0)


ZIP_ELSEWHERE = pytest.mark.skipif(
    tuple(map(int, fsspec.__version__.split(".")[:2])) < (2026, 9),
    reason="fsspec before 2026.9 finds nothing at the root of a zip file in another store",
)


@pytest.mark.parametrize(
    "kind",
    ["zip", "memory", "file", pytest.param("zip in memory", marks=ZIP_ELSEWHERE), "folder in zip"],
)
def test_it_opens_from_anywhere(stored, tmp_path, kind):
    packed = ep.pack(stored, tmp_path / "run.zarr.zip")
    memory = fsspec.filesystem("memory")
    memory.put(str(stored), "/recordings/run.zarr", recursive=True)
    memory.put(str(packed), "/recordings/run.zarr.zip")
    address = {
        "zip": packed,
        "memory": "memory://recordings/run.zarr",
        "file": f"file://{stored}",
        "zip in memory": "zip://::memory://recordings/run.zarr.zip",
        "folder in zip": shutil.make_archive(tmp_path / "all", "zip", tmp_path, "run.zarr"),
    }[kind]
    try:
        equal(ep.open(address), ep.open(stored))
        here, there = info(stored), info(address)
        assert (there.committed, there.finished, there.lost) == (1, True, ())
        assert (there.sites, there.samples) == (here.sites, here.samples)
        assert there.nbytes > sum(leaf["value"].nbytes for leaf in ep.open(stored).leaves)
    finally:
        memory.rm("/recordings", recursive=True)


@pytest.mark.parametrize(
    "address", ["memory://nothing.zarr", "nosuch://bucket/run.zarr", "nothing.zarr", "text.zip"]
)
def test_what_is_no_recording_is_told(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.zip").write_text("no zip file")
    for look in (ep.open, info):
        with pytest.raises(
            StoreError, match=f"'{address}' cannot be opened as a recording: .*; check the name"
        ):
            look(address)


def test_a_zarr_store_of_another_kind_is_told(tmp_path):
    xr.Dataset({"value": ("x", [1, 2])}).to_zarr(
        tmp_path / "mine.zarr", zarr_format=3, consolidated=False
    )
    with pytest.raises(StoreError, match=r"mine\.zarr' has the schema None"):
        ep.open(tmp_path / "mine.zarr")


def test_it_is_read_while_it_is_written(tmp_path, monkeypatch):
    """One that reads again and again sees whole blocks or nothing, and never an error."""
    monkeypatch.setattr(plans, "_LONGEST_BLOCK", 1)
    plan, path = small_plan(timesteps=12), tmp_path / "run.zarr"
    expected = ep.site(filled(Memory(plan)).tree(), "mid_block").values
    sink, seen, failures = Streamed(path, plan), [], []
    write = sink.write

    def followed(*block):
        """Writes a block, and waits until somebody has looked since."""
        write(*block)
        before = len(seen)
        while reader.is_alive() and len(seen) < before + 2:
            time.sleep(0.001)

    monkeypatch.setattr(sink, "write", followed)

    def read():
        try:
            while not seen or seen[-1] < 1:
                share = info(path).committed
                values = ep.site(ep.open(path), "mid_block").values
                there = np.isfinite(values)
                assert np.array_equal(values[there], expected[there])
                # Blocks are there or not, as a whole, and all that were committed are.
                whole = there.all(axis=(1, 3, 4, 5))
                assert np.array_equal(whole, there.any(axis=(1, 3, 4, 5)))
                assert whole.mean() >= share
                seen.append(share)
        except BaseException as error:
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    filled(sink)
    reader.join()
    assert not failures, failures
    assert seen[-1] == 1
    assert len(set(seen)) > 1, "it never read in between"


def test_its_size_is_told_though_a_file_gets_its_name_meanwhile(stored, monkeypatch):
    size = sum(file.stat().st_size for file in stored.rglob("*") if file.is_file())
    assert info(stored).nbytes == size
    unnamed = stored / "conv_in/out/value/c.9.partial"
    unnamed.write_bytes(b"12345")
    listed = LocalFileSystem.find

    def then_named(*arguments, **settings):
        found = listed(*arguments, **settings)
        unnamed.unlink()
        return found

    monkeypatch.setattr(LocalFileSystem, "find", then_named)
    assert info(stored).nbytes == size + 5


def test_its_size_is_told_where_listings_have_none(stored, monkeypatch):
    """As those of web servers."""
    memory = fsspec.filesystem("memory")
    memory.put(str(stored), "/unsized/run.zarr", recursive=True)
    listed = MemoryFileSystem.find

    def unsized(*arguments, detail=False, **settings):
        found = listed(*arguments, detail=True, **settings)
        return {name: {**about, "size": None} for name, about in found.items()}

    monkeypatch.setattr(MemoryFileSystem, "find", unsized)
    try:
        assert info("memory://unsized/run.zarr").nbytes == info(stored).nbytes
    finally:
        memory.rm("/unsized", recursive=True)


def test_a_zip_file_of_several_recordings_is_refused(stored, tmp_path):
    shutil.copytree(stored, tmp_path / "both/a.zarr")
    shutil.copytree(stored, tmp_path / "both/b.zarr")
    packed = shutil.make_archive(tmp_path / "both", "zip", tmp_path / "both")
    with pytest.raises(StoreError, match=r"2 recordings, a\.zarr, b\.zarr; unpack it"):
        ep.open(packed)
    with zipfile.ZipFile(packed) as opened:
        assert "zarr.json" not in opened.namelist()


def test_its_labels_are_texts_that_every_reader_knows(stored, tmp_path):
    for path in (stored, ep.rechunk(stored, "points", tmp_path / "points.zarr")):
        kinds = {
            file.parent.name: json.loads(file.read_text()).get("data_type")
            for file in path.rglob("zarr.json")
        }
        # Zarr's own kinds, no extensions: their names alone.
        assert all(kind is None or isinstance(kind, str) for kind in kinds.values())
        assert {kinds[name] for name in ("prompt", "source", "token_text", "rgb")} == {"string"}
        plain = xr.open_zarr(path, consolidated=False)
        assert plain["prompt"].values.tolist() == ["a", "b"]
        opened = ep.open(path)
        assert {opened[name].dtype.kind for name in ("prompt", "token_text", "guidance")} == {"U"}
        assert opened["image"]["rgb"].dtype.kind == "U"
        assert opened.sel(guidance="cond").sizes["sample"] == 2


def test_home_and_an_empty_folder_are_places_for_a_recording(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.zarr").mkdir()
    filled(Streamed(ep.store.local_folder("~/run.zarr"), small_plan()))
    copy = ep.rechunk("~/run.zarr", "points", "~/copy.zarr")
    packed = ep.pack("~/run.zarr", "~/run.zip")
    for address in ("~/run.zarr", "~/copy.zarr", "~/run.zip", copy, packed):
        equal(ep.open(address), filled(Memory(small_plan())).tree())
        assert info(address).finished
    assert sorted(each.name for each in tmp_path.iterdir()) == ["copy.zarr", "run.zarr", "run.zip"]


def test_a_second_writer_is_refused_and_the_first_one_goes_on(tmp_path):
    path, plan = tmp_path / "run.zarr", small_plan()
    first = Streamed(path, plan)
    with pytest.raises(StoreError, match=r"run\.zarr' is being written to by process \d+ on"):
        Streamed(path, plan)
    filled(first)
    assert info(path).finished
    filled(Streamed(path, plan))  # nobody writes any more
    assert [each.name for each in tmp_path.iterdir()] == ["run.zarr"]


def test_of_two_who_begin_one_store_at_once_the_second_continues_it(tmp_path, monkeypatch):
    path, plan = tmp_path / "run.zarr", small_plan()

    class Late(writing.Held):
        """Another has recorded a block by the time one gets the right to write there."""

        def __init__(self, where, **options):
            monkeypatch.setattr(writing, "Held", Late.__base__)
            filled(Streamed(where, plan), blocks=1)
            super().__init__(where, **options)

    monkeypatch.setattr(writing, "Held", Late)
    second = Streamed(path, plan)
    assert second.begun(slice(0, 1))[0] == 1
    filled(second)
    equal(ep.open(path), filled(Memory(plan)).tree())
    assert [each.name for each in tmp_path.iterdir()] == ["run.zarr"]
