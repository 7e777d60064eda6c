"""`respond()`: what a picture answers to locations and masks, in memory and in a store."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

import emerdiff_probe as ep
from emerdiff_probe import schema
from emerdiff_probe.emerdiff import ENGINES, respond
from emerdiff_probe.emerdiff import responses as module
from emerdiff_probe.errors import CaptureError, ConfigError, InputError, SiteError, StoreError
from emerdiff_probe.scenes import scene
from tests.checkpoints import stable_diffusion, tiny_playground

CONFIG = ep.EmerDiffConfig.closest_to_paper().replace(
    steps=10, feature_timestep=1, modulation_timestep=101
)
PHOTO = ep.Photo(scene(1_000_002).image)


@pytest.fixture(scope="module")
def model():
    """Its modulated site has 4 x 4 locations, so that all of them cost little."""
    return ep.load(stable_diffusion("v1"))


@pytest.fixture(scope="module")
def responses(model):
    return respond(model, PHOTO, config=CONFIG, dtype="float32", progress=False)


def test_the_dataset_is_labelled_and_says_where_it_comes_from(model, responses):
    schema.check(responses)
    assert responses["response"].dims == ("source_y", "source_x", "rgb", "y", "x")
    assert responses["response"].shape == (4, 4, 3, 128, 128)
    assert responses["source_y"].values.tolist() == [16, 48, 80, 112]
    assert responses["y"].values[0] == 0.5
    assert np.array_equal(responses["picture"], scene(1_000_002).image)
    assert responses["features"].shape == (4, 4, 64)
    assert responses.attrs["weights"] == model.weights
    assert json.loads(responses.attrs["config"])["strength"] == CONFIG.strength


def test_norms_of_masks_responses_are_segments_difference_maps(model):
    labels = np.arange(16).reshape(4, 4) // 8
    found = respond(model, PHOTO, labels, config=CONFIG, dtype="float32", progress=False)
    schema.check(found)
    assert np.array_equal(found["low_res"], labels)
    segmented = ep.segment(
        model, PHOTO, masks=labels, config=CONFIG.replace(sigma=0.0), progress=False
    )
    norms = np.sqrt((found["response"] ** 2).sum("rgb"))
    np.testing.assert_allclose(norms, segmented["difference"], rtol=1e-2, atol=1e-4)


def test_responses_are_signed_and_of_their_own_location(model, responses):
    again = respond(
        model,
        PHOTO,
        np.eye(16).reshape(16, 4, 4),
        engine="literal",
        config=CONFIG,
        dtype="float32",
        progress=False,
    )
    flat = responses["response"].values.reshape(16, 3, 128, 128)
    np.testing.assert_allclose(again["response"], flat, rtol=1e-2, atol=1e-4)
    assert (flat < 0).any()
    assert not np.allclose(flat[0], flat[5], atol=1e-3)


def test_half_precision_is_the_default_and_what_it_cannot_hold_is_an_error(model, responses):
    half = respond(model, PHOTO, 2, config=CONFIG, progress=False)
    assert half["response"].dtype == np.float32, "as it is read"
    rounded = half["response"].values.astype(np.float16).astype(np.float32)
    assert np.array_equal(half["response"], rounded), "as it is kept"
    schema.check(half)
    large = torch.tensor([1e5])
    with pytest.raises(CaptureError, match="float32"):
        module.cast(large, "float16")
    assert module.cast(large, "float32") == 1e5
    with pytest.raises(CaptureError):
        module.cast(torch.tensor([float("nan")]), "float32")


def test_a_store_holds_the_same_and_goes_on_where_it_was(model, responses, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GROUP", 5)
    path = tmp_path / "responses.zarr"
    calls, engine = [], ENGINES["shared"]

    def counted(model, trajectory, masks, config):
        calls.append(len(masks))
        if sum(calls) > 12:
            raise KeyboardInterrupt
        return engine(model, trajectory, masks, config)

    monkeypatch.setitem(ENGINES, "shared", counted)
    options = {"config": CONFIG, "dtype": "float32", "store": path, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        respond(model, PHOTO, **options)
    with pytest.raises(StoreError, match=r"holds responses.*ep\.open_responses"):
        ep.open(path)
    part = ep.open_responses(path)
    assert int(np.isfinite(part["response"].isel(rgb=0, y=0, x=0)).sum()) == 10
    calls.clear()
    monkeypatch.setitem(ENGINES, "shared", engine)
    whole = respond(model, PHOTO, **options)
    assert whole["response"].chunks[0] == (1, 1, 1, 1)
    found = whole["response"].load()
    xr.testing.assert_allclose(found, responses["response"], rtol=1e-3, atol=1e-5)
    for name in ("picture", "reconstruction", "features"):
        xr.testing.assert_equal(whole[name].load(), responses[name])
    schema.check(whole)

    # Nothing is left to do, and a chunk that is lost is made again.
    monkeypatch.setitem(ENGINES, "shared", None)
    respond(model, PHOTO, **options)
    (path / "response/c.2.1.0.0.0").unlink()
    monkeypatch.setitem(ENGINES, "shared", engine)
    mended = respond(model, PHOTO, **options)
    assert np.isfinite(mended["response"]).all()


def test_a_store_of_something_else_is_refused(model, tmp_path):
    path = tmp_path / "responses.zarr"
    options = {"store": path, "progress": False}
    respond(model, PHOTO, 2, config=CONFIG, **options)
    respond(model, PHOTO, 2, config=CONFIG.replace(batch=3), **options)
    for changes in (
        {"config": CONFIG.replace(strength=3.0)},
        {"config": CONFIG, "engine": "jump"},
        {"config": CONFIG, "masks": 3},
        {"config": CONFIG, "dtype": "float32"},
    ):
        with pytest.raises(ConfigError, match="begun with"):
            respond(model, PHOTO, **({"masks": 2} | changes), **options)
    other = ep.Photo(scene(1_000_003).image)
    with pytest.raises(ConfigError, match="source"):
        respond(model, other, 2, config=CONFIG, **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("text")
    with pytest.raises(StoreError, match="no responses"):
        respond(model, PHOTO, 2, config=CONFIG, store=tmp_path / "mine")


def test_damage_is_an_error_and_never_zeros(model, tmp_path):
    path = tmp_path / "responses.zarr"
    found = respond(model, PHOTO, 2, config=CONFIG, store=path, progress=False)
    chunk = path / "response/c.1.0.0.0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 255
    chunk.write_bytes(bytes(content))
    assert np.isfinite(found["response"][0]).all()
    with pytest.raises(Exception, match=r"(?i)checksum|crc"):
        found["response"][1].load()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"masks": "pixels"}, InputError, "locations"),
        ({"engine": "magic"}, ConfigError, "literal"),
        ({"config": CONFIG.replace(space="latent")}, ConfigError, "latent"),
        ({"dtype": "int8"}, ConfigError, "float16"),
        ({"masks": np.ones((3, 5, 5))}, InputError, "4 x 4"),
        (
            {"masks": 2, "config": CONFIG.replace(feature_site="up_blocks.2.attentions.0")},
            SiteError,
            "one level",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(model, options, error, words):
    with pytest.raises(error, match=words):
        respond(model, PHOTO, **({"config": CONFIG, "progress": False} | options))


def test_a_location_moves_what_lies_over_it_most():
    model = ep.load(tiny_playground())
    config = ep.EmerDiffConfig.playground().replace(
        steps=10, feature_timestep=1, modulation_timestep=101
    )
    mask = np.zeros((1, 16, 16))
    mask[0, 3, 12] = 1
    found = respond(model, PHOTO, mask, engine="jump", config=config, progress=False)
    size = np.sqrt((found["response"][0].astype(np.float32) ** 2).sum("rgb"))
    near = size.sel(y=slice(16, 40), x=slice(88, 112)).mean()
    assert near > 3 * size.sel(y=slice(80, 128), x=slice(0, 40)).mean()
