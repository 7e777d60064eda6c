import dask.array
import numpy as np
import pytest
import torch
import xarray as xr

import emerdiff_probe as ep
from emerdiff_probe.errors import ConfigError, InputError, SiteError
from emerdiff_probe.layers import samples
from emerdiff_probe.schema import pixel_centres
from emerdiff_probe.store import Streamed
from tests.recordings import recording
from tests.store.recordings import LAYER, filled, small_plan

SHAPE = (3, 4, 5, 6, 2)  # samples, timesteps, rows, columns, channels
COUNT = 3 * 4 * 5 * 6


@pytest.fixture
def run():
    """A recording in which each value says where it is: 2 n and 2 n + 1 at location n."""
    values = np.arange(COUNT * 2, dtype=np.float32).reshape(SHAPE)
    return recording({"mid/out": values}, np.zeros((3, 32, 32, 3), np.uint8), (981, 481, 281, 1))


def drawn(batches):
    return np.concatenate(list(batches))[:, 0] // 2


def test_each_location_comes_once_an_epoch_in_an_order_of_its_own(run):
    batches = run.ep.samples("mid", batch=64, epochs=2)
    assert (batches.locations, batches.channels, len(batches)) == (COUNT, 2, 12)
    shapes = [rows.shape for rows in batches]
    assert shapes == ([(64, 2)] * 5 + [(40, 2)]) * 2
    assert {rows.dtype for rows in batches} == {np.dtype(np.float32)}
    first, second = drawn(batches.epoch(0)), drawn(batches.epoch(1))
    for order in (first, second):
        assert np.array_equal(np.sort(order), np.arange(COUNT))
        # In stored order the correlation of values and ranks would be 1.
        assert abs(np.corrcoef(order, np.arange(COUNT))[0, 1]) < 0.2
    assert not np.array_equal(first, second)
    assert np.array_equal(drawn(batches), np.concatenate([first, second]))


def test_a_seed_decides_the_order(run):
    orders = [drawn(run.ep.samples("mid", batch=64, seed=seed)) for seed in (0, 0, 1)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_rows_keep_their_channels_and_know_where_they_are_from(run):
    values = ep.layers.features(run, "mid", 281)
    seen = 0
    for rows, where in run.ep.samples("mid", batch=50, timesteps=[281], coordinates=True):
        assert list(where.columns) == ["sample", "timestep", "y", "x"]
        assert set(where["timestep"]) == {281}
        for row, place in zip(rows, where.itertuples(), strict=True):
            there = values.isel(sample=place.sample).sel(y=place.y, x=place.x)
            assert np.array_equal(there, row)
        seen += len(rows)
    assert seen == COUNT // 4


def test_a_visited_timestep_is_told_by_its_step(run):
    labels = {"timestep": [981, 961, 961, 1], "step": ("timestep", [0, 1, 2, 3])}
    run.dataset = run.to_dataset().assign_coords(labels)
    (_, where), *_ = run.ep.samples("mid", batch=COUNT, timesteps=[961], coordinates=True)
    assert set(zip(where["timestep"], where["step"], strict=True)) == {(961, 1), (961, 2)}


def test_tensors_are_given_where_they_are_asked_for(run):
    arrays = run.ep.samples("mid", batch=100)
    for rows, tensor in zip(arrays, run.ep.samples("mid", batch=100, format="torch"), strict=True):
        assert isinstance(tensor, torch.Tensor)
        assert tensor.dtype == torch.float32
        assert np.array_equal(tensor.numpy(), rows)


class Counted:
    """An array that remembers which of its parts were read."""

    def __init__(self, values):
        self.values, self.read = values, []
        self.shape, self.dtype, self.ndim = values.shape, values.dtype, values.ndim

    def __getitem__(self, index):
        self.read.append(index[:2])
        return self.values[index]


def in_blocks(run):
    """The recording in blocks of one sample at two timesteps, and what counts reading them."""
    counted = Counted(run["mid/out"]["value"].values)
    lazy = dask.array.from_array(counted, chunks=(1, 2, 5, 6, 2), meta=np.empty((0,) * 5, "f4"))
    leaf = run["mid/out"].to_dataset(inherit=False)
    leaf["value"] = leaf["value"].copy(data=lazy)
    nodes = {"/": run.to_dataset(), "mid/out": leaf}
    return xr.DataTree.from_dict(nodes), counted


def test_a_store_is_never_loaded_whole_and_each_block_is_read_once_an_epoch(run):
    lazy, counted = in_blocks(run)
    block = 2 * 5 * 6 * 2 * 4 / 2**20  # MiB
    batches = iter(lazy.ep.samples("mid", batch=16, memory=2 * block))
    next(batches)
    assert len(counted.read) == 2
    rest = [rows[:, 0] // 2 for rows in batches]
    assert len(counted.read) == len(set(map(str, counted.read))) == 6
    assert sum(map(len, rest)) == COUNT - 16
    # Within a pool, locations of its blocks are mixed; blocks come in another order than stored.
    order = drawn(lazy.ep.samples("mid", batch=16, memory=2 * block))
    assert np.array_equal(np.sort(order), np.arange(COUNT))
    pools = [set((order[at : at + 120] // 60).astype(int)) for at in range(0, COUNT, 120)]
    assert all(len(blocks) == 2 for blocks in pools)
    assert pools != [{0, 1}, {2, 3}, {4, 5}]
    counted.read.clear()
    assert np.array_equal(
        drawn(lazy.ep.samples("mid", batch=16, memory=100)),
        drawn(lazy.ep.samples("mid", batch=77, memory=100)),
    )


def test_of_a_guided_store_the_prompts_half_is_given_with_heads_joined(tmp_path):
    stored = ep.open(filled(Streamed(tmp_path / "run.zarr", small_plan())).path)
    batches = stored.ep.samples(f"{LAYER}:query", batch=7, coordinates=True)
    assert (batches.locations, batches.channels) == (2 * 4 * 64, 6)
    values = ep.layers.features(stored, f"{LAYER}:query")
    rows, where = next(iter(batches))
    place = where.iloc[0].to_dict()
    there = values.sel(y=place["y"], x=place["x"], timestep=place["timestep"])
    assert np.array_equal(there.sel(sample=place["sample"]), rows[0])
    half = ep.site(stored, f"{LAYER}:query").sel(guidance="cond", y=place["y"], x=place["x"])
    half = half.sel(timestep=place["timestep"], sample=place["sample"])
    assert np.array_equal(half.values.ravel(), rows[0])


def test_what_cannot_be_drawn_is_refused(run, tmp_path):
    with pytest.raises(SiteError, match="closest: 'mid:out'"):
        run.ep.samples("midd", batch=4)
    with pytest.raises(InputError, match=r"timesteps .* were not recorded"):
        run.ep.samples("mid", batch=4, timesteps=[5])
    for wrong in ({"batch": 0}, {"epochs": 0}, {"memory": 0}, {"format": "jax"}, {"seed": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            samples(run, "mid", **{"batch": 4, **wrong})
    begun = ep.open(filled(Streamed(tmp_path / "run.zarr", small_plan()), blocks=0).path)
    with pytest.raises(InputError, match="not complete there"):
        next(iter(begun.ep.samples("mid_block", batch=4)))
    stored = ep.open(filled(Streamed(tmp_path / "run.zarr", small_plan())).path)
    with pytest.raises(InputError, match="no features of locations"):
        stored.ep.samples(f"{LAYER}:key", batch=4)


def test_centres_are_pixels_of_the_picture(run):
    (_, where), *_ = run.ep.samples("mid", batch=COUNT, coordinates=True)
    assert sorted(set(where["y"])) == pixel_centres(5, 32).tolist()
