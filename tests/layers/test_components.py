import numpy as np
import pytest
from sklearn.decomposition import PCA

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import effective_rank, joined, principal_colours, principal_components
from tests.recordings import layer


@pytest.fixture
def values():
    """Four directions of falling strength, at 2 samples, 3 timesteps, 5 x 6 places."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.normal(size=(4, 4))).Q
    return rng.normal(size=(2, 3, 5, 6, 4)) * [8, 4, 2, 1] @ turn + np.array([5, 0, -3, 1])


def test_components_agree_with_scikit_learn(values):
    found = principal_components(layer(values), 3)
    reference = PCA(3).fit(values.reshape(-1, 4))
    assert np.abs(np.sum(found.vectors * reference.components_, 1)) == pytest.approx(np.ones(3))
    assert found.share == pytest.approx(reference.explained_variance_ratio_)
    scores = found.project(layer(values)).transpose(..., "component").values.reshape(-1, 3)
    expected = np.abs(reference.transform(values.reshape(-1, 4)))
    assert np.abs(scores) == pytest.approx(expected, abs=1e-4)


def test_signs_do_not_depend_on_the_data_and_chunks_change_nothing(values):
    whole = principal_components(layer(values))
    largest = np.take_along_axis(whole.vectors, np.abs(whole.vectors).argmax(1)[:, None], 1)
    assert (largest > 0).all()
    mirrored = principal_components(layer(2 * values.mean((0, 1, 2, 3)) - values))
    assert mirrored.vectors == pytest.approx(whole.vectors)
    lazy = layer(values).chunk({"sample": 1, "timestep": 2})
    assert principal_colours(lazy).values == pytest.approx(principal_colours(layer(values)).values)


def test_colours_mean_the_same_at_every_timestep(values):
    values[:, 2] = values[:, 0]
    colours = principal_colours(layer(values))
    assert colours.sizes == {"sample": 2, "timestep": 3, "y": 5, "x": 6, "rgb": 3}
    assert np.array_equal(colours.isel(timestep=0), colours.isel(timestep=2))
    assert not np.allclose(colours.isel(timestep=0), colours.isel(timestep=1))
    assert float(colours.mean()) == pytest.approx(0.5, abs=0.02)
    assert 0 <= float(colours.min()) < 0.2
    assert colours.attrs["share"][0] > colours.attrs["share"][1]
    # Alone, a timestep would have other colours.
    own = principal_colours(layer(values[:, 1]))
    assert not np.allclose(own, colours.isel(timestep=1), atol=1e-3)


def test_layers_join_with_equal_weight_on_the_finest_grid(values):
    coarse = layer(values[:, :, :2, :3] * 1000)
    fine = layer(values)
    both = joined({"coarse": coarse, "fine": fine})
    assert both.sizes["channel"] == 8
    assert (both.sizes["y"], both.sizes["x"]) == (5, 6)
    parts = both.values.reshape(-1, 8)
    assert parts[:, 4:].var(0).sum() == pytest.approx(1, rel=1e-4)
    nearest = coarse.sel(y=fine["y"], x=fine["x"], method="nearest").values
    ratio = both.values[..., :4] / nearest
    assert ratio == pytest.approx(ratio.ravel()[0], rel=1e-4)
    assert principal_colours({"coarse": coarse, "fine": fine}).sizes["x"] == 6
    with pytest.raises(InputError, match="differ in samples or timesteps"):
        joined({"a": fine, "b": layer(values[:1])})


def test_effective_rank_by_hand():
    # Two uncorrelated columns whose standard deviations are as 3 to 1.
    a, b = np.array([3.0, -3, 3, -3]), np.array([1.0, 1, -1, -1])
    values = np.zeros((1, 2, 2, 5))
    values[..., 0], values[..., 3] = a.reshape(2, 2) + 7, b.reshape(2, 2)
    p = np.array([0.75, 0.25])
    assert effective_rank(layer(values)) == pytest.approx(np.exp(-(p * np.log(p)).sum()))
    turned = values @ np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5))).Q
    assert effective_rank(layer(turned)) == pytest.approx(effective_rank(layer(values)), rel=1e-5)
    assert effective_rank(layer(np.ones((1, 2, 2, 5)))) == 0


def test_noise_has_full_rank_and_one_direction_has_one(values):
    noise = np.random.default_rng(0).normal(size=(2, 20, 20, 6))
    assert effective_rank(layer(noise)) == pytest.approx(6, abs=0.05)
    assert effective_rank(layer(noise[..., :1] * np.arange(1, 7))) == pytest.approx(1, abs=1e-4)
    with pytest.raises(InputError, match="count=5; choose 1 to 4"):
        principal_components(layer(values), 5)
