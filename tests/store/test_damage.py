"""Whatever happens to the files: a clear error, what is good can be read, and a way to go on."""

import errno
import os
import re
import shutil
import subprocess
import zipfile
from contextlib import suppress

import numpy as np
import pytest
from zarr.storage import _local

import emerdiff_probe as ep
from emerdiff_probe.errors import StoreError
from emerdiff_probe.store import Streamed, info, writing
from emerdiff_probe.store import plan as plans
from tests.store.recordings import equal, filled, small_plan


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Two timesteps in a block."""
    monkeypatch.setattr(plans, "_LONGEST_BLOCK", 2)


@pytest.fixture
def stored(tmp_path):
    return filled(Streamed(tmp_path / "run.zarr", small_plan())).path


CHUNK = "mid_block/out/value/c.1.0.1.0.0.0"


def damaged(file, how):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "lost":
        file.unlink()
    else:
        file.write_bytes({"flipped": data, "cut": data[:100], "empty": b""}[how])


@pytest.mark.parametrize("how", ["lost", "flipped", "cut", "empty"])
def test_a_damaged_chunk_is_an_error_and_all_others_are_there(stored, tmp_path, how):
    copy = shutil.copytree(stored, tmp_path / "copy.zarr")
    damaged(stored / CHUNK, how)
    assert info(stored).lost == (("mid_block/out",) if how == "lost" else ())
    run = ep.open(stored)
    values, whole = ep.site(run, "mid_block"), ep.site(ep.open(copy), "mid_block")
    with pytest.raises(StoreError, match=rf"run\.zarr' .*'{CHUNK}'; take it from a copy") as error:
        _ = values.values
    with pytest.raises(StoreError, match=CHUNK):
        values.isel(sample=1, timestep=3, y=0).load()
    assert np.array_equal(values.isel(sample=0), whole.isel(sample=0))
    assert np.array_equal(values.isel(timestep=[0, 1]), whole.isel(timestep=[0, 1]))
    for name in ("conv_in", "latents", "image"):
        assert np.array_equal(ep.site(run, name), ep.site(ep.open(copy), name))
    # What the error says to do mends it.
    mark = stored / re.search("delete '(.*?)' there", str(error.value))[1]
    mark.unlink()
    filled(Streamed(stored, small_plan()))
    equal(ep.open(stored), ep.open(copy))
    assert not info(stored).lost


def test_a_damaged_picture(stored, tmp_path):
    copy = shutil.copytree(stored, tmp_path / "copy.zarr")
    file = stored / "image/value/c.0.0.0.0"
    damaged(file, "cut")
    with pytest.raises(StoreError, match="delete it and record again as before"):
        ep.site(ep.open(stored), "image").load()
    file.unlink()
    assert not info(stored).finished
    filled(Streamed(stored, small_plan()))
    equal(ep.open(stored), ep.open(copy))


def test_a_damaged_mark(stored, tmp_path):
    copy = shutil.copytree(stored, tmp_path / "copy.zarr")
    (stored / "image/value/c.0.0.0.0").unlink()
    mark = "restart/value/c.0.1.0.0.0"
    damaged(stored / mark, "cut")
    assert np.array_equal(*(ep.site(ep.open(path), "conv_in") for path in (stored, copy)))
    with pytest.raises(StoreError, match=f"cannot be resumed: .* in '{mark}'; delete that"):
        filled(Streamed(stored, small_plan()))
    (stored / mark).unlink()
    filled(Streamed(stored, small_plan()))
    equal(ep.open(stored), ep.open(copy))


def test_a_damaged_copy(stored, tmp_path):
    points = ep.rechunk(stored, "points", tmp_path / "points.zarr")
    file = next((points / "mid_block/out/value").glob("c.1.*"))
    damaged(file, "cut")
    values = ep.site(ep.open(points), "mid_block")
    assert np.isfinite(values.isel(sample=0)).all()
    with pytest.raises(StoreError, match=r"points\.zarr' .*c\.1(\.0){5}'; make this copy again"):
        values.load()
    packed = ep.pack(stored, tmp_path / "run.zip")
    data = packed.read_bytes()
    packed.write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match=r"run\.zip' cannot be opened .* not a complete zip file"):
        ep.open(packed)
    with zipfile.ZipFile(packed := tmp_path / "other.zip", "w") as other:
        other.writestr("thesis.tex", "text")
    with pytest.raises(StoreError, match=r"other\.zip' cannot be opened as a recording"):
        ep.open(packed)


def test_metadata_that_is_cut_is_told(stored):
    damaged(stored / "zarr.json", "cut")
    with pytest.raises(StoreError, match=r"run\.zarr' cannot be opened as a recording"):
        ep.open(stored)
    with pytest.raises(StoreError, match=r"run\.zarr' cannot be opened as a recording"):
        Streamed(stored, small_plan())


class Disk:
    """One that can be full, or pretend to be."""

    def __init__(self, folder, monkeypatch, real):
        self.folder, self.real, self.is_full = folder, real, False

        def limited(write):
            def limited_write(*arguments, **named):
                if self.is_full:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                return write(*arguments, **named)

            return limited_write

        monkeypatch.setattr(_local, "_put", limited(_local._put))
        monkeypatch.setattr(writing, "write_chunk", limited(writing.write_chunk))

    def fill(self):
        if self.real:
            with suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
        else:
            self.is_full = True

    def free(self):
        self.is_full = False
        (self.folder / "filler").unlink(missing_ok=True)


def _mounted(folder):
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.fixture(params=["pretended", "real"])
def disk(request, tmp_path, monkeypatch):
    """Where no small disk can be mounted, both are pretended."""
    folder = tmp_path / "disk"
    folder.mkdir()
    real = request.param == "real" and _mounted(folder)
    yield Disk(folder, monkeypatch, real)
    if real:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_told_and_the_run_goes_on_later(disk, tmp_path, monkeypatch):
    whole = filled(Streamed(tmp_path / "whole.zarr", small_plan())).path
    path = disk.folder / "run.zarr"
    filled(Streamed(path, small_plan()), blocks=1)
    disk.fill()
    full = r"run\.zarr' could not be written: .*No space left.*committed before can be read; the sa"
    with pytest.raises(StoreError, match=full):
        filled(Streamed(path, small_plan()))
    values, expected = (ep.site(ep.open(each), "mid_block") for each in (path, whole))
    assert np.array_equal(values[:, :, :2], expected[:, :, :2])
    assert np.isnan(values[:, :, 2:]).all()
    assert info(path).committed == 0.5
    disk.free()
    filled(Streamed(path, small_plan()), blocks=2)
    # It is full just when the pictures come.
    sink = Streamed(path, small_plan())
    disk.fill()
    with pytest.raises(StoreError, match=full):
        sink.finish(slice(0, 1), np.zeros((1, 32, 32, 3), np.uint8))
    with pytest.raises(StoreError, match=full):
        sink.close()
    disk.free()
    equal(ep.open(filled(Streamed(path, small_plan())).path), ep.open(whole))


def test_on_a_full_disk_nothing_is_begun(disk, tmp_path, monkeypatch):
    whole = filled(Streamed(tmp_path / "whole.zarr", small_plan())).path
    disk.fill()
    # As if it filled up just after we asked.
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 0, 2**40))
    with pytest.raises(StoreError, match=r"run\.zarr' could not be written: .*No space left"):
        Streamed(disk.folder / "run.zarr", small_plan())
    with pytest.raises(StoreError, match=r"copy\.zarr' could not be written: .*free some space"):
        ep.rechunk(whole, "points", disk.folder / "copy.zarr")
    if disk.real:
        with pytest.raises(StoreError, match=r"run\.zip' could not be written: .*free some space"):
            ep.pack(whole, disk.folder / "run.zip")
    disk.free()
    assert not list(disk.folder.iterdir())
