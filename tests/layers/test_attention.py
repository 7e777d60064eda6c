"""Attention from recorded queries and keys is that of the plain processor."""

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from diffusers import UNet2DConditionModel

import emerdiff_probe as ep
from emerdiff_probe.errors import CaptureError, InputError, SiteError
from emerdiff_probe.runs import sample
from emerdiff_probe.taps import attentions, with_processors
from tests.checkpoints import stable_diffusion, tiny_playground

HOUSE, CAR = ep.Prompt("a red house", seed=1), ep.Prompt("a house and a house", seed=2)
LAYER = "up_blocks.1.attentions.0.transformer_blocks.0"
TIMESTEPS = (801, 401)


class Noting:
    """The plain processor of diffusers, whose probabilities are noted."""

    def __init__(self):
        self.seen = []

    def __call__(self, attention, states, encoder_hidden_states=None, attention_mask=None, **_):
        from diffusers.models.attention_processor import AttnProcessor

        compute = attention.get_attention_scores

        def noted(*arguments):
            found = compute(*arguments)
            rows = found.unflatten(0, (-1, attention.heads))
            self.seen.append(rows.numpy())
            return found

        attention.get_attention_scores = noted
        try:
            return AttnProcessor()(attention, states, encoder_hidden_states, attention_mask)
        finally:
            del attention.get_attention_scores


def plain_probabilities(model, prompt, guidance):
    """By path, (timestep, half, head, location, key) of every attention."""
    noting = {path: Noting() for path in attentions(model.unet)}
    condition = model.condition(prompt.text, guidance)
    side = model.image_size
    with torch.inference_mode(), with_processors(model.unet, noting):
        steps = [
            step.timestep
            for step in sample(model, condition, steps=5, seed=prompt.seed, height=side, width=side)
        ]
    at = [steps.index(timestep) for timestep in TIMESTEPS]
    return {path: np.stack(each.seen)[at] for path, each in noting.items()}


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


@pytest.fixture(scope="module")
def run(model):
    return ep.record(
        model,
        [HOUSE, CAR],
        "*:query, *:key",
        steps=5,
        timesteps=TIMESTEPS,
        guidance=3,
        dtype="float32",
        progress=False,
    )


def test_it_is_that_of_the_plain_processor_in_every_attention(model, run):
    for number, prompt in enumerate((HOUSE, CAR)):
        for path, plain in plain_probabilities(model, prompt, 3).items():
            ours = ep.attention(run, path).isel(sample=number)
            assert ours.dims[:5] == ("guidance", "timestep", "head", "y", "x")
            assert ours.dims[5:] in (("token",), ("key_y", "key_x"))
            stacked = np.moveaxis(plain, 1, 0).reshape(ours.shape)
            np.testing.assert_allclose(ours, stacked, atol=2e-6)
            assert not np.allclose(ours[:, ::-1], stacked, atol=2e-6)  # other timesteps


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_stable_diffusions_heads(version):
    model = ep.load(stable_diffusion(version))
    run = ep.record(
        model, HOUSE, "*:query, *:key", steps=5, timesteps=TIMESTEPS, guidance=1, dtype="float32",
        progress=False,
    )  # fmt: skip
    for path, plain in plain_probabilities(model, HOUSE, 1).items():
        ours = ep.attention(run, path).isel(sample=0)
        np.testing.assert_allclose(ours, plain[:, 0].reshape(ours.shape), atol=2e-6)


def test_one_token_by_its_word_or_position(run):
    whole = ep.attention(run, f"{LAYER}.attn2")
    assert whole["token_text"].dims == ("sample", "guidance", "token")
    np.testing.assert_allclose(whole.sum("token"), 1, rtol=1e-5)
    house = ep.attention(run, f"{LAYER}.attn2", token="House")
    assert house.dims == ("sample", "guidance", "timestep", "head", "y", "x")
    np.testing.assert_allclose(
        house.sel(guidance="cond")[0], whole.sel(guidance="cond")[0, ..., 3], rtol=1e-6
    )
    # Twice in the second prompt: positions 2 and 5.
    np.testing.assert_allclose(
        house.sel(guidance="cond")[1],
        whole.sel(guidance="cond")[1, ..., [2, 5]].sum("token"),
        rtol=1e-6,
    )
    assert not np.allclose(house.sel(guidance="cond")[1], whole.sel(guidance="cond")[1, ..., 2])
    assert np.isnan(house.sel(guidance="uncond")).all()
    third = ep.attention(run, f"{LAYER}.attn2", token=3, head=1)
    np.testing.assert_allclose(third, whole.isel(token=3, head=1), rtol=1e-6)
    assert np.isnan(ep.attention(run, f"{LAYER}.attn2", token="red").isel(sample=1)).all()


def test_words_cut_into_pieces_are_put_together():
    from emerdiff_probe.layers.attention import _positions

    texts = np.array(["<|startoftext|>", "emer", "diff", "sees", "emer", "<|endoftext|>"])
    assert _positions(texts, "emerdiff").tolist() == [0, 1, 1, 0, 0, 0]
    assert _positions(texts, "emer").tolist() == [0, 1, 0, 0, 1, 0]
    assert not _positions(texts, "diffe").any()


def test_words_of_any_script_and_phrases_are_found():
    from emerdiff_probe.layers.attention import _positions

    # As CLIP's tokenizer cuts "a Bär, 🐻 naïve": a sign for each byte.
    texts = np.array(
        ["<|startoftext|>", "a", "bÃ¤r", ",", "ðŁĲ", "»", "na", "Ã¯ve", "red", "house"]
    )
    assert np.flatnonzero(_positions(texts, "Bär")).tolist() == [2]
    assert np.flatnonzero(_positions(texts, "Ba\u0308r")).tolist() == [2]  # a letter and its dots
    assert np.flatnonzero(_positions(texts, "🐻")).tolist() == [4, 5]
    assert np.flatnonzero(_positions(texts, "naïve")).tolist() == [6, 7]
    assert np.flatnonzero(_positions(texts, "Red House")).tolist() == [8, 9]
    assert np.flatnonzero(_positions(texts, "a bär")).tolist() == [1, 2]
    assert not _positions(texts, "Bar").any()
    assert not _positions(texts, "house red").any()
    # Where texts are recorded as they are written.
    assert _positions(np.array(["a", "Bär"]), "bär").tolist() == [0, 1]


def test_phrases_are_paid_what_their_words_are(run):
    phrase, red, house = (
        ep.attention(run, f"{LAYER}.attn2", token=token).isel(sample=0).sel(guidance="cond")
        for token in ("red house", "red", "house")
    )
    np.testing.assert_allclose(phrase, red + house, rtol=1e-5)


def test_a_word_over_time_is_one_call(run):
    """The mean over the heads of all attentions to the text."""
    word = run.ep.attention(token="house")
    assert word.dims == ("sample", "guidance", "timestep", "y", "x")
    paths = [name.removesuffix(":key") for name in run.ep.sites if name.endswith("attn2:key")]
    single = [ep.attention(run, path, token="house").mean("head").sel(guidance="cond").load()
              for path in paths]  # fmt: skip
    sizes = {each.sizes["y"] for each in single}
    assert len(sizes) > 1
    assert word.sizes["y"] == max(sizes)
    for y, x in ((3, 5), (90, 70)):
        at = [each.sel(y=y, x=x, method="nearest").values for each in single]
        ours = word.sel(guidance="cond").sel(y=y, x=x, method="nearest")
        np.testing.assert_allclose(ours, np.mean(at, 0), rtol=1e-4)
    assert np.ptp(word.sel(guidance="cond").mean(("y", "x"))[0].values) > 0
    there = ep.attention(run, token="house", location=(3, 5), head=0)
    assert there.dims == ("sample", "guidance", "timestep")
    with pytest.raises(InputError, match="name and token are both left out"):
        ep.attention(run)


def test_one_location_by_its_pixels(run):
    whole = ep.attention(run, f"{LAYER}.attn1")
    seen = ep.attention(run, f"{LAYER}.attn1", location=(41.5, 90.0))
    assert seen.dims == ("sample", "guidance", "timestep", "head", "key_y", "key_x")
    assert (float(seen["y"]), float(seen["x"])) == (44, 92)
    assert seen["key_y"].values.tolist() == whole["y"].values.tolist()
    np.testing.assert_allclose(seen, whole.sel(y=44, x=92), rtol=1e-5)
    assert not np.allclose(seen, whole.sel(y=92, x=44), rtol=1e-5)
    words = ep.attention(run, f"{LAYER}.attn2", location=(41.5, 90.0))
    np.testing.assert_allclose(
        words, ep.attention(run, f"{LAYER}.attn2").sel(y=44, x=92), rtol=1e-5
    )


def test_nothing_is_computed_or_read_before_it_is_asked_for(model, tmp_path, monkeypatch):
    streamed = ep.record(
        model, HOUSE, f"{LAYER}.attn1:query, {LAYER}.attn1:key", steps=5, store=tmp_path / "run",
        progress=False,
    )  # fmt: skip
    reads, get = [], zarr.storage.LocalStore.get

    async def counted(self, key, *rest, **named):
        reads.append(key)
        return await get(self, key, *rest, **named)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", counted)
    lazy = ep.attention(streamed, f"{LAYER}.attn1", head=0)
    assert not [key for key in reads if "value/c." in key]
    # One timestep in a piece, however the recording is cut.
    assert set(lazy.chunksizes["timestep"]) == {1}
    lazy.load(scheduler="synchronous")
    # Each chunk once, and the table of their positions once; two threads may meet at the table.
    chunks = [key for key in reads if "/value/c." in key and "restart" not in key]
    assert len(chunks) == len(set(chunks)) == 3


def test_float16_is_nearly_as_exact(model, run):
    half = ep.record(
        model, [HOUSE, CAR], "*:query, *:key", steps=5, timesteps=TIMESTEPS, guidance=3,
        progress=False,
    )  # fmt: skip
    for path in (f"{LAYER}.attn1", f"{LAYER}.attn2"):
        ours = ep.attention(half, path)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, ep.attention(run, path), atol=1e-3)


def test_wrong_calls_are_refused(model, run):
    with pytest.raises(InputError, match=r"no text .* token 'dog'; choose from .*'red', 'house'"):
        ep.attention(run, f"{LAYER}.attn2", token="dog")
    with pytest.raises(InputError, match="token is -1; choose an integer from 0 to"):
        ep.attention(run, f"{LAYER}.attn2", token=-1)
    with pytest.raises(InputError, match="is self-attention"):
        ep.attention(run, f"{LAYER}.attn1", token="house")
    with pytest.raises(InputError, match=r"head is 2; .* has heads 0 to 1"):
        ep.attention(run, f"{LAYER}.attn1", head=2)
    with pytest.raises(InputError, match=r"y=5, x=129 is outside .* 0 to 128"):
        ep.attention(run, f"{LAYER}.attn1", location=(5, 129))
    with pytest.raises(SiteError, match=rf"sites='{LAYER}.attn3:query, .*closest: '{LAYER}"):
        ep.attention(run, f"{LAYER}.attn3")
    queries = ep.record(model, HOUSE, "*:query", steps=1, progress=False)
    with pytest.raises(SiteError, match=r"lacks .* there are none"):
        ep.attention(queries, f"{LAYER}.attn2")


def test_positions_need_no_texts():
    """A bare UNet is called with encoded texts: nobody knows their words."""
    pipe = tiny_playground()
    layer = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
    text = torch.randn(2, 64, pipe.unet.config.cross_attention_dim)
    with torch.no_grad(), ep.probe(pipe.unet, [f"{layer}:query", f"{layer}:key"]) as recorder:
        pipe.unet(torch.randn(2, 4, 32, 32), 801, text)
    whole = ep.attention(recorder.tree, layer)
    one = ep.attention(recorder.tree, layer, token=2)
    np.testing.assert_allclose(one, whole.isel(token=2), rtol=1e-5)
    with pytest.raises(InputError, match=r"has no texts.*give a position from 0 to 63"):
        ep.attention(recorder.tree, layer, token="house")
    for wrong in (True, 64, 1.5):
        with pytest.raises(InputError, match=f"token is {wrong}; choose an integer"):
            ep.attention(recorder.tree, layer, token=wrong)


def one_level():
    """A UNet whose grids have one size, so that self-attention can be masked, too."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(16,), down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",), layers_per_block=1, norm_num_groups=8,
        cross_attention_dim=12, attention_head_dim=2,
    ).eval()  # fmt: skip


TEXT_MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
MASKS = {
    "none": {},
    "text": {"encoder_attention_mask": TEXT_MASK},
    "locations": {"attention_mask": torch.arange(64).expand(2, -1) % 3 > 0},
    "both": {
        "encoder_attention_mask": TEXT_MASK.bool(),
        "attention_mask": torch.linspace(0.9999, 1, 64).repeat(2, 1),
    },
}


@pytest.mark.parametrize("given", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("sliced", [False, True])
def test_masks_that_were_applied_are_in_the_probabilities(given, sliced, tmp_path):
    unet = one_level()
    inputs = torch.randn(2, 4, 8, 8), 281, torch.randn(2, 5, 12)
    noting = {path: Noting() for path in attentions(unet)}
    with torch.no_grad(), with_processors(unet, noting):
        unet(*inputs, **given)
    if sliced:
        unet.set_attention_slice(1)
    file = tmp_path / "run.zarr"
    with (
        torch.no_grad(),
        ep.probe(unet, "*:query, *:key", dtype="float32") as memory,
        ep.probe(unet, "*:query, *:key", dtype="float32", store=file),
    ):
        unet(*inputs, **given)
    for tree in (memory.tree, ep.open(file)):
        for path, each in noting.items():
            ours = ep.attention(tree, path).isel(timestep=0)
            plain = each.seen[0].reshape(ours.shape)
            np.testing.assert_allclose(ours, plain, atol=2e-6)
            name = "encoder_attention_mask" if path.endswith("attn2") else "attention_mask"
            masked = name in given
            assert (name in tree.coords) == masked
            if masked:  # the control: without the mask it is another
                unmasked = {"/": tree.to_dataset().drop_vars(name)}
                free = xr.DataTree.from_dict(tree.to_dict() | unmasked)
                free = ep.attention(free, path).isel(timestep=0)
                assert not np.allclose(free, plain, atol=2e-6)


def test_masks_of_two_calls_for_a_step_are_told_apart():
    unet, x = one_level(), torch.randn(1, 4, 8, 8)
    path = next(path for path in attentions(unet) if path.endswith("attn2"))
    mask = {"encoder_attention_mask": TEXT_MASK[:1]}
    with torch.no_grad(), ep.probe(unet, [f"{path}:query", f"{path}:key"]) as recorder:
        unet(x, 281, torch.zeros(1, 5, 12))
        unet(x, 281, torch.randn(1, 5, 12), **mask)
        unet(x, 1, torch.zeros(1, 5, 12))
        unet(x, 1, torch.randn(1, 5, 12))
    masked, free = recorder.runs
    assert "encoder_attention_mask" not in free.coords
    paid = ep.attention(masked, path)
    assert (paid.sel(guidance="cond").isel(token=slice(3, None)) == 0).all()
    assert (paid.sel(guidance="uncond") > 0).all()
    np.testing.assert_allclose(paid.sum("token"), 1, rtol=1e-5)


def test_masks_for_each_query_are_refused_where_keys_are_recorded():
    unet = one_level()
    path = next(path for path in attentions(unet) if path.endswith("attn2"))
    inputs = torch.randn(2, 4, 8, 8), 281, torch.randn(2, 5, 12)
    mask = torch.ones(2, 64, 5)
    with torch.no_grad(), ep.probe(unet, f"{path}:query"):
        unet(*inputs, encoder_attention_mask=mask)
    with (
        torch.no_grad(),
        pytest.raises(CaptureError, match=r"encoder_attention_mask has shape \(2, 64, 5\)"),
        ep.probe(unet, f"{path}:key"),
    ):
        unet(*inputs, encoder_attention_mask=mask)


def test_what_was_made_smaller_gives_no_probabilities():
    """All keys are asked: of some of them, or of their means, it would be another softmax."""
    unet = one_level()
    reduce = ep.reduce
    reducers = {
        "tokens": reduce.tokens([0, 2]),
        "pool": reduce.pool(2),
        "channels": reduce.channels([0, 1]),
        "random": reduce.project(2, kind="random"),
    }
    cross = next(path for path in attentions(unet) if path.endswith("attn2"))
    inputs = torch.randn(2, 4, 8, 8), 281, torch.randn(2, 5, 12)

    def recorded(reducer):
        with torch.no_grad(), ep.probe(unet, "*:query, *:key", reduce=reducer) as recorder:
            unet(*inputs)
        return recorder.tree

    for name, reducer in reducers.items():
        with pytest.raises(InputError, match=f"reduce={name}"):
            ep.attention(recorded(reducer), cross)
    whole = ep.attention(recorded(()), cross)
    some = ep.attention(recorded(reduce.crop(y=(0, 4), x=(2, 6))), cross)
    np.testing.assert_allclose(some, whole.sel(y=some["y"], x=some["x"]), rtol=1e-5)
    one = ep.attention(recorded(reduce.heads([1])), cross)
    np.testing.assert_allclose(one, whole.isel(head=[1]), rtol=1e-5)
    with pytest.raises(InputError, match="reduce=crop"):
        ep.attention(recorded(reduce.crop(y=(0, 4), x=(0, 4))), cross.replace("attn2", "attn1"))
