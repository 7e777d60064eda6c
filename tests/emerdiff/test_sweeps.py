"""A sweep is segmentations side by side."""

import numpy as np
import pytest

import emerdiff_probe as ep
from emerdiff_probe import schema
from emerdiff_probe.emerdiff import sweep, sweeps
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


def test_values_of_numpy_are_those_of_settings(model, tmp_path):
    options = {"masks": np.int64(2), "config": CONFIG, "progress": False}
    store = tmp_path / "sweep.zarr"
    over = {"strength": np.array([1.0], np.float32), "modulation_timestep": np.array([101])}
    found = sweep(model, PHOTO, over, store=store, **options)
    # The same call with plain numbers is the same sweep.
    again = sweep(model, PHOTO, {"strength": [1.0], "modulation_timestep": [101]}, masks=2,
                  config=CONFIG, store=store, progress=False)  # fmt: skip
    assert found.identical(again)
    with pytest.raises(ConfigError, match="modulation_timestep is '101'"):
        sweep(model, PHOTO, {"modulation_timestep": ["101"]}, **options)


def test_every_combination_is_a_segmentation(model, tmp_path, monkeypatch):
    options = {"masks": 3, "config": CONFIG, "progress": False}
    found = sweep(model, PHOTO, OVER, **options)
    assert found["difference"].dims == (
        "strength",
        "modulation_timestep",
        "mask",
        "model_y",
        "model_x",
    )
    masks = found["masks"].values
    one = ep.segment(
        model,
        PHOTO,
        masks=masks,
        engine="shared",
        config=CONFIG.replace(strength=1.0),
        progress=False,
    )
    with pytest.raises(StoreError, match="difference is float64, not float16"):
        schema.check(found.assign(difference=found["difference"].astype(float)))
    with pytest.raises(StoreError, match="labels has dims"):
        schema.check(found.assign(labels=found["labels"].isel(strength=0, drop=True)))
    chosen = found.sel(strength=1.0, modulation_timestep=101)
    np.testing.assert_allclose(chosen["difference"], one["difference"], rtol=2e-3, atol=1e-3)
    clear = one["margin"].values > 1e-2
    assert np.array_equal(chosen["labels"].values[clear], one["labels"].values[clear])
    other = found.sel(strength=10.0, modulation_timestep=101)
    assert not np.allclose(other["difference"], chosen["difference"], rtol=0.1)

    calls = []
    whole = sweeps.segment

    def counted(*arguments, **named):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(named["config"].strength)
        return whole(*arguments, **named)

    monkeypatch.setattr(sweeps, "segment", counted)
    path = tmp_path / "sweep.zarr"
    with pytest.raises(KeyboardInterrupt):
        sweep(model, PHOTO, OVER, store=path, **options)
    calls.clear()
    stored = sweep(model, PHOTO, OVER, store=path, **options)
    assert calls == [10.0]
    np.testing.assert_array_equal(stored["labels"], found["labels"])
    np.testing.assert_array_equal(stored["difference"], found["difference"])
    with pytest.raises(ConfigError, match="strength"):
        sweep(model, PHOTO, {**OVER, "strength": [1.0, 11.0]}, store=path, **options)


@pytest.mark.parametrize("over", [{}, {"strength": []}, {"lambda_": [1]}, {"strength": [-1.0]}])
def test_what_cannot_be_swept_is_refused(model, over):
    with pytest.raises(ConfigError):
        sweep(model, PHOTO, over, config=CONFIG, progress=False)
