"""Readers hand out single precision, and copy nothing before it is read."""

import numpy as np
import pytest
import xarray as xr
import zarr

import emerdiff_probe as ep
from emerdiff_probe.store import single, widened
from tests.checkpoints import tiny_playground

DIMS = ("sample", "y", "head", "channel")


@pytest.fixture
def half():
    return np.random.default_rng(0).normal(0, 300, (2, 5, 3, 4)).astype(np.float16)


def variable(half):
    return xr.DataArray(xr.Variable(DIMS, widened(half)))


def test_what_is_read_is_converted_and_nothing_else(half):
    values = variable(half)
    assert values.dtype == np.float32
    before = half[0, 0, 0, 0]
    half[0, 0, 0, 0] = before + 1
    assert values[0, 0, 0, 0].item() == before + 1, "no copy was made"
    untouched = np.zeros(3, np.uint8)
    assert widened(untouched) is untouched


def test_sums_do_not_overflow_and_means_do_not_vanish():
    large, small = np.full(2000, 60.0, np.float16), np.full(10**6, 1e-4, np.float16)
    assert np.isinf(large.sum())
    for array in (large, small):
        values = xr.DataArray(xr.Variable("x", widened(array)))
        assert float(values.sum()) == pytest.approx(float(array.astype(np.float64).sum()), rel=1e-4)
        assert float((values**2).mean()) == pytest.approx(float(array[0]) ** 2, rel=1e-3)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x,
        lambda x: x.isel(sample=1),
        lambda x: x.isel(y=slice(None, None, -2), head=[2, 0]),
        lambda x: x.isel(y=xr.DataArray([1, 2], dims="p"), head=xr.DataArray([0, 2], dims="p")),
        lambda x: x.isel(y=np.arange(5) > 2),
        lambda x: x.transpose("channel", ...).isel(y=3),
        lambda x: x.stack(both=("head", "channel"), create_index=False),
        lambda x: x.expand_dims("more").squeeze(),
        lambda x: x.where(x > 0),
        lambda x: x.chunk(y=1).mean("y"),
        lambda x: x.copy(deep=True),
        lambda x: xr.concat([x, x], "sample"),
    ],
)
def test_views_are_those_of_the_array_itself(half, view):
    expected = view(xr.DataArray(half.astype(np.float32), dims=DIMS))
    found = view(variable(half))
    assert found.dtype == np.float32
    xr.testing.assert_allclose(found, expected)
    assert found.dims == expected.dims


def test_datasets_are_widened_where_they_are_half(half, tmp_path):
    ds = xr.Dataset({"half": (DIMS, half), "whole": ("y", np.arange(5))})
    ds.to_zarr(tmp_path / "ds.zarr", zarr_format=3, consolidated=False)
    for each in (ds, xr.open_zarr(tmp_path / "ds.zarr", consolidated=False)):
        found = single(each)
        assert found["half"].dtype == np.float32
        assert found["whole"].dtype == ds["whole"].dtype
        np.testing.assert_array_equal(found["half"], half)


def test_recordings_are_read_in_single_precision_and_kept_in_half(tmp_path):
    model, prompt = ep.load(tiny_playground()), ep.Prompt("a red house", 1)
    options = {"sites": "mid_block", "steps": 2, "progress": False}
    exact = ep.site(ep.record(model, prompt, dtype="float32", **options), "mid_block")
    memory = ep.record(model, prompt, **options)
    store = ep.record(model, prompt, store=tmp_path / "run.zarr", **options)
    copy = ep.open(ep.rechunk(memory, "points", tmp_path / "copy.zarr"))
    with ep.probe(model, "mid_block") as recorder:
        ep.record(model, prompt, **options)
    half = exact.values.astype(np.float16)
    for run in (memory, store, copy, recorder.tree):
        values = ep.site(run, "mid_block")
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, half)
        assert float(values.mean()) == pytest.approx(float(exact.mean()), abs=1e-4)
    for name in ("run.zarr", "copy.zarr"):
        array = zarr.open_array(tmp_path / name / "mid_block/out/value", mode="r")
        assert array.dtype == np.float16
