"""Queries on stored responses: linear algebra that can be checked by hand."""

import json

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import gaussian_filter

from emerdiff_probe import schema, views
from emerdiff_probe.errors import InputError
from emerdiff_probe.responses import (
    additivity_error,
    compress,
    movers,
    pixels_moved,
    response_of,
    segment_from,
)

GRID, SIZE = (4, 6), (32, 48)
CONFIG = {"normalise": "none", "restarts": 10, "seed": 0, "sigma": 0, "balance": "none"}
CONFIG |= {"elsewhere": 1}


def made(seed=0, dtype=np.float32):
    """A smooth spot of a colour of its own at every location, and a little noise."""
    random = np.random.RandomState(seed)
    sy, sx = (schema.pixel_centres(n, size) for n, size in zip(GRID, SIZE, strict=True))
    y, x = (schema.pixel_centres(size, size) for size in SIZE)
    far = (y[:, None] - sy[:, None, None, None]) ** 2 + (x - sx[:, None, None]) ** 2
    spots = np.exp(-far / 60)
    colours = random.randn(*GRID, 3)
    response = colours[..., None, None] * spots[:, :, None]
    response += 0.01 * random.randn(*response.shape)
    return xr.Dataset(
        {
            "response": (("source_y", "source_x", "rgb", "y", "x"), response.astype(dtype)),
            "picture": (("y", "x", "rgb"), random.randint(0, 255, (*SIZE, 3)).astype(np.uint8)),
            "reconstruction": (("y", "x", "rgb"), random.rand(*SIZE, 3).astype(np.float32)),
            "features": (("source_y", "source_x", "channel"), colours.astype(np.float32)),
        },
        coords={"source_y": sy, "source_x": sx, "y": y, "x": x, "rgb": ["r", "g", "b"]},
        attrs={
            "schema": schema.RESPONSES,
            "model": "m",
            "weights": "w",
            "engine": "shared",
            "source": "s",
            "fit": "f",
            "config": json.dumps(CONFIG),
            "model_size": json.dumps(SIZE),
            "versions": "{}",
            "inversion": "{}",
        },
    )


@pytest.fixture(scope="module")
def responses():
    return made()


FORMS = {
    "whole": lambda whole: whole,
    "half": lambda whole: whole.assign(response=whole["response"].astype(np.float16)),
    "chunked": lambda whole: whole.chunk(source_y=1, source_x=1),
    "low rank": lambda whole: compress(whole, rank=24),
    "low rank, 8 bits": lambda whole: compress(whole, rank=24, bits=8),
    "tiles": lambda whole: compress(whole, bits=8),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_answers_alike(responses, form):
    stored = FORMS[form](responses)
    schema.check(stored)
    mask = np.zeros(GRID)
    mask[1, 2:4] = 1, -0.5
    expected = (responses["response"] * xr.DataArray(mask, dims=("source_y", "source_x"))).sum(
        ("source_y", "source_x")
    )
    found = response_of(stored, mask)
    assert found.dims == ("rgb", "y", "x")
    np.testing.assert_allclose(found, expected, atol=0.05)
    place = {"y": 20.3, "x": 30.4}
    norms = np.sqrt((responses["response"].sel(place, method="nearest") ** 2).sum("rgb"))
    np.testing.assert_allclose(movers(stored, **place), norms, atol=0.05)
    at = {"source_y": 12.0, "source_x": 20.0}
    norms = np.sqrt((responses["response"].sel(at, method="nearest") ** 2).sum("rgb"))
    np.testing.assert_allclose(pixels_moved(stored, **at), norms, atol=0.05)


def test_both_directions_are_one_number(responses):
    """What location a does to pixel b is the same, asked from either side."""
    moved = pixels_moved(responses, 12, 20).sel(y=14.5, x=18.5)
    mover = movers(responses, 14.5, 18.5).sel(source_y=12, source_x=20)
    assert moved.item() == pytest.approx(mover.item(), rel=1e-5)
    # The control: elsewhere it is another.
    assert movers(responses, 30.5, 2.5).sel(source_y=12, source_x=20).item() < mover.item() / 5


def test_sums_are_signed_before_the_norm():
    whole = made()
    one = whole["response"].values
    one[0, 1] = -one[0, 0]
    mask = np.zeros(GRID)
    mask[0, :2] = 1
    assert np.abs(response_of(whole, mask)).max() < 1e-6
    assert pixels_moved(whole, 4, 4).max() > 0.1


def test_several_masks_are_summed_at_once(responses):
    masks = np.random.RandomState(1).rand(3, *GRID)
    together = response_of(responses, masks)
    assert together.dims == ("mask", "rgb", "y", "x")
    for number in range(3):
        np.testing.assert_allclose(
            together[number], response_of(responses, masks[number]), rtol=1e-4, atol=1e-5
        )


def test_the_error_of_adding_is_none_where_a_model_adds_and_one_where_it_is_silent(responses):
    masks = np.random.RandomState(1).rand(2, *GRID).astype(np.float32)
    measured = response_of(responses, masks).to_dataset()
    measured["masks"] = (("mask", "source_y", "source_x"), masks)
    np.testing.assert_allclose(additivity_error(responses, measured), 0, atol=1e-5)
    measured["response"][1] *= -1
    np.testing.assert_allclose(additivity_error(responses, measured), [0, 2], atol=1e-5)
    silent = responses.assign(response=0 * responses["response"])
    np.testing.assert_allclose(additivity_error(silent, measured), 1, atol=1e-5)


def test_segments_follow_the_masks_and_another_k(responses):
    labels = np.arange(24).reshape(GRID) // 12
    found = segment_from(responses, labels)
    assert (found["labels"][:12] == 0).mean() > 0.8
    assert (found["labels"][20:] == 1).mean() > 0.8
    norms = np.sqrt((response_of(responses, found["masks"].values) ** 2).sum("rgb"))
    np.testing.assert_allclose(found["difference"], norms, rtol=1e-4, atol=1e-6)
    assert np.array_equal(found["labels"], norms.argmax("mask"))
    assert len(views.overview(found).data) == 6  # views take it as they take a segmentation
    for count in (2, 5):
        other = segment_from(responses, count)
        assert other.sizes["mask"] == count
        assert len(np.unique(other["low_res"])) == count
    small = segment_from(compress(responses, rank=24, bits=8, reduce=4), labels)
    assert small["labels"].shape == (8, 12)
    assert (small["labels"].values == found["labels"].values[2::4, 2::4]).mean() > 0.9


def test_segments_are_those_of_the_settings_that_responses_were_made_with(responses):
    def under(**changes):
        return responses.assign_attrs(config=json.dumps(CONFIG | changes))

    for changes in ({"normalise": "standard"}, {"seed": 3, "restarts": 1}, {"sigma": 2.0}):
        stated = segment_from(under(**changes), 5)
        assert stated.drop_attrs().identical(segment_from(responses, 5, **changes).drop_attrs())
        assert not stated["difference"].equals(segment_from(responses, 5)["difference"])
    local = segment_from(under(elsewhere=0.0), 5)
    assert local["difference"].equals(segment_from(responses, 5)["difference"])
    assert not local["labels"].equals(segment_from(responses, 5)["labels"])
    # Where responses are reduced, a filter is as much narrower as there are fewer pixels.
    half = compress(under(sigma=2.0), bits=8, reduce=2)
    same = segment_from(half.assign_attrs(config=json.dumps(CONFIG)), 5)["difference"]
    filtered = gaussian_filter(same.values, (0, 1, 1), mode="nearest")
    np.testing.assert_allclose(segment_from(half, 5)["difference"], filtered, rtol=1e-5)


def test_error_is_what_compression_costs(responses):
    """Checked against the singular values: the squares of those left out are the error."""
    flat = responses["response"].values.reshape(24, -1)
    singular = np.linalg.svd(flat, compute_uv=False)
    errors = []
    for rank in (4, 12, 24):
        found = compress(responses, rank=rank)
        size = np.linalg.norm(flat, axis=1)
        total = np.sqrt(((found["error"].values.ravel() * size) ** 2).sum())
        expected = np.sqrt((singular[rank:] ** 2).sum())
        assert total == pytest.approx(expected, rel=0.02, abs=0.03)
        errors.append(float(found["error"].mean()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3
    tiles = compress(responses, bits=8)
    assert 0 < tiles["error"].max() < 0.06
    assert compress(responses, bits=8, reduce=4)["error"].mean() > tiles["error"].mean()
    assert tiles.nbytes < made().nbytes / 3


def test_a_location_without_response_has_no_error():
    whole = made()
    whole["response"][2, 2] = 0
    for options in ({"rank": 3}, {"bits": 8}):
        error = compress(whole, **options)["error"]
        assert np.isfinite(error).all()
    assert error[2, 2] == 0


def test_what_cannot_be_answered_is_refused(responses):
    masks = responses.rename(source_y="mask").isel(source_x=0, drop=True)
    for query in (lambda: movers(masks, 1, 1), lambda: pixels_moved(masks, 1, 1)):
        with pytest.raises(InputError, match="locations"):
            query()
    for wrong in (np.ones((4, 4)), np.ones(24)):
        with pytest.raises(InputError, match="4 x 6"):
            response_of(responses, wrong)
    with pytest.raises(InputError, match="features"):
        segment_from(responses.drop_vars("features"), 3)
    for options in ({}, {"rank": 0}, {"rank": 25}, {"bits": 4}, {"bits": 8, "reduce": 5}):
        with pytest.raises(InputError):
            compress(responses, **options)
