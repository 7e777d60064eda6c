"""What was recorded is taken by every function of features, from memory and from a store."""

import numpy as np
import pytest
import xarray as xr

import emerdiff_probe as ep
from emerdiff_probe import layers, segments
from emerdiff_probe.errors import InputError
from tests.checkpoints import tiny_playground

QUERY = "up_blocks.1.attentions.0.transformer_blocks.0.attn2:query"
PROMPTS = [ep.Prompt("a red house", 1), ep.Prompt("a blue car", 2)]


@pytest.fixture(scope="module", params=["memory", "store"])
def run(request, tmp_path_factory):
    store = tmp_path_factory.mktemp("run") / "run.zarr" if request.param == "store" else None
    options = {"steps": 3, "guidance": 2, "progress": False, "store": store}
    recorded = ep.record(ep.load(tiny_playground()), PROMPTS, [QUERY, "mid_block"], **options)
    return recorded if store is None else ep.open(store)


@pytest.fixture
def recorded(run):
    """One picture at one timestep, as it was recorded: two halves, two heads."""
    return ep.site(run, QUERY).sel(timestep=334).isel(sample=[0])


@pytest.fixture
def plain(recorded):
    """The same as arrays of one's own."""
    values = recorded.sel(guidance="cond")[0].transpose("y", "x", "head", "channel")
    joined = values.values.astype(np.float32).reshape(*values.shape[:2], -1)
    return xr.DataArray(
        joined,
        dims=("source_y", "source_x", "channel"),
        coords={"source_y": values["y"].values, "source_x": values["x"].values},
    )


FUNCTIONS = {
    "cluster": lambda f: layers.cluster(f, 4),
    "normalised": lambda f: layers.normalised(f, "l2"),
    "diffcut": segments.diffcut,
    "normalised_cut": lambda f: segments.normalised_cut(f, 4),
    "silhouettes": lambda f: segments.silhouettes(f, [2, np.int64(3)], restarts=2),
    "embeddings": lambda f: segments.embeddings(f, MASKS),
    "bilinear_features": lambda f: segments.bilinear_features(
        f, segments.embeddings(f, MASKS), np.arange(8), np.arange(8)
    ),
    "mask_pool": lambda f: segments.mask_pool(np.arange(16).reshape(4, 4) % 3, f),
    "effective_rank": lambda f: xr.DataArray(layers.effective_rank(f)),
    "principal_colours": layers.principal_colours,
    "similarity_to_point": lambda f: layers.similarity_to_point(f, 20, 70),
    "cka": lambda f: xr.DataArray(layers.cka(f, f)),
    "match_points": lambda f: layers.match_points(f, f, [20, 60], [10, 90]),
    "mutual_matches": lambda f: layers.mutual_matches(f, f),
    "agreement": lambda f: xr.DataArray(
        layers.agreement(layers.cluster(f, 3), layers.cluster(f, 4))["ari"]
    ),
}
MASKS = segments.one_hot(
    xr.DataArray(np.arange(256).reshape(16, 16) // 128, dims=("source_y", "source_x")), 2
)


def _places(values):
    """Its dims, whatever places are called; only what was recorded has a sample."""
    named = {"y": "source_y", "x": "source_x"}
    return [named.get(dim, dim) for dim in values.dims if dim != "sample"]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_of_features_take_what_was_recorded(name, recorded, plain):
    expected, found = FUNCTIONS[name](plain), FUNCTIONS[name](recorded)
    shuffled = FUNCTIONS[name](recorded.transpose("channel", "x", ..., "y"))
    for each in (found, shuffled):
        assert _places(each) == _places(expected)
        both = (each, expected)
        if isinstance(each, xr.Dataset):
            both = tuple(one.to_dataarray() for one in both)
        np.testing.assert_allclose(*(one.squeeze().values for one in both), rtol=1e-4, atol=1e-4)


def test_several_samples_or_timesteps_are_no_one_picture(run):
    values = ep.site(run, QUERY)
    for function in ("cluster", "diffcut", "match_points", "normalised"):
        with pytest.raises(InputError, match=r"3 of dim timestep; choose one, as in .sel"):
            FUNCTIONS[function](values)
    for function in ("normalised_cut", "diffcut", "match_points"):
        with pytest.raises(InputError, match=r"2 of dim sample; choose one, as in .isel"):
            FUNCTIONS[function](values.isel(timestep=1))
    with pytest.raises(InputError, match="no features of locations"):
        layers.cluster(values.isel(y=0), 2)


def test_labelled_masks_are_read_by_their_dims(recorded):
    low_res = layers.cluster(recorded, 3)
    by_hand = segments.as_masks(low_res.values[0], (16, 16))
    for same in (
        low_res.transpose("x", "y", "sample"),
        low_res.isel(sample=0).rename(y="source_y", x="source_x").transpose("source_x", "source_y"),
        low_res.isel(sample=0),
    ):
        np.testing.assert_array_equal(segments.as_masks(same, (16, 16)), by_hand)
        np.testing.assert_array_equal(segments.one_hot(same, 3), by_hand)
    assert not np.array_equal(by_hand, segments.as_masks(low_res.values[0].T, (16, 16)))
    with pytest.raises(InputError, match="2 of dim sample"):
        segments.as_masks(xr.concat([low_res, low_res], "sample"), (16, 16))


@pytest.mark.parametrize(
    "name", ["cluster", "normalised", "diffcut", "silhouettes", "effective_rank", "cka"]
)
def test_whole_datasets_are_no_features(run, name):
    with pytest.raises(InputError, match=r"this is a recording, not one labelled array.*ep\.site"):
        FUNCTIONS[name](run)
    labels = xr.Dataset({"labels": (("y", "x"), np.zeros((2, 2)))})
    with pytest.raises(InputError, match="this is a segmentation, not one labelled array"):
        FUNCTIONS[name](labels)


def test_places_are_where_their_labels_say(recorded):
    upside_down = recorded.isel(y=slice(None, None, -1), x=np.random.default_rng(0).permutation(16))
    low_res = layers.cluster(recorded, 3)
    xr.testing.assert_equal(layers.cluster(upside_down, 3), low_res)
    masks = segments.one_hot(low_res, 3)
    np.testing.assert_array_equal(segments.as_masks(masks[:, ::-1], (16, 16)), masks)
    # Without labels the order of rows is all there is.
    bare = masks.drop_vars("source_y")[:, ::-1]
    assert not np.array_equal(segments.as_masks(bare, (16, 16)), masks)
