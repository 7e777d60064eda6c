"""Chunks written past Zarr are what Zarr would have written."""

import numpy as np
import pytest
import zarr

from emerdiff_probe.store.chunks import chunks_of, write_chunk
from emerdiff_probe.store.making import new_array


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8", ">f4"])
def test_chunks_are_those_of_zarr_to_the_byte(tmp_path, dtype):
    random = np.random.default_rng(0)
    values = (100 * random.random((2, 5, 6))).astype(dtype)
    stored = np.dtype(dtype).newbyteorder("=").name
    dims = ("a", "b", "c")
    ours, theirs = (
        new_array(zarr.open_group(tmp_path / name), "value", dims, (2, 5, 6), (1, 3, 6), stored)
        for name in ("ours", "theirs")
    )
    theirs[:] = values
    for row in range(2):
        for block, rows in enumerate((slice(0, 3), slice(3, 5))):
            part = values[row : row + 1, rows]
            write_chunk(tmp_path / "ours" / "value", (row, block, 0), part, (1, 3, 6))
    np.testing.assert_array_equal(ours[:], values)
    files = {
        name: {
            file.relative_to(tmp_path / name): file.read_bytes()
            for file in (tmp_path / name / "value").glob("c*")
        }
        for name in ("ours", "theirs")
    }
    assert files["ours"] == files["theirs"]
    assert chunks_of(tmp_path / "ours", "value") == {(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)}


def test_a_chunk_is_replaced_whole(tmp_path):
    array = new_array(zarr.open_group(tmp_path), "value", ("a",), (4,), (4,), "float32")
    for values in (np.arange(4.0), np.full(4, np.nan)):
        write_chunk(tmp_path / "value", (0,), values.astype(np.float32), (4,))
        np.testing.assert_array_equal(array[:], values)
    assert sorted(file.name for file in (tmp_path / "value").iterdir()) == ["c.0", "zarr.json"]
