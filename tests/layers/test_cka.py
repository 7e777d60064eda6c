import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import CKA, cka
from emerdiff_probe.layers.cka import similarity_vectors
from tests.recordings import layer


def hsic_by_formula(x, y):
    """Song et al. 2012, eq. 5, as it stands."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    inner = np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
    return (inner - 2 / (n - 2) * one @ k @ m @ one) / (n * (n - 3))


def hsic_by_counting(x, y):
    """The U-statistic: over all ordered quadruples of different points."""
    k, m = x @ x.T, y @ y.T
    terms = [
        k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
        for i, j, q, r in itertools.permutations(range(len(x)), 4)
    ]
    return np.mean(terms)


def pair(n=7, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 3)) + 2, rng.normal(size=(n, 4)) - 1


def test_the_estimator_is_song_et_als_two_ways():
    x, y = pair()
    ours = float((similarity_vectors([x]) * similarity_vectors([y])).sum())
    assert ours == pytest.approx(hsic_by_formula(x, y))
    assert ours == pytest.approx(hsic_by_counting(x, y))


def test_minibatches_average_before_the_ratio():
    (x, y), (u, v) = pair(seed=0), pair(seed=1)
    expected = np.sum([hsic_by_formula(x, y), hsic_by_formula(u, v)]) / np.sqrt(
        np.sum([hsic_by_formula(x, x), hsic_by_formula(u, u)])
        * np.sum([hsic_by_formula(y, y), hsic_by_formula(v, v)])
    )
    found = CKA().update(x, y)
    again = found.update(u, v)
    assert again.value == pytest.approx(expected)
    assert found.value != again.value


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 100))
def test_rotation_scale_and_shift_change_nothing(seed, scale):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 12, 4))
    turned = scale * (y @ np.linalg.qr(rng.normal(size=(4, 4))).Q) + rng.normal(size=4)
    assert CKA().update(y, turned).value == pytest.approx(1)
    assert CKA().update(x, turned).value == pytest.approx(CKA().update(x, y).value, abs=1e-7)


def test_unrelated_layers_are_near_zero_where_the_biased_estimator_is_not():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 64, 256))
    kx, ky = (each - each.mean(0) for each in (x, y))
    biased = np.linalg.norm(kx.T @ ky) ** 2 / (
        np.linalg.norm(kx.T @ kx) * np.linalg.norm(ky.T @ ky)
    )
    assert biased > 0.7
    assert abs(CKA().update(x, y).value) < 0.05


def test_of_layers_on_two_grids():
    rng = np.random.default_rng(0)
    coarse = rng.normal(size=(2, 8, 8, 3))
    fine = np.kron(coarse, np.ones((1, 2, 2, 1)))
    other = rng.normal(size=(2, 16, 16, 5))
    assert cka(layer(coarse), layer(fine)) == pytest.approx(1)
    assert cka(layer(coarse), layer(fine), points=40, batch=20) == pytest.approx(1)
    assert abs(cka(layer(coarse), layer(other))) < 0.1
    assert np.isnan(cka(layer(coarse), layer(np.ones((2, 8, 8, 2)))))
    with pytest.raises(InputError, match="give CKA at least 4"):
        cka(layer(coarse), layer(coarse), points=3)
    with pytest.raises(InputError, match="the same samples"):
        cka(layer(coarse), layer(coarse[:1]))
