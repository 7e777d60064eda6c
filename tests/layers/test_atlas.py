from dataclasses import dataclass

import numpy as np
import pytest
import xarray as xr

import emerdiff_probe as ep
from emerdiff_probe import views
from emerdiff_probe.errors import InputError, SiteError
from emerdiff_probe.layers import (
    MEASURES,
    CKABetween,
    ClustersBetween,
    LinearProbe,
    Massive,
    atlas,
    cka,
    effective_rank,
    explained,
    features,
    linear_probe,
    principal_colours,
    similarity_to_point,
)
from tests.recordings import recording

STEPS = (981, 481, 1)


@pytest.fixture(scope="module")
def truth():
    return np.kron(np.random.default_rng(0).integers(0, 3, (6, 8, 8)), np.ones((1, 2, 2), int))


@pytest.fixture(scope="module")
def run(truth):
    """A site that knows the classes better and better, one that knows nothing, and a coarse one."""
    rng = np.random.default_rng(1)
    cells = np.eye(3)[truth[:, ::2, ::2]]
    signal = cells[:, None] * np.array([0, 1, 10])[:, None, None, None]
    knows = signal + rng.normal(size=(6, 3, 8, 8, 3))
    coarse = knows.reshape(6, 3, 4, 2, 4, 2, 3).mean((3, 5)) @ rng.normal(size=(3, 3))
    pictures = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
    layers = {
        "knows/out": knows,
        "noise/out": rng.normal(size=(6, 3, 8, 8, 40)),
        "coarse/out": coarse,
    }
    return recording(layers, pictures, STEPS)


@pytest.fixture(scope="module")
def measured(run, truth):
    return atlas(run, list(MEASURES), labels=truth, progress=False)


def test_every_number_is_that_of_the_measure_alone(run, truth, measured):
    for site in ("knows:out", "noise:out", "coarse:out"):
        for step in (981, 1):
            layer = features(run, site, step)
            cell = measured.sel(site=site, timestep=step)
            assert float(cell["effective_rank"]) == pytest.approx(effective_rank(layer))
            scores = linear_probe(layer, truth, points=256)
            assert float(cell["probe_accuracy"]) == scores.accuracy
            assert float(cell["probe_selectivity"]) == scores.selectivity
            assert float(cell["probe_exchanged"]) == scores.exchanged
            assert cell["probe_recall"].to_series().to_dict() == dict(scores.by_class)
            shares = explained(layer, ep.site(run, "image"), truth)
            assert cell["explained"].values == pytest.approx(shares.values, abs=1e-9)


def test_the_grid_is_labelled(measured):
    assert measured["effective_rank"].dims == ("site", "timestep")
    assert measured["cka"].dims == ("site", "timestep", "site2")
    assert measured["timestep"].values.tolist() == list(STEPS)
    assert measured["rows"].sel(site="coarse:out") == 4
    assert "LinearProbe(folds=5, points=256, seed=0)" in measured.attrs["measures"]
    assert not any(measured[name].isnull().any() for name in measured.data_vars)


def test_finds_where_the_classes_are_known(measured):
    for name, least in (("probe_selectivity", 0.5), ("labels_ari", 0.25)):  # 12 clusters, 3 classes
        knows, noise = (measured[name].sel(site=f"{site}:out") for site in ("knows", "noise"))
        assert float(knows.sel(timestep=1)) > least
        assert float(knows.sel(timestep=981)) < least / 2
        assert np.abs(noise).max() < 0.2
    semantics = measured["explained"].sel(share="only semantics", site="knows:out")
    assert float(semantics.sel(timestep=1)) > 0.9 > float(semantics.sel(timestep=981)) + 0.8


def test_sites_are_compared_on_the_coarsest_grid(run, measured):
    for step in STEPS:
        between = measured["cka"].sel(timestep=step)
        assert np.array_equal(between, between.transpose())
        assert np.diag(between) == pytest.approx(np.ones(3))
        assert abs(float(between.sel(site="knows:out", site2="noise:out"))) < 0.3
    every = atlas(run, [CKABetween(points=None, batch=96)], progress=False)["cka"]
    direct = cka(features(run, "knows", 1), features(run, "coarse", 1), batch=96)
    found = every.sel(site="knows:out", site2="coarse:out", timestep=1)
    assert float(found) == pytest.approx(direct, rel=1e-4)
    clusters = atlas(run, [ClustersBetween(count=3)], progress=False)["clusters_ari"]
    related = clusters.sel(site="knows:out", site2="coarse:out")
    assert float(related.sel(timestep=1)) > 0.2
    assert abs(clusters.sel(site="knows:out", site2="noise:out")).max() < 0.2


def test_massive_channels_are_found():
    rng = np.random.default_rng(0)
    even, massive = rng.normal(size=(2, 2, 1, 4, 4, 200)).astype(np.float32)
    massive[..., 7] *= 1000
    massive[..., 150] *= 500
    picture = np.zeros((2, 8, 8, 3), np.uint8)
    made = recording({"even/out": even, "massive/out": massive}, picture, (1,))
    found = atlas(made, progress=False).isel(timestep=0)
    assert found["massive_even"].values.tolist() == [0.01, 0.01]
    plain, large = found["massive_share"].values
    assert 0.01 < plain < 0.03
    assert large > 0.999
    assert found["massive_channel"].sel(site="massive:out") == 7
    only = atlas(made, [Massive(fraction=0.001)], progress=False).isel(timestep=0)
    squares = np.square(massive.astype(np.float64)).sum((0, 1, 2, 3))
    assert float(only["massive_share"][1]) == pytest.approx(squares[7] / squares.sum())
    shares = views.atlas(atlas(made, ["massive"], progress=False)["massive_share"])
    assert [row[0] for row in shares.data[0].text] == [f"{plain:.2f}", "1.00"]


def test_a_choice_of_sites_and_timesteps(run, measured):
    part = atlas(run, ["effective_rank"], sites="*, !noise", timesteps=[1, 981], progress=False)
    assert part["site"].values.tolist() == ["knows:out", "coarse:out"]
    same = measured["effective_rank"].sel(site=part["site"], timestep=[1, 981])
    assert np.array_equal(part["effective_rank"], same)


def test_a_measure_of_ones_own(run):
    @dataclass(frozen=True)
    class Mean:
        power: int

        def measure(self, features, about):
            return {"mean": float((features**self.power).mean())}

    found = atlas(run, [Mean(2)], progress=False)
    expected = (features(run, "noise", 481) ** 2).mean()
    assert float(found["mean"].sel(site="noise:out", timestep=481)) == pytest.approx(expected)


def test_measures_compute_in_float32_whatever_was_recorded():
    """Sums of float16 leave its range, silently."""
    halves = {"large/out": np.full((1, 1, 32, 32, 4), 100, np.float16)}
    run = recording(halves, np.zeros((1, 32, 32, 3), np.uint8), (1,))

    class Power:
        def measure(self, features, about):
            return {"power": float((features**2).sum())}

    found = atlas(run, [Power()], progress=False)
    assert float(found["power"].squeeze()) == 32 * 32 * 4 * 100**2


def test_a_streamed_recording_is_read_site_by_site(run, truth, measured, tmp_path, monkeypatch):
    run.to_zarr(tmp_path / "run.zarr", consolidated=False)
    lazy = xr.open_datatree(tmp_path / "run.zarr", engine="zarr", chunks={}, consolidated=False)
    lazy = lazy.chunk({"timestep": 2})
    loaded = []
    load = xr.DataArray.load

    def watched(self, **more):
        if "channel" in self.dims:
            loaded.append(self.sizes.get("timestep"))
        return load(self, **more)

    monkeypatch.setattr(xr.DataArray, "load", watched)
    found = atlas(lazy, ["effective_rank", "similarity", "cka"], labels=truth, progress=False)
    # The measures see loaded features, one timestep at a time; blocks are of two and one.
    assert [count for count in loaded if count] == [2, 1] * 3
    found = found.sel(site=measured["site"].values, site2=measured["site2"].values)
    for name in found.data_vars:
        xr.testing.assert_allclose(found[name], measured[name])


def test_of_a_model_from_the_store(tiny_folder, tmp_path):
    model = ep.load(tiny_folder)
    pictures = [ep.Photo(ep.scenes.scene(seed).image) for seed in (0, 1)]
    labels = np.stack([ep.scenes.scene(seed).objects for seed in (0, 1)])
    sites = "up_blocks.1.*:query, up_blocks.1.*attn2:key, mid_block, down_blocks.1.resnets.0"
    store = tmp_path / "run.zarr"
    ep.record(model, pictures, sites, steps=3, timesteps=None, store=store, progress=False)
    found = atlas(ep.open(store), ["similarity", "probe", "cka"], labels=labels, progress=False)
    with_places = model.sites(sites + ", !*attn2:key").index
    assert found["site"].values.tolist() == list(with_places)
    assert found.sizes["timestep"] == 3
    assert np.isfinite(found["cka"]).all()
    assert (found["probe_accuracy"] > found["probe_control"]).any()
    layer = features(ep.open(store), "mid_block")
    assert principal_colours(layer).dims == ("sample", "timestep", "y", "x", "rgb")
    assert float(similarity_to_point(layer, 40, 52).max()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("measures", "more", "message"),
    [
        (["effective_rnk"], {}, "no measure 'effective_rnk'; closest: 'effective_rank'"),
        ([], {}, "measures is empty; choose from effective_rank"),
        ([3], {}, "3 is not a measure"),
        (["probe"], {}, "a linear probe needs labels="),
        ([LinearProbe()], {}, "a linear probe needs labels="),
        (["effective_rank"], {"timesteps": [5]}, r"timesteps \[5\] were not recorded"),
        (["effective_rank"], {"timesteps": []}, "timesteps is empty"),
    ],
)
def test_refusals(run, measures, more, message):
    with pytest.raises(InputError, match=message):
        atlas(run, measures, progress=False, **more)


def test_refuses_unknown_sites_and_missing_values(run):
    with pytest.raises(SiteError, match="no site matches 'nose'"):
        atlas(run, sites="nose", progress=False)
    holes = run.copy(deep=True)
    holes["noise/out"]["value"].values[0, 1] = np.nan
    with pytest.raises(InputError, match="the recording is not complete there"):
        atlas(holes, progress=False)


def test_a_recording_without_pictures_is_measured_by_what_needs_none(run, truth, measured):
    bare = run.filter(lambda node: node.name != "image")
    found = atlas(bare, ("effective_rank",), progress=False)
    np.testing.assert_array_equal(found["effective_rank"], measured["effective_rank"])
    with pytest.raises(InputError, match="needs the images, but this recording has none"):
        atlas(bare, ("explained",), labels=truth, progress=False)
