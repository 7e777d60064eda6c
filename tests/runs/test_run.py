"""One picture in one model: whatever a run is asked, the answers agree, and nothing runs twice."""

import itertools
from contextlib import contextmanager

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import emerdiff_probe as ep
from emerdiff_probe import schema
from emerdiff_probe.errors import CaptureError, ConfigError, InputError, SiteError
from emerdiff_probe.locations import joined_heads
from emerdiff_probe.scenes import scene
from tests.checkpoints import stable_diffusion, tiny_playground

PICTURE = np.asarray(Image.fromarray(scene(1_000_002).image).resize((300, 200)))
QUIET = {"progress": False}
EACH = ["prompt", "photograph"]
ASKED = {"steps": 10, **QUIET}


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


@pytest.fixture(scope="module")
def config(model):
    return ep.EmerDiffConfig.for_model(
        model, steps=10, feature_timestep=201, modulation_timestep=301, sigma=0
    )


@pytest.fixture(scope="module")
def runs(model):
    return {
        "prompt": ep.generate(model, "a red house", seed=3, **ASKED),
        "photograph": ep.invert(model, PICTURE, seed=3, **ASKED),
    }


@contextmanager
def counted(model):
    """Calls of the UNet, without those at t = 500, by which a model is identified."""
    calls = []
    handle = model.unet.register_forward_pre_hook(
        lambda _, inputs: calls.append(1) if inputs[1] != 500 else None
    )
    try:
        yield calls
    finally:
        handle.remove()


@pytest.fixture(scope="module")
def answers(model, runs, config):
    """What every function gives of a prompt and of a photograph of another size."""
    found = {}
    sources = {"prompt": ep.Prompt("a red house", seed=3), "photograph": PICTURE}
    for name, run in runs.items():
        ask = {"config": config, "engine": "jump", **QUIET}
        sites = f"{config.feature_site}, {config.modulation_site}"
        once = ep.record(model, sources[name], sites, dtype="float32", seed=3, **ASKED)
        short = {"seed": 3, **ask}
        found[name] = {
            "run": run,
            "record": run.record(sites, dtype="float32", **QUIET),
            "record at once": once,
            "segment": run.segment(4, **ask),
            "segment at once": ep.segment(model, sources[name], 4, **short),
            "respond": run.respond(4, dtype="float32", **ask),
            "respond at once": ep.respond(model, sources[name], 4, dtype="float32", **short),
            "responder": run.responder(config=config, engine="jump").frame,
            "sweep": run.sweep(4, sigma=[0.0, 2.0], **ask),
            "sensitivity": run.sensitivity([(20.5, 30.5)], config=config, **QUIET),
            "replay": run.replay(**QUIET),
        }
    return found


@pytest.mark.parametrize("name", EACH)
def test_features_agree(answers, config, name):
    """The table of contradictions, of what a site holds."""
    each = answers[name]
    expected = each["run"].features(config.feature_site, config.feature_timestep)
    for key in ("segment", "segment at once", "responder", "respond"):
        np.testing.assert_array_equal(each[key]["features"], expected)
    for key in ("record", "record at once"):
        values = ep.site(each[key], config.feature_site).isel(sample=0)
        values = values.sel(timestep=config.feature_timestep)
        values = values.sel(guidance="cond") if "guidance" in values.dims else values
        np.testing.assert_allclose(joined_heads(values), expected, rtol=1e-4, atol=1e-4)
    # The control: another timestep's are others.
    other = each["run"].features(config.feature_site, 101)
    assert not np.allclose(other, expected, atol=1e-2)


@pytest.mark.parametrize("name", EACH)
def test_pictures_agree(answers, name):
    each, run = answers[name], answers[name]["run"]
    for key in ("segment", "segment at once", "sweep"):
        np.testing.assert_array_equal(each[key]["picture"], run.picture)
    seen = np.rint(run.pixels * 255)
    for key in ("respond", "respond at once", "responder"):
        np.testing.assert_array_equal(each[key]["picture"], seen)
    for key in ("segment", "respond", "responder"):
        np.testing.assert_allclose(each[key]["reconstruction"], run.reconstruction, atol=1e-5)
    for key in ("segment at once", "respond at once"):
        np.testing.assert_allclose(each[key]["reconstruction"], run.reconstruction, atol=1e-3)
    ended = np.rint(run.reconstruction * 255)
    for key in ("record", "record at once"):
        image = ep.site(each[key], "image").isel(sample=0)
        np.testing.assert_allclose(image, ended, atol=1)
    np.testing.assert_allclose(each["replay"].reconstruction, run.reconstruction, atol=1e-3)
    if name == "prompt":
        np.testing.assert_array_equal(run.picture, ended)


@pytest.mark.parametrize("name", EACH)
def test_coordinates_agree(answers, config, name):
    """Every place is in pixels of the picture's own size, whatever the grid."""
    each, (height, width) = answers[name], answers[name]["run"].size
    assert (height, width) == ((200, 300) if name == "photograph" else (128, 128))
    coords = [
        (key, dim, answer[dim])
        for key, answer in each.items()
        if isinstance(answer, xr.Dataset | xr.DataArray)
        for dim in answer.dims
        if dim in ("y", "x", "source_y", "source_x", "model_y", "model_x")
    ]
    recorded = each["record"]
    coords += [
        (leaf.path, dim, leaf["value"][dim])
        for leaf in recorded.leaves
        for dim in leaf["value"].dims
        if dim in ("y", "x")
    ]
    assert len(coords) > 30
    for key, dim, values in coords:
        side = height if dim.endswith("y") else width
        expected = schema.pixel_centres(len(values), side)
        np.testing.assert_allclose(values, expected, err_msg=f"{key} {dim}")
    # One place is one place: the row of the features that a recording has there.
    place = {"y": 0.8 * height, "x": 0.3 * width}
    values = ep.site(recorded, config.feature_site).isel(sample=0).sel(timestep=201)
    values = values.sel(guidance="cond") if "guidance" in values.dims else values
    there = each["segment"]["features"].sel(
        source_y=place["y"], source_x=place["x"], method="nearest"
    )
    found = joined_heads(values).sel(place, method="nearest")
    np.testing.assert_allclose(found, there, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", EACH)
def test_labels_agree(answers, name):
    each = answers[name]
    labels = each["segment"]["labels"]
    assert labels.shape == each["run"].size
    assert len(np.unique(labels)) > 1
    swept = each["sweep"]["labels"].sel(sigma=0.0)
    np.testing.assert_array_equal(swept, labels)
    assert (each["segment at once"]["labels"] == labels).mean() > 0.99
    norms = np.sqrt((each["respond"]["response"] ** 2).sum("rgb"))
    np.testing.assert_allclose(norms, each["segment"]["difference"], rtol=1e-2, atol=1e-4)
    for key in ("segment at once", "respond", "sweep"):
        np.testing.assert_array_equal(each[key]["low_res"], each["segment"]["low_res"])


def test_one_inversion_whatever_is_asked(model, config):
    ask = {"config": config, "engine": "jump", **QUIET}
    with counted(model) as inverted:
        run = ep.invert(model, PICTURE, **ASKED)
    assert len(inverted) == 10
    with counted(model) as first:
        run.segment(4, **ask)
    with counted(model) as again:
        run.segment(4, **ask)
        run.respond(4, **ask)
    # Features once; then one unmodulated call at t_m, and the branches of all masks in one.
    assert len(first) == 3
    assert len(again) == 4
    with counted(model) as recorded:
        run.record("mid_block", timesteps=[301, 101], **QUIET)
    assert len(recorded) == 2


def test_short_forms_cost_no_more_than_they_need(model, config):
    with counted(model) as segmented:
        ep.segment(model, PICTURE, 4, engine="jump", config=config, **QUIET)
    # t = 301, 201, 101 and 1, where features are read on the way; then t_m and the branches.
    assert len(segmented) == 4 + 2
    for source in (PICTURE, "a red house"):
        with counted(model) as recorded:
            ep.record(model, source, "mid_block", **ASKED)
        assert len(recorded) == 10


def test_equal_seeds_give_equal_pictures(model):
    """Whoever draws: steps and guidance are decided in one place."""
    drawn = ep.generate(model, "a red house", seed=5, **QUIET)
    assert np.array_equal(
        ep.generate(model, ep.Prompt("a red house", 5), **QUIET).picture, drawn.picture
    )
    recorded = ep.record(model, ep.Prompt("a red house", 5), "mid_block", timesteps=[1], **QUIET)
    assert np.array_equal(ep.site(recorded, "image")[0], drawn.picture)
    segmented = ep.segment(model, "a red house", 2, seed=5, engine="jump", **QUIET)
    assert np.array_equal(segmented["picture"], drawn.picture)
    assert drawn.settings.steps == ep.EmerDiffConfig.for_model(model).steps == 25
    other = ep.generate(model, "a red house", seed=6, **QUIET)
    assert not np.array_equal(other.picture, drawn.picture)


def test_what_was_decided_is_not_decided_again(model, runs, config):
    with pytest.raises(ConfigError, match=r"steps is fixed when a run is made, and is 10"):
        runs["prompt"].segment(2, steps=20)
    with pytest.raises(ConfigError, match=r"have steps=25, and the run was made with 10"):
        runs["prompt"].segment(2, config=config.replace(steps=25))
    with pytest.raises(ConfigError, match=r"have guidance=2, and the run was made with 4"):
        runs["prompt"].segment(2, config=config.replace(guidance=2))
    with pytest.raises(
        ConfigError,
        match=r"not on the grid of the run's 10 steps: 1, 101, .*_timestep=\d+, the nearest",
    ):
        runs["photograph"].segment(2, config=config, modulation_timestep=281)
    with pytest.raises(ConfigError, match="no setting lambda_"):
        runs["photograph"].segment(2, config=config, lambda_=3)


def test_settings_are_keywords_over_the_models_defaults(model, runs):
    settings = {"feature_timestep": 201, "modulation_timestep": 301, "engine": "jump", **QUIET}
    strong = runs["photograph"].segment(2, strength=30.0, **settings)
    usual = runs["photograph"].segment(2, **settings)
    assert '"strength": 30.0' in strong.attrs["config"]
    assert '"strength": 40.0' in usual.attrs["config"]
    assert not np.allclose(strong["difference"], usual["difference"], rtol=1e-2)
    foreign = ep.EmerDiffConfig.closest_to_paper().replace(
        steps=10, feature_timestep=201, modulation_timestep=301
    )
    with pytest.warns(UserWarning, match="made for stable-diffusion") as warned:
        runs["photograph"].segment(2, config=foreign, engine="jump", **QUIET)
    # It names the line that asked.
    assert warned[0].filename == __file__


def test_the_number_of_masks_can_be_chosen_by_the_features(runs, config):
    found = runs["photograph"].segment("auto", config=config, engine="jump", **QUIET)
    features = runs["photograph"].features(config.feature_site, 201)
    scores = ep.segments.silhouettes(
        features, [found.sizes["mask"], 32], normalise=config.normalise, seed=config.seed
    )
    assert found.sizes["mask"] < 32
    assert scores[0] > scores[1]
    with pytest.raises(InputError, match="'auto'"):
        runs["photograph"].segment("all", config=config, **QUIET)


def test_a_replay_is_a_run_under_interventions(runs, config):
    run = runs["photograph"]
    edited = run.replay(ep.Ablate("mid_block"), **QUIET)
    assert edited.picture.shape == run.picture.shape
    assert np.abs(edited.reconstruction - run.reconstruction).max() > 0.05
    # The same noise: start and z_t are the run's own.
    assert edited.trajectory.start.equal(run.trajectory.start)
    for one, other in itertools.pairwise((edited.trajectory.noises, run.trajectory.noises)):
        assert all(a.equal(b) for a, b in zip(one, other, strict=True))
    # What is asked of it is asked under them.
    recorded = edited.record("mid_block", **QUIET)
    assert not ep.site(recorded, "mid_block").values.any()
    assert ep.site(run.record("mid_block", **QUIET), "mid_block").values.any()
    ended = ep.site(recorded, "image")[0]
    np.testing.assert_allclose(ended, np.rint(edited.reconstruction * 255), atol=1)
    with pytest.raises(ConfigError, match="engine='literal'"):
        edited.segment(2, config=config, engine="shared", **QUIET)
    literal = edited.segment(2, config=config, engine="literal", **QUIET)
    assert "Ablate" in literal.attrs["interventions"]
    # Left out, the engine is the one that can answer.
    assert edited.segment(2, config=config, **QUIET).identical(literal)
    assert edited.respond(2, config=config, **QUIET).attrs["engine"] == "literal"
    assert edited.sweep(2, config=config, sigma=[0, 1], **QUIET).attrs["engine"] == "literal"
    assert run.respond(2, config=config, **QUIET).attrs["engine"] == "shared"
    responder = edited.responder(config=config)
    assert responder.engine == "literal"
    assert responder.engines == ("literal",)
    with pytest.raises(ConfigError, match="engine='literal'"):
        responder.use("shared")
    # Only where it acts, and undone after an error.
    at_once = run.replay(ep.Scale("mid_block", 0.0, timesteps=[101]), **QUIET)
    assert np.abs(at_once.reconstruction - run.reconstruction).max() > 1e-3
    assert not ep.site(at_once.record("mid_block", **QUIET), "mid_block").sel(timestep=101).any()
    assert ep.site(at_once.record("mid_block", **QUIET), "mid_block").sel(timestep=201).any()
    with pytest.raises(SiteError):
        run.replay(ep.Ablate("nowhere"), **QUIET)
    with pytest.raises(CaptureError, match="never took effect"):
        run.replay(ep.Ablate("mid_block", timesteps=[102]), **QUIET)
    again = run.replay(**QUIET)
    np.testing.assert_allclose(again.reconstruction, run.reconstruction, atol=1e-3)


def test_a_model_that_is_changed_is_not_asked(config):
    model = ep.load(tiny_playground())
    run = ep.invert(model, PICTURE, **ASKED)
    with (
        ep.intervene(model, [ep.Ablate("mid_block")]),
        pytest.raises(ConfigError, match=r"begun with another model:(?s:.*)Ablate"),
    ):
        run.segment(2, config=config, engine="jump", **QUIET)
    model.unet.conv_in.bias.data.add_(1.0)
    with pytest.raises(ConfigError, match=r"weights.unet: stored (?s:.*)make another run"):
        run.respond(2, config=config, engine="jump", **QUIET)


def test_a_run_shows_itself(runs):
    assert repr(runs["prompt"]).startswith("Run('a red house', seed 3,")
    page = runs["photograph"]._repr_html_()
    assert page.count("<img") == 2
    assert "true noise: 1" in page
    assert f"{runs['photograph'].diagnostics['picture_psnr']} dB" in page
    assert runs["prompt"]._repr_html_().count("<img") == 1
    large = ep.invert(
        runs["prompt"].model,
        np.random.RandomState(0).randint(0, 255, (900, 900, 3), np.uint8),
        **ASKED,
    )
    assert len(large._repr_html_()) < 1_500_000


def test_diagnostics_say_how_good_the_inversion_is(model, runs):
    found = runs["photograph"].diagnostics
    assert found["method"] == "edit_friendly"
    assert len(found["noise_rms"]) == len(found["noise_autocorrelation"]) == 9
    assert found["picture_psnr"] <= found["autoencoder_psnr"] + 0.5
    assert runs["prompt"].diagnostics["latent_rms_error"] == 0
    true = runs["prompt"].diagnostics["noise_rms"]
    assert all(abs(each - 1) < 0.1 for each in true)


def test_ddim_and_noising_start_where_it_is_decided(model, config):
    for inversion in ("ddim", "noising"):
        run = ep.invert(model, PICTURE, inversion=inversion, start=301, **ASKED)
        assert run.trajectory.timesteps == (301, 201, 101, 1)
        recorded = run.record(config.feature_site, dtype="float32", **QUIET)
        values = ep.site(recorded, config.feature_site).isel(sample=0).sel(timestep=201)
        features = run.features(config.feature_site, 201)
        np.testing.assert_allclose(joined_heads(values), features, rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigError, match="below every timestep"):
        ep.invert(model, PICTURE, inversion="ddim", start=0, **ASKED)


@pytest.mark.parametrize("version", ["v2"])
def test_other_layouts_are_asked_alike(version):
    run = ep.generate(ep.load(stable_diffusion(version)).pipeline, "a tree", steps=10, **QUIET)
    found = run.segment(2, feature_timestep=1, modulation_timestep=101, engine="jump", **QUIET)
    assert found["labels"].shape == run.size


def test_inputs_are_taken_where_no_confusion_is_possible(model, tmp_path):
    path = tmp_path / "cat.png"
    Image.fromarray(PICTURE).save(path)
    for given in (path, str(path), Image.open(path), PICTURE, ep.Photo(path)):
        run = ep.invert(model, given, steps=2, **QUIET)
        assert np.array_equal(run.picture, PICTURE)
    with pytest.raises(InputError, match=r"ep\.generate\(model, prompt\)"):
        ep.invert(model, "a red house", **QUIET)
    with pytest.raises(InputError, match=r"ep\.invert\(model, image\)"):
        ep.generate(model, "cat.png", **QUIET)
    with pytest.raises(InputError, match="not float64 array"):
        ep.invert(model, PICTURE / 255, **QUIET)
    assert ep.generate(model, ep.Prompt("cat.png"), steps=2, **QUIET).prepared.name == "cat.png"


def test_tokens_of_a_text_are_no_places_whatever_their_number(runs, model):
    """64 tokens would fit 8 x 8 places; only the site tells what they are."""
    run = runs["prompt"]
    assert model.text.tokenizer.model_max_length == 64
    with counted(model) as calls:
        for port in ("key", "value"):
            with pytest.raises(SiteError, match=f"attn2:{port}' has dims token x head x channel"):
                run.features(f"up_blocks.1.attentions.0.transformer_blocks.0.attn2:{port}", 201)
    assert not calls
    own = run.features("up_blocks.1.attentions.0.transformer_blocks.0.attn1:key", 201)
    whole = run.features("up_blocks.1.attentions.0", 201)
    assert own.shape[:2] == whole.shape[:2] == (16, 16)


def test_features_are_the_recorded_ones_wherever_they_lie(runs):
    """Rows and columns of an oblong image, of tokens and of maps."""
    run = runs["photograph"]
    sites = ["mid_block", "up_blocks.1.attentions.0.transformer_blocks.0.attn1:query"]
    recorded = run.record(", ".join(sites), timesteps=[201], dtype="float32", progress=False)
    for site in sites:
        found = run.features(site, 201)
        of_site = ep.site(recorded, site).isel(
            sample=0, guidance=-1, timestep=0, missing_dims="ignore"
        )
        if "head" in of_site.dims:
            of_site = of_site.stack(all=("head", "channel"))
        np.testing.assert_allclose(of_site.values, found.values, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(of_site["y"], found["source_y"])
        np.testing.assert_array_equal(of_site["x"], found["source_x"])


def test_a_run_answers_only_while_its_model_is_what_it_was(config, tmp_path):
    """Answers start from latents that the unchanged model computed."""
    model = ep.load(tiny_playground(seed=5))
    run = ep.generate(model, "a red house", **ASKED)
    asked = {
        "record": lambda: run.record("mid_block", store=tmp_path / "run.zarr", **QUIET),
        "features": lambda: run.features("mid_block", 201),
        "replay": lambda: run.replay(**QUIET),
        "segment": lambda: run.segment(2, config=config, **QUIET),
    }
    with ep.intervene(model, ep.Shift("up_blocks.0", 50.0)):
        for ask in asked.values():
            with pytest.raises(ConfigError, match=r"(?s)interventions: .*run\.replay"):
                ask()
    weights = model.unet.mid_block.resnets[0].conv1.weight.data
    before = weights.clone()
    weights.mul_(3)
    for ask in asked.values():
        with pytest.raises(ConfigError, match=r"weights\.unet"):
            ask()
    assert not (tmp_path / "run.zarr").exists()
    weights.copy_(before)
    fresh = ep.generate(model, "a red house", **ASKED)
    xr.testing.assert_equal(asked["features"](), fresh.features("mid_block", 201))
    assert np.array_equal(asked["replay"]().picture, fresh.picture)


def test_what_a_prompt_tells_is_no_setting(model):
    for ask in (ep.record, ep.segment, ep.respond):
        with pytest.raises(ConfigError, match=r"height, width.*ep\.Prompt\(text, height=\.\.\.\)"):
            ask(model, "a red house", height=64, width=96)
