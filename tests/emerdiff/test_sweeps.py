"""A sweep is segmentations side by side."""

import itertools
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import emerdiff_probe as ep
from emerdiff_probe import schema
from emerdiff_probe.emerdiff import sweeps
from emerdiff_probe.errors import ConfigError, StoreError
from emerdiff_probe.scenes import scene
from tests.checkpoints import stable_diffusion

CONFIG = ep.EmerDiffConfig.closest_to_paper().replace(
    steps=10, feature_timestep=1, modulation_timestep=101
)
PHOTO = ep.Photo(scene(1_000_002).image)
OVER = {"strength": [1.0, 10.0], "modulation_timestep": [1, 101]}


@pytest.fixture(scope="module")
def model():
    return ep.load(stable_diffusion("v1"))


@pytest.fixture(scope="module")
def run(model):
    return ep.invert(model, PHOTO, steps=CONFIG.steps, progress=False)


@contextmanager
def counted(model):
    """Rows of each UNet call, without those at t = 500, by which a model is identified."""
    rows = []
    handle = model.unet.register_forward_pre_hook(
        lambda _, inputs: rows.append(len(inputs[0])) if inputs[1] != 500 else None
    )
    try:
        yield rows
    finally:
        handle.remove()


def test_every_combination_is_a_segmentation(run):
    options = {"masks": 3, "config": CONFIG, "progress": False}
    found = run.sweep(**OVER, **options)
    assert found["difference"].dims == (
        "strength",
        "modulation_timestep",
        "mask",
        "model_y",
        "model_x",
    )
    for strength, timestep in itertools.product(*OVER.values()):
        chosen = found.sel(strength=strength, modulation_timestep=timestep)
        one = run.segment(strength=strength, modulation_timestep=timestep, **options)
        np.testing.assert_allclose(chosen["difference"], one["difference"], rtol=1e-3, atol=1e-4)
        clear = one["margin"].values > 1e-2
        assert clear.mean() > 0.5
        assert np.array_equal(chosen["labels"].values[clear], one["labels"].values[clear])
    first, other = (found["difference"].isel(strength=at) for at in (0, 1))
    assert not np.allclose(first, other, rtol=0.1)
    with pytest.raises(StoreError, match="difference is float64, not float32"):
        schema.check(found.assign(difference=found["difference"].astype(float)))
    with pytest.raises(StoreError, match="labels has dims"):
        schema.check(found.assign(labels=found["labels"].isel(strength=0, drop=True)))


@pytest.mark.parametrize("engine", ["literal", "shared", "short", "jump"])
def test_only_what_differs_is_computed(model, run, engine):
    options = {"masks": 2, "config": CONFIG, "engine": engine, "progress": False}
    run.segment(**options)  # reads the features, which are kept then
    with counted(model) as one:
        alone = run.segment(**options)
    with counted(model) as three:
        found = run.sweep(sigma=[0, 1, 2], balance=["none", "mean"], **options)
    assert three == one
    assert found["labels"].shape == (3, 2, 128, 128)
    np.testing.assert_array_equal(found["labels"].sel(sigma=1, balance="none"), alone["labels"])
    assert (found["labels"].sel(sigma=0) != found["labels"].sel(sigma=2)).any()


def test_strengths_share_the_unmodulated_run(model, run):
    options = {"masks": 2, "config": CONFIG, "progress": False}
    with counted(model) as one:
        run.sweep(strength=[10.0], **options)
    with counted(model) as three:
        run.sweep(strength=[5.0, 10.0, 20.0], **options)
    unmodulated = one.count(1)
    assert unmodulated == 2  # t_m = 101 and 1
    assert three.count(1) == unmodulated
    assert len(three) - unmodulated == 3 * (len(one) - unmodulated)


def test_a_store_resumes_and_holds_the_same(run, tmp_path, monkeypatch):
    options = {"masks": 3, "config": CONFIG, "progress": False}
    found = run.sweep(**OVER, **options)
    strengths, whole = [], sweeps.difference_maps

    def interrupted(run, modulated, config):
        if len(strengths) == 3:
            raise KeyboardInterrupt
        strengths.append((config.strength, config.modulation_timestep))
        return whole(run, modulated, config)

    monkeypatch.setattr(sweeps, "difference_maps", interrupted)
    path = tmp_path / "sweep.zarr"
    with pytest.raises(KeyboardInterrupt):
        run.sweep(store=path, **OVER, **options)
    first = list(strengths)
    strengths.clear()
    stored = run.sweep(store=path, **OVER, **options)
    assert sorted(first + strengths) == sorted(itertools.product(*OVER.values()))
    np.testing.assert_array_equal(stored["labels"], found["labels"])
    np.testing.assert_array_equal(stored["difference"], found["difference"])
    with pytest.raises(ConfigError, match="strength"):
        run.sweep(store=path, **(OVER | {"strength": [1.0, 11.0]}), **options)


@pytest.mark.parametrize(
    ("over", "words"),
    [
        ({}, "at least one value"),
        ({"strength": []}, "at least one value"),
        ({"strength": 3.0}, "lists of values"),
        ({"lambda_": [1]}, "lambda_"),
        ({"strength": [-1.0]}, "strength"),
        ({"normalise": ["l2"]}, "clusters once"),
        ({"steps": [10]}, "clusters once|decided"),
    ],
)
def test_what_cannot_be_swept_is_refused(run, over, words):
    with pytest.raises(ConfigError, match=words):
        run.sweep(config=CONFIG, progress=False, **over)


def test_no_store_is_made_of_an_address(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address in ("s3://bucket/run.zarr", "memory://run.zarr", Path("s3://bucket/run.zarr")):
        with pytest.raises(StoreError, match=r"is not a folder on this machine, where stores are"):
            run.sweep(sigma=[0, 1], masks=3, config=CONFIG, store=address, progress=False)
        with pytest.raises(StoreError, match=r"is not a folder on this machine, where stores are"):
            run.respond(2, config=CONFIG, store=address, progress=False)
        with pytest.raises(StoreError, match=r"is not a folder on this machine, where stores are"):
            ep.open_responses(address)
    assert list(tmp_path.iterdir()) == []
