"""A process that is forked after a read can read, too, as the workers of a DataLoader do."""

import os
import signal
import time

import fsspec
import numpy as np
import pytest

import emerdiff_probe as ep
from emerdiff_probe.store import Streamed
from tests.store.recordings import filled, small_plan


def in_child(function, seconds=30):
    """Whether a forked process ends well, and in time."""
    child = os.fork()
    if not child:
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


@pytest.mark.parametrize("kind", ["folder", "zip", "memory"])
def test_it_reads_what_its_parent_has_open(tmp_path, kind):
    path = filled(Streamed(tmp_path / "run.zarr", small_plan())).path
    if kind == "zip":
        path = ep.pack(path, tmp_path / "run.zip")
    if kind == "memory":
        fsspec.filesystem("memory").put(str(path), "/forked/run.zarr", recursive=True)
        path = "memory://forked/run.zarr"
    values = ep.site(ep.open(path), "mid_block")
    expected = values.values

    def read():
        for _ in range(20):
            assert np.array_equal(values.values, expected)
        assert np.array_equal(ep.site(ep.open(path), "mid_block").values, expected)

    assert in_child(read)
    assert not in_child(lambda: np.testing.assert_array_equal(values.values, expected + 1))


def test_two_processes_read_one_zip_file_at_once(tmp_path):
    packed = ep.pack(filled(Streamed(tmp_path / "run.zarr", small_plan())).path, tmp_path / "a.zip")
    values = ep.site(ep.open(packed), "conv_in")
    expected = values.values

    def read():
        for _ in range(100):
            assert np.array_equal(values.values, expected)

    def both():
        other = os.fork()
        if not other:
            code = 1
            try:
                read()
                code = 0
            finally:
                os._exit(code)
        read()
        assert os.waitpid(other, 0)[1] == 0

    assert in_child(both)
