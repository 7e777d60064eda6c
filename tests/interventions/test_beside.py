"""Interventions in text encoders and the autoencoder take effect in what is drawn."""

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.errors import CaptureError, ConfigError, SiteError
from tests.checkpoints import stable_diffusion, stable_diffusion_xl, tiny_playground
from tests.families import flux, pixart, stable_diffusion_3

PIPELINES = {
    "stable-diffusion": lambda: stable_diffusion("v2"),
    "stable-diffusion-xl": stable_diffusion_xl,
    "stable-diffusion-3": stable_diffusion_3,
    "flux": flux,
    "pixart": pixart,
}
PROMPT = ep.Prompt("a red house", height=64, width=128)
OPTIONS = {"steps": 2, "guidance": 2.0, "progress": False}
LAYER = "text_encoder.layers.0"


@pytest.fixture(scope="module", params=PIPELINES)
def drawn(request):
    pipeline = PIPELINES[request.param]()
    pipeline.set_progress_bar_config(disable=True)
    model = ep.load(pipeline)
    return model, ep.generate(model, PROMPT, **OPTIONS)


def test_a_replay_reads_its_text_again(drawn):
    model, run = drawn
    last = max(name for name in model.parts if name.startswith("text_encoder"))
    for site in {LAYER, f"{last}.layers.0", "vae.decoder.mid_block"}:
        same = run.replay(ep.Scale(site, 1.0), progress=False)
        assert np.array_equal(same.picture, run.picture), site
        without = run.replay(ep.Ablate(site), progress=False)
        assert not np.array_equal(without.picture, run.picture), site
        # What is asked of it is about the edited text, too.
        if site == LAYER:
            # Flux reads this encoder's text as one vector alone.
            kept, edited = (
                [each.condition.embeddings, each.condition.pooled] for each in (run, without)
            )
            assert not all(map(torch.equal, kept[: 1 + (kept[1] is not None)], edited))
            block = model.sites("*", kind="block").index[0]
            assert without.features(block, run.trajectory.timesteps[0]).notnull().all()
    assert np.array_equal(ep.generate(model, PROMPT, **OPTIONS).picture, run.picture)


def test_generation_under_an_intervention_is_the_replay(drawn):
    model, run = drawn
    edit = ep.Ablate(LAYER, how="mean")
    with ep.intervene(model, edit):
        under = ep.generate(model, PROMPT, **OPTIONS)
    assert np.array_equal(under.picture, run.replay(edit, progress=False).picture)
    assert "Ablate(site='text_encoder.layers.0'" in under.about["interventions"][0]
    assert not run.about["interventions"]


def test_a_pipelines_own_call_is_changed(drawn):
    model, _ = drawn
    pipeline = model.pipeline

    own = {"use_resolution_binning": False} if model.family == "pixart" else {}

    def call():
        return pipeline(
            "a red house",
            num_inference_steps=1,
            height=64,
            width=128,
            output_type="np",
            generator=torch.Generator().manual_seed(0),
            **own,
        ).images

    before = call()
    with ep.intervene(pipeline, ep.Scale(LAYER, 1.0)):
        assert np.array_equal(call(), before)
    with ep.intervene(pipeline, ep.Ablate(LAYER)):
        assert not np.array_equal(call(), before)
    assert np.array_equal(call(), before)
    with (
        pytest.raises(ConfigError, match="does not report"),
        ep.intervene(pipeline, ep.Ablate(LAYER, guidance="cond")),
    ):
        call()
    assert np.array_equal(call(), before)


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


def texts(model, *edits):
    with ep.intervene(model, edits):
        tree = ep.record(
            model,
            ep.Prompt("a red house", negative_prompt="a tree"),
            LAYER,
            guidance=2,
            dtype="float32",
            progress=False,
        )
    return ep.site(tree, LAYER).isel(sample=0)


def test_edits_are_of_the_text_and_tokens_that_are_named(model):
    plain = texts(model)
    one = texts(model, ep.Scale(LAYER, 3.0, guidance="cond"))
    assert np.array_equal(one.sel(guidance="uncond"), plain.sel(guidance="uncond"))
    assert np.array_equal(one.sel(guidance="cond"), 3 * plain.sel(guidance="cond"))
    some = texts(model, ep.Ablate(LAYER, tokens=[2]))
    assert not some.isel(token=2).any()
    assert np.array_equal(some.isel(token=3), plain.isel(token=3))
    # Later ones see what earlier ones leave.
    both = texts(model, ep.Shift(LAYER, 1.0), ep.Scale(LAYER, 2.0))
    assert np.allclose(both, (plain + 1) * 2, atol=1e-5)
    other = texts(model, ep.Scale(LAYER, 2.0), ep.Shift(LAYER, 1.0))
    assert np.allclose(other, plain * 2 + 1, atol=1e-5)


def test_recorded_texts_go_back_to_where_they_came_from(model):
    house, tree = (ep.generate(model, each, **OPTIONS) for each in ("a red house", "a tree"))
    recorded = tree.record(LAYER, dtype="float32", progress=False).ep.site(LAYER)
    own = house.record(LAYER, dtype="float32", progress=False).ep.site(LAYER)
    assert np.array_equal(
        house.replay(ep.Replace(LAYER, own), progress=False).picture, house.picture
    )
    for value in (recorded, recorded.sel(guidance="cond")):
        patched = house.replay(ep.Replace(LAYER, value), progress=False)
        assert torch.equal(patched.condition.unconditional, tree.condition.unconditional)
        # All that the encoder gives follows from its one layer, but for where the text ends.
        found = patched.record("text_encoder.norm", dtype="float32", progress=False)
        wanted = tree.record("text_encoder.norm", dtype="float32", progress=False)
        assert np.array_equal(
            ep.site(found, "text_encoder.norm").values, ep.site(wanted, "text_encoder.norm").values
        )


def test_a_masked_edit_of_the_decoder_is_of_its_places(model):
    run = ep.generate(model, "a red house", **OPTIONS)
    mask = np.zeros((32, 32), np.float32)
    mask[:8] = 1
    edited = run.replay(ep.Ablate("vae.decoder.conv_in", mask=mask), progress=False)
    changed = (edited.picture != run.picture).any((1, 2))
    assert changed[:32].any()
    assert np.array_equal(
        ep.site(edited.record("vae.decoder.conv_in", progress=False), "vae.decoder.conv_in")[0, :8],
        np.zeros((8, 32, 8), np.float32),
    )


def test_what_cannot_take_effect_is_refused(model):
    for limit in ({"timesteps": [1]}, {"samples": [0]}, {"heads": [0]}):
        with pytest.raises(ConfigError, match="once a run"):
            ep.Ablate(LAYER, **limit)
    with pytest.raises(ConfigError, match="once a run"):
        ep.Ablate("vae.decoder.mid_block", guidance="cond")
    with pytest.raises(ConfigError, match="has tokens"):
        ep.Ablate(LAYER, mask=np.ones((2, 2)))
    for name in ("text_encoder.layers.9", "text_encoder_2.layers.0", f"{LAYER}:query"):
        with (
            pytest.raises(SiteError, match="port 'out' alone"),
            ep.intervene(model, ep.Ablate(name)),
        ):
            pass
    with (
        pytest.raises(SiteError, match="no part beside"),
        ep.intervene(model.unet, ep.Ablate(LAYER)),
    ):
        pass
    run = ep.generate(model, "a red house", **OPTIONS)
    with pytest.raises(ConfigError, match=r"ep\.invert"):
        run.replay(ep.Ablate("vae.encoder.mid_block"), progress=False)
    width = model.text_parts["text_encoder"].config.hidden_size
    encoded = ep.Prompt("", prompt_embeds=np.zeros((model.text_length, width), np.float32))
    with (
        pytest.raises(CaptureError, match="never took effect"),
        ep.intervene(model, ep.Ablate(LAYER)),
    ):
        ep.generate(model, encoded, steps=2, guidance=1, progress=False)
    # Of a run that is made the text is there already.
    with pytest.raises(ConfigError, match="replay"), ep.intervene(model, ep.Ablate(LAYER)):
        run.record("mid_block", progress=False)
