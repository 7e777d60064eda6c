"""A feature is changed alone: to a value, by a factor, by an amount."""

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.errors import ConfigError, SiteError
from tests.checkpoints import tiny_playground
from tests.interventions.test_edits import MAP, OUT, seen


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


def book_of(channels=24, features=16, **settings):
    """Orthonormal directions: an edit of one feature changes no other."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.normal(size=(channels, channels))).Q[:features]
    return ep.Dictionary(directions.T, directions, **settings)


# By kind, what a dictionary has besides directions, given the spread of projections.
KINDS = {
    "relu": lambda spread: {},
    "jumprelu": lambda spread: {"threshold": 0.3 * spread},
    "topk": lambda spread: {"k": 4},
    "biased": lambda spread: {"encoder_bias": np.full(16, 0.3 * spread)},
}


def rows(tensor):
    """(row, location, channel) of a site's tensor, whichever its kind."""
    return (tensor.flatten(2).transpose(1, 2) if tensor.ndim == 4 else tensor).numpy()


@pytest.mark.parametrize("site", [OUT, MAP])
@pytest.mark.parametrize("kind", KINDS)
def test_one_feature_changes_and_all_else_stays(model, site, kind):
    plain = rows(seen(model, site))
    middle = plain.mean((0, 1))
    spread = float((plain - middle).std())
    book = book_of(plain.shape[-1], input_bias=middle, **KINDS[kind](spread))
    before = book.encode(plain)
    feature = 5
    active = before[..., feature] > 0
    assert 0.05 < active.mean() < 0.95
    gone = rows(seen(model, site, [ep.EditFeature(site, book, feature, to=0)]))
    direction = book.decoder[feature]
    expected = plain - before[..., feature, None] * direction
    np.testing.assert_allclose(gone, expected, atol=1e-4)
    assert np.array_equal(gone[~active], plain[~active])
    double = rows(seen(model, site, [ep.EditFeature(site, book, feature, times=2)]))
    np.testing.assert_allclose(double, plain + before[..., feature, None] * direction, atol=1e-4)
    more = rows(seen(model, site, [ep.EditFeature(site, book, feature, add=-3)]))
    np.testing.assert_allclose(more, plain - 3 * direction, atol=1e-4)
    full = rows(seen(model, site, [ep.EditFeature(site, book, feature, to=5)]))
    np.testing.assert_allclose(
        full, plain + (5 - before[..., feature, None]) * direction, atol=1e-4
    )


def test_it_is_limited_as_any_edit_and_agrees_with_steering(model):
    book, mask = book_of(), torch.zeros(16, 16)
    mask[0, 0] = 1
    here = seen(model, OUT, [ep.EditFeature(OUT, book, 3, add=2, mask=mask)]) - seen(model, OUT)
    assert here[:, 1:].abs().max() == 0
    size = float(np.sqrt((book.decoder[3] ** 2).mean()))
    steered = ep.Steer(OUT, book.direction(3), 2 * size, mask=mask)
    torch.testing.assert_close(seen(model, OUT, [steered]) - seen(model, OUT), here)


def test_a_run_is_drawn_again_without_a_feature(model):
    run = ep.generate(model, "a house", seed=1, steps=2)
    book = book_of()
    same = run.replay(ep.EditFeature(OUT, book, 0, times=1))
    other = run.replay(ep.EditFeature(OUT, book, 0, add=50))
    assert np.array_equal(same.picture, run.picture)
    assert not np.array_equal(other.picture, run.picture)


def test_what_cannot_be_edited_is_refused(model):
    book = book_of()
    with pytest.raises(ConfigError, match="feature is 16; choose an integer from 0 to 15"):
        ep.EditFeature(OUT, book, 16, to=0)
    for said in ({}, {"to": 0, "add": 1}):
        with pytest.raises(ConfigError, match="set one of to=, times= and add="):
            ep.EditFeature(OUT, book, 0, **said)
    with pytest.raises(ConfigError, match="to is 'a'"):
        ep.EditFeature(OUT, book, 0, to="a")
    with pytest.raises(SiteError, match="has 24 channels, and the dictionary has 7"):
        seen(model, OUT, [ep.EditFeature(OUT, book_of(7, 5), 0, to=0)])
