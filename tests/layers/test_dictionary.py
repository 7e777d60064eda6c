"""Known dictionaries are recovered, and files read as the libraries that wrote them mean them."""

import json

import dask.array
import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

import emerdiff_probe as ep
from emerdiff_probe.errors import ConfigError, InputError
from emerdiff_probe.schema import pixel_centres
from tests.recordings import layer

CHANNELS, FEATURES, ACTIVE = 12, 8, 3


def known(seed=0):
    """Orthonormal directions, and locations made of a few of them: (activations, values)."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(CHANNELS, CHANNELS))).Q[:FEATURES]
    bias = rng.normal(size=CHANNELS)
    activations = rng.uniform(0.5, 2, (2, 3, 4, 5, FEATURES))
    order = rng.permuted(np.broadcast_to(np.arange(FEATURES), activations.shape), axis=-1)
    activations[order >= ACTIVE] = 0
    return directions, bias, activations, activations @ directions + bias


@pytest.fixture
def recorded():
    directions, bias, activations, values = known()
    # Half of the least activation: rounding errors are no features.
    book = ep.Dictionary(directions.T, directions, 0, bias, bias, threshold=0.25)
    return book, activations, layer(values, timestep=[981, 281, 1])


def test_known_features_are_recovered(recorded):
    book, activations, values = recorded
    found = book.features(values)
    assert found.dims == ("sample", "timestep", "y", "x", "feature")
    assert found.dtype == np.float32
    assert found.values == pytest.approx(activations, abs=1e-5)
    assert found.sel(timestep=281)["y"].values.tolist() == pixel_centres(4, 32).tolist()
    assert book.reconstruct(values).values == pytest.approx(values.values, abs=1e-5)
    assert (len(book), book.channels) == (FEATURES, CHANNELS)


def test_the_strongest_features_come_first_and_silence_is_said(recorded):
    book, activations, values = recorded
    top = book.strongest(values, 5)
    assert top["feature"].dims == ("sample", "timestep", "y", "x", "rank")
    assert top["activation"].values == pytest.approx(
        -np.sort(-activations, axis=-1)[..., :5], abs=1e-5
    )
    first = activations.argmax(-1)
    assert np.array_equal(top["feature"].isel(rank=0), first)
    assert (top["feature"].isel(rank=slice(ACTIVE, None)) == -1).all()
    assert (top["feature"].isel(rank=slice(ACTIVE)) >= 0).all()


def test_only_the_k_largest_are_kept():
    book = ep.Dictionary(np.eye(4), np.eye(4), k=2)
    assert book.encode([[1, 3, 2, -5], [-1, -2, 4, -3]]).tolist() == [[0, 3, 2, 0], [0, 0, 4, 0]]
    everything = ep.Dictionary(np.eye(4), np.eye(4), k=4)
    assert everything.encode([1, 3, 2, -5]).tolist() == [1, 3, 2, 0]


def test_a_threshold_is_a_jump():
    book = ep.Dictionary(np.eye(3), np.eye(3), threshold=np.array([0, 1, 2]))
    assert book.encode([0.5, 1.0, 2.5]).tolist() == [0.5, 0, 2.5]


def test_how_well_it_fits(recorded):
    book, activations, values = recorded
    fit = book.fit(values)
    assert fit.explained_variance == pytest.approx(1, abs=1e-5)
    assert fit.l0 == ACTIVE
    assert (fit.silent, fit.locations) == (0, activations[..., 0].size)
    # Without its last feature a dictionary lacks just that feature's share of the squares.
    less = ep.Dictionary(book.encoder[:, :-1], book.decoder[:-1], 0, book.decoder_bias,
                         book.input_bias, 0.25)  # fmt: skip
    points = values.values.reshape(-1, CHANNELS)
    total = ((points - points.mean(0)) ** 2).sum()
    assert less.fit(values).explained_variance == pytest.approx(
        1 - (activations[..., -1] ** 2).sum() / total, abs=1e-5
    )
    nothing = ep.Dictionary(np.zeros((CHANNELS, 2)), np.zeros((2, CHANNELS)), 0, points.mean(0))
    assert nothing.fit(values).explained_variance == pytest.approx(0, abs=1e-6)
    assert nothing.fit(values).silent == 1


def test_what_is_lazy_stays_lazy_and_gives_the_same(recorded):
    book, _, values = recorded
    lazy = values.chunk({"sample": 1, "timestep": 2})
    for one, other in ((book.features(lazy), book.features(values)),
                       (book.reconstruct(lazy), book.reconstruct(values)),
                       (book.strongest(lazy, 2), book.strongest(values, 2))):  # fmt: skip
        arrays = one.data_vars.values() if isinstance(one, xr.Dataset) else [one]
        assert all(isinstance(each.data, dask.array.Array) for each in arrays)
        xr.testing.assert_allclose(one.compute(), other)
    assert book.fit(lazy) == book.fit(values)


def test_heads_are_joined_as_the_model_joins_them():
    rng = np.random.default_rng(0)
    heads = xr.DataArray(rng.normal(size=(2, 3, 3, 2)), dims=("y", "x", "head", "channel"))
    book = ep.Dictionary(rng.normal(size=(6, 4)), rng.normal(size=(4, 6)))
    assert np.array_equal(book.features(heads), book.encode(heads.values.reshape(2, 3, 6)))


def test_a_direction_is_what_a_unit_of_the_feature_adds(recorded):
    book, _, _ = recorded
    one = np.zeros(FEATURES)
    one[2] = 1
    added = book.decode(one) - book.decoder_bias
    assert book.direction(2).values == pytest.approx(added, abs=1e-6)
    with pytest.raises(ConfigError, match="feature is 8; choose an integer from 0 to 7"):
        book.direction(8)


def test_shapes_that_do_not_fit_are_refused(recorded):
    book, _, values = recorded
    with pytest.raises(InputError, match="dictionary has 12 channels; give the site"):
        book.features(values.isel(channel=slice(5)))
    with pytest.raises(InputError, match=r"decoder has shape \(12, 8\)"):
        ep.Dictionary(book.encoder, book.encoder)
    with pytest.raises(InputError, match="threshold is -1"):
        ep.Dictionary(book.encoder, book.decoder, threshold=-1.0)
    with pytest.raises(ConfigError, match="k is 9"):
        ep.Dictionary(book.encoder, book.decoder, k=9)


# Each library's own arithmetic, after its code, as the oracle of what is read from its files.


def weights(seed=0):
    rng = torch.Generator().manual_seed(seed)
    shapes = {"We": (CHANNELS, FEATURES), "Wd": (FEATURES, CHANNELS), "be": (FEATURES,),
              "bd": (CHANNELS,)}  # fmt: skip
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def top(pre, k=ACTIVE):
    values, indices = pre.topk(k)
    return torch.zeros_like(pre).scatter(-1, indices, values.relu())


def jump(pre, threshold=0.5):
    return pre.relu() * (pre > threshold)


def linear(w):
    return {"encoder.weight": w["We"].T, "decoder.weight": w["Wd"].T}


def plain(w):
    return {"W_enc": w["We"], "W_dec": w["Wd"], "b_enc": w["be"], "b_dec": w["bd"]}


def threshold():
    return {"threshold": torch.full((FEATURES,), 0.5)}


LAYOUTS = {
    "SAELens standard": (
        plain, {"architecture": "standard", "apply_b_dec_to_input": True},
        lambda x, w: ((x - w["bd"]) @ w["We"] + w["be"]).relu(),
    ),
    "SAELens jumprelu": (
        lambda w: plain(w) | threshold(),
        {"architecture": "jumprelu", "apply_b_dec_to_input": False,
         "normalize_activations": "none"},
        lambda x, w: jump(x @ w["We"] + w["be"]),
    ),
    "SAELens topk": (
        plain, {"architecture": "topk", "k": ACTIVE, "apply_b_dec_to_input": False},
        lambda x, w: top(x @ w["We"] + w["be"]),
    ),
    "SAELens topk, rescaled": (
        plain,
        {"architecture": "topk", "k": ACTIVE, "apply_b_dec_to_input": True,
         "rescale_acts_by_decoder_norm": True},
        lambda x, w: top(((x - w["bd"]) @ w["We"] + w["be"]) * w["Wd"].norm(dim=-1)),
    ),
    "dictionary_learning AutoEncoder": (
        lambda w: linear(w) | {"encoder.bias": w["be"], "bias": w["bd"]}, None,
        lambda x, w: ((x - w["bd"]) @ w["We"] + w["be"]).relu(),
    ),
    "dictionary_learning AutoEncoderNew": (
        lambda w: linear(w) | {"encoder.bias": w["be"], "decoder.bias": w["bd"]}, None,
        lambda x, w: (x @ w["We"] + w["be"]).relu(),
    ),
    "dictionary_learning AutoEncoderTopK": (
        lambda w: linear(w) | {"encoder.bias": w["be"], "b_dec": w["bd"],
                               "k": torch.tensor(ACTIVE), "threshold": torch.tensor(-1.0)},
        {"trainer": {"dict_class": "AutoEncoderTopK", "k": ACTIVE}},
        lambda x, w: top((x - w["bd"]) @ w["We"] + w["be"]),
    ),
    "dictionary_learning BatchTopKSAE": (
        lambda w: linear(w) | {"encoder.bias": w["be"], "b_dec": w["bd"],
                               "k": torch.tensor(ACTIVE), "threshold": torch.tensor(0.5)},
        {"trainer": {"dict_class": "BatchTopKSAE", "k": ACTIVE}},
        lambda x, w: jump((x - w["bd"]) @ w["We"] + w["be"]),
    ),
    "dictionary_learning JumpReluAutoEncoder": (
        lambda w: plain(w) | threshold(), {"trainer": {"dict_class": "JumpReluAutoEncoder"}},
        lambda x, w: jump(x @ w["We"] + w["be"]),
    ),
    "OpenAI, SDXL Turbo": (
        lambda w: linear(w) | {"latent_bias": w["be"], "pre_bias": w["bd"],
                               "stats_last_nonzero": torch.zeros(FEATURES, dtype=torch.long)},
        {"k": ACTIVE, "d_model": CHANNELS, "n_dirs_local": FEATURES},
        lambda x, w: top((x - w["bd"]) @ w["We"] + w["be"]),
    ),
}  # fmt: skip


def saved(folder, tensors, settings=None):
    copies = {name: each.clone(memory_format=torch.contiguous_format)
              for name, each in tensors.items()}  # fmt: skip
    save_tensors(copies, folder / "weights.safetensors")
    if settings is not None:
        (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_are_read_as_their_library_means_them(layout, tmp_path):
    tensors, settings, encode = LAYOUTS[layout]
    w = weights()
    book = ep.Dictionary.load(saved(tmp_path, tensors(w), settings))
    x = torch.randn(50, CHANNELS, generator=torch.Generator().manual_seed(1))
    expected = encode(x, w)
    assert 0 < (expected > 0).float().mean() < 0.7
    assert book.encode(x.numpy()) == pytest.approx(expected.numpy(), abs=1e-5)
    unscaled = expected / w["Wd"].norm(dim=-1) if layout.endswith("rescaled") else expected
    decoded = unscaled @ w["Wd"] + w["bd"]
    assert book.decode(book.encode(x.numpy())) == pytest.approx(decoded.numpy(), abs=1e-4)


def sparsify(w):
    return {
        "encoder.weight": w["We"].T,
        "encoder.bias": w["be"],
        "W_dec": w["Wd"],
        "b_dec": w["bd"],
    }


def test_what_a_file_leaves_open_is_asked_for(tmp_path):
    w = weights()
    x = torch.randn(20, CHANNELS, generator=torch.Generator().manual_seed(1))
    for tensors in (sparsify(w), plain(w)):
        folder = saved(tmp_path, tensors, {"k": ACTIVE})
        with pytest.raises(ConfigError, match="choose subtract_bias=True or False"):
            ep.Dictionary.load(folder)
        for subtract in (True, False):
            book = ep.Dictionary.load(folder, subtract_bias=subtract)
            expected = top((x - subtract * w["bd"]) @ w["We"] + w["be"])
            assert book.encode(x.numpy()) == pytest.approx(expected.numpy(), abs=1e-5)
    no_bias = saved(tmp_path, plain(w) | {"b_dec": torch.zeros(CHANNELS)})
    assert ep.Dictionary.load(no_bias, k=2).k == 2
    (tmp_path / "config.json").unlink()
    openai = LAYOUTS["OpenAI, SDXL Turbo"][0](w)
    with pytest.raises(ConfigError, match="does not say its k; give k="):
        ep.Dictionary.load(saved(tmp_path, openai))
    assert ep.Dictionary.load(tmp_path, k=5).k == 5


def test_half_precision_is_read(tmp_path):
    w = {name: each.bfloat16() for name, each in weights().items()}
    book = ep.Dictionary.load(saved(tmp_path, plain(w)), subtract_bias=False)
    assert np.array_equal(book.encoder, w["We"].float().numpy())
    half = {name: each.half() for name, each in w.items()}
    other = ep.Dictionary.load(saved(tmp_path, plain(half)), subtract_bias=False)
    assert np.array_equal(other.decoder, half["Wd"].float().numpy())


def test_files_of_other_kinds_are_refused(tmp_path):
    w = weights()
    gated = plain(w) | {"r_mag": w["be"]}
    with pytest.raises(InputError, match="has tensors r_mag, which no supported autoencoder"):
        ep.Dictionary.load(saved(tmp_path, gated))
    with pytest.raises(InputError, match="b_dec and pre_bias, which mean the same"):
        ep.Dictionary.load(saved(tmp_path, plain(w) | {"pre_bias": w["bd"]}))
    with pytest.raises(InputError, match=r"no matrix W_dec or decoder\.weight; it has W_enc"):
        ep.Dictionary.load(saved(tmp_path, {"W_enc": w["We"]}))
    refused = {"architecture": "gated", "normalize_activations": "layer_norm", "transcode": True}
    for name, value in refused.items():
        with pytest.raises(InputError, match=f"says {name}="):
            ep.Dictionary.load(saved(tmp_path, plain(w), {name: value}))
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(InputError, match="does not hold settings in JSON"):
        ep.Dictionary.load(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"PK\3\4 of torch.save")
    with pytest.raises(InputError, match="is not a safetensors file"):
        ep.Dictionary.load(tmp_path)
    with pytest.raises(InputError, match=r"closest: 'weights\.safetensors'"):
        ep.Dictionary.load(tmp_path / "weight.safetensors")
    save_file({"a": np.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"has other\.safetensors, weights\.safetensors; give"):
        ep.Dictionary.load(tmp_path)
