"""Copies hold the same values, cut otherwise or in one file, and are made at once or not at all."""

import zipfile

import numpy as np
import pytest
import zarr

import emerdiff_probe as ep
from emerdiff_probe.errors import ConfigError, InputError, StoreError
from emerdiff_probe.store import Memory, Streamed, copies, info
from emerdiff_probe.store import plan as plans
from tests.store.recordings import equal, filled, small_plan


@pytest.fixture
def small_blocks(monkeypatch):
    """Two timesteps in a block, and 4 x 4 locations of the largest grid in a chunk of points."""
    monkeypatch.setattr(plans, "_LONGEST_BLOCK", 2)
    monkeypatch.setattr(copies, "_POINT_BYTES", 3072)


@pytest.fixture
def stored(tmp_path, small_blocks):
    return filled(Streamed(tmp_path / "run.zarr", small_plan(8))).path


class Reads:
    """What is read of values."""

    def __init__(self):
        self.requests, self.bytes = 0, 0


@pytest.fixture
def reads(monkeypatch):
    found, get = Reads(), zarr.storage.LocalStore.get

    async def counted(self, key, *rest, **named):
        data = await get(self, key, *rest, **named)
        if "value/c." in key and "restart" not in key and data is not None:
            found.requests += 1
            found.bytes += len(data)
        return data

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counted)
    return found


def cost(reads, function):
    reads.requests = reads.bytes = 0
    function()
    return reads.requests, reads.bytes


def test_points_and_back(stored, tmp_path):
    points = ep.rechunk(stored, "points", tmp_path / "points.zarr")
    equal(ep.open(points), ep.open(stored))
    assert (info(points).layout, info(stored).layout) == ("points", "steps")
    assert info(points).finished
    assert info(points).config == info(stored).config
    # A file for each site and sample.
    assert sum(file.is_file() for file in (points / "conv_in/out/value").rglob("*")) == 2 + 1
    back = ep.rechunk(points, "steps", tmp_path / "back.zarr")
    equal(ep.open(back), ep.open(stored))
    for leaf in ep.open(stored).leaves:
        assert ep.open(back)[leaf.path]["value"].chunks == leaf["value"].chunks


def test_one_place_at_all_timesteps_is_less_to_read_and_one_timestep_more(stored, tmp_path, reads):
    points = ep.rechunk(stored, "points", tmp_path / "points.zarr")

    def place(path):
        return cost(reads, lambda: ep.site(ep.open(path), "conv_in")[0].sel(y=5, x=9).load())

    def timestep(path):
        return cost(reads, lambda: ep.site(ep.open(path), "conv_in")[0].isel(timestep=3).load())

    # 16 x 16 places, 2 halves, 8 timesteps, 3 channels, 4 bytes: 4 chunks with checksums; or one of
    # 16 chunks, and the index of the file: 16 bytes for each of them.
    whole = 16 * 16 * 2 * 8 * 3 * 4
    # For each part of a row also the table of what lies where.
    (own, cut) = ((each / "positions/value/c.0.0.0").stat().st_size for each in (stored, points))
    assert place(stored) == (4 + 4, whole + 4 * 4 + 4 * own)
    assert place(points) == (2 + 1, whole // 16 + 4 + 16 * 16 + 4 + cut)
    assert timestep(stored) == (1 + 1, whole // 4 + 4 + own)
    assert timestep(points)[1] > whole


def test_what_is_in_memory_can_be_saved(tmp_path):
    tree = filled(Memory(small_plan())).tree()
    equal(ep.open(ep.rechunk(tree, "steps", tmp_path / "run.zarr")), tree)


def test_a_packed_recording_is_the_same_in_the_same_bytes(stored, tmp_path):
    one, other = (ep.pack(stored, tmp_path / f"{name}.zip") for name in ("one", "other"))
    equal(ep.open(one), ep.open(stored))
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as packed:
        assert packed.testzip() is None
        assert {each.compress_type for each in packed.infolist()} == {zipfile.ZIP_STORED}
    assert info(one).nbytes == one.stat().st_size


def test_part_of_a_recording_can_be_packed_and_is_said_to_be_one(tmp_path, small_blocks):
    path = filled(Streamed(tmp_path / "run.zarr", small_plan(8)), blocks=3).path
    (path / "mid_block/out/value/c.0.0.3.0.0.0.abc.partial").write_text("half")
    packed = ep.pack(path, tmp_path / "part.zip")
    found = info(packed)
    assert (found.committed, found.finished) == (0.75, False)
    values = ep.site(ep.open(packed), "mid_block")
    assert np.isfinite(values.isel(timestep=slice(6))).all()
    assert np.isnan(values.isel(timestep=slice(6, 8))).all()
    with zipfile.ZipFile(packed) as each:
        assert not [name for name in each.namelist() if "partial" in name]
    # It goes on where it was, and not in the file.
    with pytest.raises(StoreError, match=r"part\.zip' is a file.*unpack it into a folder"):
        ep.store.local_folder(packed)
    with zipfile.ZipFile(packed) as each:
        each.extractall(tmp_path / "unpacked.zarr")
    filled(Streamed(tmp_path / "unpacked.zarr", small_plan(8)))
    equal(ep.open(tmp_path / "unpacked.zarr"), ep.open(filled(Streamed(path, small_plan(8))).path))


def test_wrong_copies_are_refused(stored, tmp_path, small_blocks):
    part = filled(Streamed(tmp_path / "part.zarr", small_plan(8)), blocks=1).path
    with pytest.raises(StoreError, match="incomplete; record again"):
        ep.rechunk(part, "points", tmp_path / "new")
    with pytest.raises(ConfigError, match="'places'; choose 'steps' or 'points'"):
        ep.rechunk(stored, "places", tmp_path / "new")
    with pytest.raises(StoreError, match=r"run\.zarr' already exists"):
        ep.rechunk(stored, "points", stored)
    with pytest.raises(StoreError, match=r"run\.zarr' already exists"):
        ep.pack(stored, stored)
    with pytest.raises(StoreError, match="cannot be opened as a recording"):
        ep.pack(tmp_path, tmp_path / "new.zip")
    with pytest.raises(StoreError, match="where stores are written; write to a folder"):
        ep.rechunk(stored, "points", "memory://new")
    with pytest.raises(InputError, match=r"'s3://bucket/run\.zip' is an address"):
        ep.pack(stored, "s3://bucket/run.zip")
    assert {each.name for each in tmp_path.iterdir()} == {"run.zarr", "part.zarr"}
    points = ep.rechunk(stored, "points", tmp_path / "points.zarr")
    with pytest.raises(StoreError, match=r"points\.zarr' is a copy that rechunk\(\) made"):
        Streamed(points, small_plan(8))
