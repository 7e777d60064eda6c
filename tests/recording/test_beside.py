"""Text encoders and the autoencoder as sites of their own: what plain hooks see, once a run."""

import json

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.errors import ConfigError, InputError, SiteError, StoreError
from tests.checkpoints import stable_diffusion, stable_diffusion_xl, tiny_playground
from tests.families import flux, pixart, stable_diffusion_3

STEPS = {"steps": 2, "progress": False}
PROMPT = ep.Prompt("a red house", height=64, width=128)
PIPELINES = {
    "stable-diffusion": lambda: stable_diffusion("v2"),
    "stable-diffusion-xl": stable_diffusion_xl,
    "stable-diffusion-3": stable_diffusion_3,
    "flux": flux,
    "pixart": pixart,
}


@pytest.fixture(scope="module", params=PIPELINES)
def loaded(request):
    pipeline = PIPELINES[request.param]()
    pipeline.set_progress_bar_config(disable=True)
    return request.param, ep.load(pipeline)


def own_paths(encoder):
    """A layer, its attention, feed-forward and the last norm, as transformers calls them."""
    if type(encoder).__name__ == "T5EncoderModel":
        layer = "encoder.block.0"
        return {
            "layers.0": layer,
            "layers.0.attn": f"{layer}.layer.0.SelfAttention",
            "layers.0.ff": f"{layer}.layer.1.DenseReluDense",
            "norm": "encoder.final_layer_norm",
        }
    above = "text_model." if hasattr(encoder, "text_model") else ""
    layer = f"{above}encoder.layers.0"
    return {
        "embeddings": f"{above}embeddings",
        "layers.0": layer,
        "layers.0.attn": f"{layer}.self_attn",
        "layers.0.ff": f"{layer}.mlp",
        "norm": f"{above}final_layer_norm",
    }


def seen(module, call):
    """Return the outputs of a module, read by a plain hook."""
    found = []
    handle = module.register_forward_hook(
        lambda _m, _i, output: found.append(output[0] if isinstance(output, tuple) else output)
    )
    call()
    handle.remove()
    return [each.detach().clone() for each in found]


def test_texts_are_what_plain_hooks_see(loaded):
    family, model = loaded
    prompt = ep.Prompt("a red house", negative_prompt="a tree", height=64, width=128)
    guidance = 1 if family == "flux" else 3
    prompt = ep.Prompt("a red house", height=64, width=128) if guidance == 1 else prompt
    tree = ep.record(
        model, prompt, "text_encoder*.*", guidance=guidance, dtype="float32", progress=False
    )
    assert "timestep" not in tree.coords
    assert set(tree.children) == {name for name in model.parts if name.startswith("text")}
    for name in tree.children:
        encoder = model.parts[name]
        for site, path in own_paths(encoder).items():
            found = ep.site(tree, f"{name}.{site}")
            module = encoder.get_submodule(path)
            plain = seen(module, lambda: model.condition(prompt, guidance))
            if guidance == 1:
                assert found.dims == ("sample", "token", "channel")
                assert np.array_equal(found.values, plain[0].numpy())
                continue
            assert found.dims == ("sample", "guidance", "token", "channel")
            own, negative = plain
            assert np.array_equal(found.sel(guidance="cond").values, own.numpy())
            assert np.array_equal(found.sel(guidance="uncond").values, negative.numpy())
            assert not np.array_equal(own, negative)


def test_words_are_those_that_each_encoder_read(loaded):
    family, model = loaded
    tree = ep.record(model, "a red house", "text_encoder*.norm", guidance=1, progress=False)
    for name in tree.children:
        words = ep.site(tree, f"{name}.norm")["token_text"]
        assert words.dims == ("sample", "token")
        texts = words.values[0].tolist()
        at = texts.index("red")
        assert texts[at + 1] == "house"
        assert len(texts) == ep.site(tree, f"{name}.norm").sizes["token"]
    if family in ("stable-diffusion-3", "flux"):
        lengths = {ep.site(tree, f"{name}.norm").sizes["token"] for name in tree.children}
        assert len(lengths) == 2, "CLIP and T5 read texts of different lengths"


def test_recording_texts_runs_no_denoiser_and_changes_nothing(loaded):
    _, model = loaded
    before = ep.generate(model, PROMPT, **STEPS).picture
    calls = []
    handle = model.unet.register_forward_pre_hook(lambda *_: calls.append(1))
    hooks = {id(each): dict(each._forward_hooks) for each in model.text_parts.values()}
    # The identity of the model takes one small call.
    ep.record(model, ["a red house", "a tree"], "text_encoder.*", progress=False)
    handle.remove()
    assert len(calls) <= 1
    assert {id(each): dict(each._forward_hooks) for each in model.text_parts.values()} == hooks
    assert np.array_equal(ep.generate(model, PROMPT, **STEPS).picture, before)


def test_the_autoencoder_is_what_plain_hooks_see(loaded):
    _, model = loaded
    run = ep.generate(model, PROMPT, **STEPS)
    sites = "vae.decoder.up_blocks.?, vae.decoder.mid_block"
    tree = run.record(sites, dtype="float32", progress=False)
    last = run.trajectory.latents[-1]
    for path in ("mid_block", "up_blocks.1"):
        found = ep.site(tree, f"vae.decoder.{path}")
        assert found.dims == ("sample", "y", "x", "channel")
        (plain,) = seen(model.vae.decoder.get_submodule(path), lambda: model.decode(last))
        assert np.array_equal(found.values, plain.permute(0, 2, 3, 1).numpy())
        # Centres of cells, in pixels of the image.
        cell = 64 / found.sizes["y"]
        assert found["y"].values[0] == cell / 2
        assert found["x"].values[-1] == 128 - cell / 2
    assert np.array_equal(ep.site(tree, "image").values[0], run.picture)
    made = ep.record(model, PROMPT, sites, dtype="float32", **STEPS)
    assert np.array_equal(
        ep.site(made, "vae.decoder.mid_block"), ep.site(tree, "vae.decoder.mid_block")
    )


def test_the_encoder_reads_images():
    model = ep.load(tiny_playground())
    photo = np.random.default_rng(0).integers(0, 256, (96, 192, 3), dtype=np.uint8)
    run = ep.invert(model, photo, steps=2, progress=False)
    tree = run.record("vae.*", dtype="float32", progress=False)
    found = ep.site(tree, "vae.encoder.down_blocks.0")
    pixels = torch.from_numpy(run.pixels).permute(2, 0, 1)[None]
    (plain,) = seen(model.vae.encoder.down_blocks[0], lambda: model.encode(pixels))
    assert np.array_equal(found.values, plain.permute(0, 2, 3, 1).numpy())
    # The image's own pixels, whatever size the model sees.
    assert found["y"].values[0] == 96 / found.sizes["y"] / 2
    assert tree["vae"]["decoder"].children
    with pytest.raises(InputError, match="reads images"):
        ep.record(model, "a red house", "vae.encoder.*", progress=False)


def test_a_store_holds_the_same(tmp_path):
    model = ep.load(stable_diffusion_3())
    prompts = ["a red house", "a tree"]
    options = {"guidance": 2, "progress": False, "reduce": [ep.reduce.tokens([0, 2, 3])]}
    memory = ep.record(model, prompts, "text_encoder*.layers.?", **options)
    path = tmp_path / "texts.zarr"
    for _ in range(2):  # the second call finds it there
        stored = ep.record(model, prompts, "text_encoder*.layers.?", store=path, **options)
        for name in ("text_encoder.layers.1", "text_encoder_3.layers.0"):
            one, other = ep.site(memory, name), ep.site(stored, name)
            assert one.identical(other.compute())
            assert one.dims == ("sample", "guidance", "token", "channel")
            assert one["token_text"].values[0, 1, 1] in ("red", "house")
    assert ep.store.info(path).timesteps == ()
    packed = ep.store.pack(path, tmp_path / "texts.zip")
    assert ep.site(ep.open(packed), "text_encoder.layers.0").sizes["token"] == 3
    with pytest.raises(ConfigError, match="another folder"):
        ep.record(model, ["a tree"], "text_encoder*.layers.?", store=path, **options)
    label = path / "text_encoder/layers/0/out/token_text/c.0.0.0"
    label = (
        label
        if label.exists()
        else next((path / "text_encoder/layers/0/out/token_text").glob("c*"))
    )
    while label.is_dir():
        label = next(label.iterdir())
    label.write_bytes(label.read_bytes()[:-1] + b"?")
    damaged = ep.open(path)
    with pytest.raises(StoreError, match="labels"):
        ep.site(damaged, "text_encoder.layers.0").compute()
    assert ep.site(damaged, "text_encoder.layers.1").compute().notnull().all()


def test_one_encoder_alone_has_the_columns_of_sites():
    model = ep.load(stable_diffusion_xl())
    table = model.sites("text_encoder_2.*", kind="layer")
    assert table.index.tolist() == [f"text_encoder_2.layers.{n}:out" for n in range(3)]
    assert set(table["dims"]) == {("token", "channel")}
    assert not any(name.startswith(("text_encoder", "vae")) for name in model.sites().index)
    assert model.sites("vae.decoder.up_blocks.0").iloc[0]["kind"] == "block"


def test_what_means_nothing_is_refused():
    model = ep.load(tiny_playground())
    with pytest.raises(ConfigError, match="once a run"):
        ep.record(model, "a tree", "text_encoder.*", timesteps=[1], progress=False)
    with pytest.raises(SiteError, match="two calls"):
        ep.record(model, "a tree", "text_encoder.*, mid_block", progress=False)
    with pytest.raises(SiteError, match=r"closest: 'text_encoder\.layers\.0"):
        ep.record(model, "a tree", "text_encoder.layers.7", progress=False)
    with pytest.raises(SiteError, match="no part of this model"):
        ep.record(model, "a tree", "text_encoder_2.*", progress=False)
    with pytest.raises(ConfigError, match="watches the denoiser"), ep.probe(model, "vae.*"):
        pass
    width = model.text_parts["text_encoder"].config.hidden_size
    encoded = ep.Prompt("", prompt_embeds=np.zeros((model.text_length, width), np.float32))
    with pytest.raises(InputError, match="came encoded"):
        ep.record(model, encoded, "text_encoder.*", progress=False)
    tree = ep.record(model, "a tree", "vae.decoder.mid_block", steps=2, progress=False)
    with pytest.raises(InputError, match="no timesteps"):
        ep.layers.atlas(tree, progress=False)


def test_a_recording_under_an_intervention_says_so(tmp_path):
    model = ep.load(tiny_playground())
    path = tmp_path / "texts.zarr"
    plain = ep.record(model, "a tree", "text_encoder.norm", store=path, progress=False)
    edit = ep.Scale("text_encoder.layers.0", 2.0)
    with ep.intervene(model, edit):
        under = ep.record(model, "a tree", "text_encoder.norm", progress=False)
        with pytest.raises(ConfigError, match="Scale"):
            ep.record(model, "a tree", "text_encoder.norm", store=path, progress=False)
    assert (
        "Scale(site='text_encoder.layers.0'" in json.loads(under.attrs["model"])["interventions"][0]
    )
    values = [ep.site(each, "text_encoder.norm").values for each in (plain, under)]
    assert not np.array_equal(*values)
    again = ep.record(model, "a tree", "text_encoder.norm", progress=False)
    assert np.array_equal(ep.site(again, "text_encoder.norm").values, values[0])
    # A replayed run is recorded under its interventions, and encodes its text under them.
    replayed = ep.generate(model, "a tree", steps=2, progress=False).replay(edit, progress=False)
    found = replayed.record("text_encoder.norm", progress=False)
    assert np.array_equal(ep.site(found, "text_encoder.norm").values, values[1])
    assert "Scale" in json.loads(found.attrs["config"])["interventions"][0]
