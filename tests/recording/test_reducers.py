"""Reducers give what xarray and scikit-learn give of a whole recording, with the right labels."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

import emerdiff_probe as ep
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.recording.reducers import Form
from emerdiff_probe.store import plan as plans
from tests.checkpoints import tiny_playground

PROMPTS = [ep.Prompt("a red house", seed=1), ep.Prompt("a blue car", seed=2)]
LAYER = "up_blocks.1.attentions.0.transformer_blocks.0"
QUERY, KEY, MID = f"{LAYER}.attn2:query", f"{LAYER}.attn2:key", "mid_block:out"
SITES = [QUERY, KEY, MID]
OPTIONS = {"steps": 3, "guidance": 2, "dtype": "float32", "progress": False}


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


@pytest.fixture(scope="module")
def whole(model):
    return ep.record(model, PROMPTS, SITES, **OPTIONS)


def reduced(model, *reducers, sites=SITES, **options):
    """A recording, and that its plan says what is in it."""
    run = ep.record(model, PROMPTS, sites, reduce=reducers, **OPTIONS | options)
    options.pop("store", None)
    plan = ep.record(model, PROMPTS, sites, reduce=reducers, plan=True, **OPTIONS | options)
    table = plan.table()
    assert plan.nbytes == sum(leaf["value"].nbytes for leaf in run.leaves)
    for leaf in run.leaves:
        row = table.loc[leaf.path.strip("/")]
        assert row["dims"] == " ".join(leaf["value"].dims)
        assert row["shape"] == " x ".join(map(str, leaf["value"].shape))
    return run


def test_pooled_places_are_means_at_their_centres(model, whole):
    run = reduced(model, ep.reduce.pool(2))
    for name in (QUERY, MID):
        expected = ep.site(whole, name).coarsen(y=2, x=2).mean()
        xr.testing.assert_allclose(ep.site(run, name), expected, atol=1e-5)
    assert ep.site(run, QUERY)["y"].values[:2].tolist() == [8, 24]
    xr.testing.assert_identical(ep.site(run, KEY), ep.site(whole, KEY))
    assert json.loads(run.attrs["config"])["reduce"] == [{"kind": "pool", "size": 2}]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(2, 4), st.booleans())
def test_pooling_any_grid(height, width, size, with_heads):
    rest = (2, 3) if with_heads else (3,)
    dims = ("y", "x", "head", "channel") if with_heads else ("y", "x", "channel")
    coords = {"y": tuple(np.arange(height) + 0.5), "x": tuple(np.arange(width) + 0.5)}
    form = Form("a", dims, (height, width, *rest), coords)
    values = torch.randn(2, *form.shape, generator=torch.Generator().manual_seed(0))
    pool = ep.reduce.pool(size)
    after = pool.form(form)
    found = pool.reduce(values, form)
    assert tuple(found.shape[1:]) == after.shape
    for i, y in enumerate(after.coords["y"]):
        for j, x in enumerate(after.coords["x"]):
            square = (slice(None), slice(i * size, (i + 1) * size), slice(j * size, (j + 1) * size))
            torch.testing.assert_close(found[:, i, j], values[square].mean((1, 2)))
            rows, columns = np.arange(height)[square[1]], np.arange(width)[square[2]]
            assert (y, x) == (rows.mean() + 0.5, columns.mean() + 0.5)


def test_what_is_chosen_keeps_its_numbers(model, whole):
    run = reduced(model, ep.reduce.heads([1]), ep.reduce.channels([5, 0]), ep.reduce.tokens([2, 3]))
    query = ep.site(run, QUERY)
    assert query["head"].values.tolist() == [1]
    assert query["channel"].values.tolist() == [5, 0]
    expected = ep.site(whole, QUERY).isel(head=[1], channel=[5, 0])
    assert np.array_equal(query, expected)
    assert not np.array_equal(query, ep.site(whole, QUERY).isel(head=[0], channel=[5, 0]))
    assert np.array_equal(ep.site(run, MID), ep.site(whole, MID).isel(channel=[5, 0]))
    key = ep.site(run, KEY)
    assert np.array_equal(key, ep.site(whole, KEY).isel(head=[1], channel=[5, 0], token=[2, 3]))
    assert key["token"].values.tolist() == [2, 3]
    texts = key["token_text"].sel(guidance="cond")
    assert texts.values.tolist() == [["red", "house"], ["blue", "car"]]
    # Of what is left, the numbers still count.
    again = reduced(model, ep.reduce.tokens([1, 2, 3]), ep.reduce.tokens([3]), sites=KEY)
    assert np.array_equal(ep.site(again, KEY).squeeze("token"), ep.site(whole, KEY).isel(token=3))


def test_a_crop_is_a_part_of_the_picture_at_every_level(model, whole):
    run = reduced(model, ep.reduce.crop(y=(32, 96), x=(0, 64)))
    for name in (QUERY, MID):
        expected = ep.site(whole, name).sel(y=slice(32, 95.9), x=slice(0, 63.9))
        assert expected.size < ep.site(whole, name).size
        xr.testing.assert_identical(ep.site(run, name), expected)
    pooled = reduced(model, ep.reduce.crop(y=(32, 96), x=(0, 64)), ep.reduce.pool(2), sites=QUERY)
    expected = ep.site(run, QUERY).coarsen(y=2, x=2).mean()
    xr.testing.assert_allclose(ep.site(pooled, QUERY), expected, atol=1e-5)


def vectors(run, name):
    values = ep.site(run, name)
    dims = [dim for dim in ("head", "channel") if dim in values.dims]
    return values.stack(place=[d for d in values.dims if d not in dims], vector=dims).values


def test_principal_components_are_scikit_learns(model, whole):
    run = reduced(model, ep.reduce.project(3), batch=2)
    for name in SITES:
        ours, plain = vectors(run, name), vectors(whole, name)
        assert ours.shape[1] == 3
        pca = PCA(3, svd_solver="full").fit(plain)
        theirs = pca.transform(plain)
        signs = np.sign((ours * theirs).sum(0))
        scale = theirs.std()
        np.testing.assert_allclose(ours, theirs * signs, atol=1e-2 * scale)
        assert not np.allclose(ours, vectors(whole, name)[:, :3], atol=0.1 * scale)
    assert ep.site(run, QUERY).dims[-3:] == ("y", "x", "channel")
    both = reduced(model, ep.reduce.heads([1]), ep.reduce.project(2), sites=QUERY)
    plain = vectors(whole.copy(), QUERY)[:, 12:]
    np.testing.assert_allclose(
        vectors(both, QUERY).var(0), PCA(2).fit(plain).explained_variance_, rtol=1e-2
    )


def test_principal_components_of_some_timesteps_are_of_those(model, whole):
    some = whole["timestep"].values[[1]].tolist()
    run = reduced(model, ep.reduce.project(2), sites=MID, timesteps=some)
    plain = vectors(whole.isel(timestep=[1]), MID)
    expected = PCA(2, svd_solver="full").fit(plain).explained_variance_
    np.testing.assert_allclose(vectors(run, MID).var(0, ddof=1), expected, rtol=1e-2)


def test_random_projections_keep_distances_and_depend_on_the_seed(model, whole):
    runs = [
        reduced(model, ep.reduce.project(16, kind="random", seed=seed), sites=[QUERY, MID])
        for seed in (0, 0, 1)
    ]
    first, again, other = (vectors(run, QUERY) for run in runs)
    assert np.array_equal(first, again)
    assert not np.allclose(first, other, atol=1e-2)
    plain = vectors(whole, QUERY)
    pairs = np.random.default_rng(0).integers(len(plain), size=(2, 200))
    before, after = (
        np.linalg.norm(each[pairs[0]] - each[pairs[1]], axis=1) for each in (plain, first)
    )
    assert np.corrcoef(before, after)[0, 1] > 0.7
    assert abs(np.median(after / before) - 1) < 0.3


def test_a_reduced_recording_goes_on_and_refuses_other_reducers(model, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "_LONGEST_BLOCK", 1)
    path, reducers = tmp_path / "run.zarr", [ep.reduce.pool(2), ep.reduce.project(2)]
    in_memory = reduced(model, *reducers)
    predict, calls = model.predict, []

    def interrupted(latents, timestep, condition):
        calls.append(timestep)
        # The first pass takes 6 calls.
        if len(calls) == 8:
            raise KeyboardInterrupt
        return predict(latents, timestep, condition)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "predict", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ep.record(model, PROMPTS, SITES, reduce=reducers, store=path, **OPTIONS)
    streamed = ep.record(model, PROMPTS, SITES, reduce=reducers, store=path, **OPTIONS)
    for name in (*SITES, "image"):
        ours, theirs = ep.site(streamed, name).load(), ep.site(in_memory, name)
        xr.testing.assert_identical(ours, theirs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "predict", lambda *_: pytest.fail("it was run again"))
        ep.record(model, PROMPTS, SITES, reduce=reducers, store=path, **OPTIONS)
    for other in ([], [ep.reduce.pool(4), reducers[1]], reducers[::-1]):
        with pytest.raises(ConfigError, match=r"reduce: begun with .*'size': 2.*now"):
            ep.record(model, PROMPTS, SITES, reduce=other, store=path, **OPTIONS)


def test_a_probe_reduces_too(model, whole):
    reducers = [ep.reduce.pool(2), ep.reduce.heads([1]), ep.reduce.tokens([1])]
    with ep.probe(model, SITES, dtype="float32", reduce=reducers) as recorder:
        ep.record(model, PROMPTS[0], SITES, **OPTIONS)
    recorded = reduced(model, *reducers)
    for name in SITES:
        ours, theirs = ep.site(recorder.tree, name), ep.site(recorded, name).isel(sample=[0])
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dims == theirs.dims
    assert ep.site(recorder.tree, KEY)["token_text"].values[0, 1].tolist() == ["a"]
    assert json.loads(recorder.tree.attrs["config"])["reduce"][0] == {"kind": "pool", "size": 2}
    with (
        pytest.raises(ConfigError, match="kind='random'"),
        ep.probe(model, MID, reduce=ep.reduce.project(2)),
    ):
        pass


def test_numbers_of_numpy_are_written_as_numbers(model):
    reducers = [
        ep.reduce.crop(y=(np.float32(0), np.int64(64)), x=np.array([0, 64])),
        ep.reduce.pool(np.int64(2)),
        ep.reduce.heads(np.array([0])),
        ep.reduce.project(np.int64(3), kind="random", seed=np.int64(1)),
    ]
    run = reduced(model, *reducers, sites=[QUERY])
    assert json.loads(run.attrs["config"])["reduce"][1] == {"kind": "pool", "size": 2}
    plain = [
        ep.reduce.crop(y=(0, 64), x=(0, 64)),
        ep.reduce.pool(2),
        ep.reduce.heads([0]),
        ep.reduce.project(3, kind="random", seed=1),
    ]
    assert reducers == plain


def test_wrong_reducers_are_refused(model):
    def record(*reducers, sites=MID):
        ep.record(model, PROMPTS[0], sites, reduce=reducers, plan=True, **OPTIONS)

    with pytest.raises(ConfigError, match=r"no recorded site .* dims for heads\(numbers=\(0,\)\)"):
        record(ep.reduce.heads([0]))
    with pytest.raises(ConfigError, match=r"'mid_block:out' has 24 of dim channel.* 24"):
        record(ep.reduce.channels([0, 24]))
    with pytest.raises(ConfigError, match=r"no location of .*y=\(0, 1\) pixels.*at 8\.0"):
        record(ep.reduce.crop(y=(0, 1), x=(0, 64)))
    with pytest.raises(ConfigError, match=r"24 channels, fewer than project\(n=25\)"):
        record(ep.reduce.project(25))
    with pytest.raises(ConfigError, match="twice"):
        record(ep.reduce.project(3), ep.reduce.project(2))
    for wrong in (
        lambda: ep.reduce.pool(1),
        lambda: ep.reduce.heads([]),
        lambda: ep.reduce.tokens([-1]),
        lambda: ep.reduce.channels([1, 1]),
        lambda: ep.reduce.crop(y=(3, 2), x=(0, 1)),
        lambda: ep.reduce.project(0),
        lambda: ep.reduce.project(2, kind="ica"),
    ):
        with pytest.raises(ConfigError):
            wrong()
