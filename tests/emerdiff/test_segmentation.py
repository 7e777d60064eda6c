"""`segment()`: the dataset that it makes, from prompts and photographs, with masks of any kind."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

import emerdiff_probe as ep
from emerdiff_probe import schema
from emerdiff_probe.errors import ConfigError, InputError, SiteError
from emerdiff_probe.scenes import scene
from tests.checkpoints import stable_diffusion, tiny_playground

CONFIG = ep.EmerDiffConfig.playground().replace(
    steps=10, feature_timestep=1, modulation_timestep=101, sigma=1
)
PICTURE = scene(1_000_002).image


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


def segment(model, source=None, **options):
    source = source or ep.Photo(PICTURE)
    options = {"masks": 4, "config": CONFIG, "progress": False} | options
    return ep.segment(model, source, **options)


def test_the_dataset_is_labelled_and_says_where_it_comes_from(model):
    result = segment(model)
    schema.check(result)
    assert result["labels"].shape == (128, 128)
    assert result["low_res"].shape == (16, 16)
    assert np.array_equal(result["picture"], PICTURE)
    assert set(np.unique(result["labels"])) <= set(range(4))
    assert json.loads(result.attrs["config"])["strength"] == CONFIG.strength
    assert result.attrs["weights"] == model.weights
    assert "noise_rms" in json.loads(result.attrs["inversion"])
    assert "picture_psnr" in json.loads(result.attrs["inversion"])


def test_labels_strength_and_margin_follow_from_the_difference_maps(model):
    result = segment(model)
    maps = np.sort(result["difference"].values, axis=0)
    assert np.array_equal(result["labels"], result["difference"].argmax("mask"))
    np.testing.assert_allclose(result["strength"], maps[-1], rtol=1e-6)
    np.testing.assert_allclose(result["margin"], 1 - maps[-2] / maps[-1], rtol=1e-3, atol=1e-5)
    for mask in range(4):
        inside = result["features"].values[result["low_res"].values == mask]
        np.testing.assert_allclose(result["embeddings"][mask], inside.mean(0), rtol=1e-4, atol=1e-5)


def test_the_same_call_gives_the_same_result_and_another_seed_another(model):
    first, again, other = (segment(model, config=CONFIG.replace(seed=s)) for s in (0, 0, 1))
    xr.testing.assert_identical(first, again)
    assert not np.array_equal(first["strength"], other["strength"])


def test_own_masks_serve_in_any_form(model):
    # A gentle shift: the group norm behind it takes a strong one of either half for the same
    # contrast of both, so that both halves of the image answer alike.
    config = CONFIG.replace(strength=1)
    labels = np.arange(256).reshape(16, 16) // 128
    from_labels = segment(model, masks=labels, config=config)
    stack = np.stack([labels == 0, labels == 1])
    from_stack = segment(model, masks=stack, config=config)
    finer = segment(model, masks=np.kron(labels, np.ones((8, 8), int)), config=config)
    assert np.array_equal(from_labels["low_res"], labels)
    for other in (from_stack, finer):
        xr.testing.assert_equal(from_labels["labels"], other["labels"])
    # The upper mask moves the upper pixels more, even in an untrained network.
    upper = from_labels["labels"].values == 0
    assert upper[:48].mean() > upper[80:].mean() + 0.2


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (0, "0"),
        (257, "256"),
        (True, "True"),
        (np.zeros((2, 16, 16)), "empty|weight"),
        (np.ones((5, 7), int), "16"),
    ],
)
def test_masks_that_cannot_be_are_refused(model, masks, words):
    with pytest.raises(InputError, match=words):
        segment(model, masks=masks)


def test_one_mask_takes_everything(model):
    result = segment(model, masks=1)
    assert not result["labels"].any()
    assert (result["margin"] == 1).all()


@pytest.mark.parametrize("size", [(101, 67), (300, 200), (40, 90)])
def test_labels_have_the_photographs_own_size(model, size):
    picture = np.random.RandomState(0).randint(0, 255, (*size, 3)).astype(np.uint8)
    result = segment(model, ep.Photo(picture))
    assert result["labels"].shape == size
    assert np.array_equal(result["picture"], picture)
    assert result["y"].values[0] == 0.5
    assert result["model_y"].values[-1] < size[0]
    assert str(result.sizes["model_y"]) in result.attrs["fit"]


def test_a_prompts_drawing_is_segmented(model):
    result = segment(model, ep.Prompt("a red house", seed=3))
    other = segment(model, ep.Prompt("a red house", seed=4))
    assert result["picture"].shape == (128, 128, 3)
    assert not np.array_equal(result["picture"], other["picture"])
    assert "a red house" in result.attrs["source"]
    # The drawing run itself is probed, so nothing has to be rebuilt.
    rebuilt = result["reconstruction"].values * 255
    assert np.abs(rebuilt - result["picture"].values).max() < 1


def test_a_drawing_can_be_inverted_like_a_photograph(model):
    result = segment(model, ep.Prompt("a red house"), config=CONFIG.replace(condition="empty"))
    assert json.loads(result.attrs["inversion"])["method"] == "edit_friendly"
    rebuilt = result["reconstruction"].values * 255
    assert 0 < np.abs(rebuilt - result["picture"].values).mean() < 12
    with pytest.raises(ConfigError, match="images and latents are denoised with the empty prompt"):
        segment(model, config=None, condition="prompt")


@pytest.mark.parametrize("inversion", ["ddim", "noising"])
def test_the_other_inversions_serve_as_well(model, inversion):
    result = segment(model, config=CONFIG.replace(inversion=inversion))
    assert json.loads(result.attrs["inversion"])["method"] == inversion
    assert np.isfinite(result["strength"]).all()


def test_features_may_be_read_before_the_modulation(model):
    """t_f above t_m: the trajectory then begins at t_f."""
    early = segment(model, config=CONFIG.replace(feature_timestep=501))
    assert not np.allclose(early["features"], segment(model)["features"])


def test_features_may_be_a_blocks_output(model):
    result = segment(model, config=CONFIG.replace(feature_site="up_blocks.1.resnets.0"))
    assert result["low_res"].shape == (16, 16)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"modulation_timestep": 280}, ConfigError, "not on the grid"),
        ({"feature_site": "up_blocks.7.attn2:query"}, SiteError, "closest"),
        ({"feature_site": CONFIG.modulation_site.replace(":out", ":key")}, SiteError, "laid out"),
        ({"modulation_site": "up_blocks.0.attentions.0"}, SiteError, "locations"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(model, changes, error, words):
    with pytest.raises(error, match=words):
        segment(model, config=CONFIG.replace(**changes))


def test_unknown_engines_and_sources_are_refused(model):
    with pytest.raises(ConfigError, match="literal"):
        segment(model, engine="magic")
    with pytest.raises(InputError, match=r"ep\.Prompt"):
        segment(model, 3)


def test_it_survives_a_round_trip_through_zarr(model, tmp_path):
    result = segment(model)
    result.to_zarr(tmp_path / "result.zarr")
    back = xr.open_zarr(tmp_path / "result.zarr").load()
    schema.check(back)
    xr.testing.assert_identical(result, back)


def test_stable_diffusion_v2_segments_end_to_end():
    model = ep.load(stable_diffusion("v2"))
    config = ep.EmerDiffConfig.closest_to_paper().replace(steps=10, modulation_timestep=101)
    result = ep.segment(model, ep.Photo(PICTURE), masks=3, config=config, progress=False)
    assert result["low_res"].shape == (4, 4)
    assert json.loads(result.attrs["model_description"])["schedule"]["prediction"] == "v_prediction"


def test_the_models_own_output_is_the_same_before_and_after(model):
    def picture():
        generator = torch.Generator().manual_seed(1)
        return model.pipeline(
            "a tree", num_inference_steps=2, generator=generator, output_type="np"
        ).images

    before = picture()
    segment(model)
    assert (picture() == before).all()
