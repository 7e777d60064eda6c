"""Two of a kind: recordings with one cursor, and segmentations that agree or not."""

import base64
import io

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError
from emerdiff_probe.views.colours import shaded
from emerdiff_probe.views.maps import magnitude, places
from emerdiff_probe.views.panels import as_bytes
from emerdiff_probe.widgets import Compare, CompareSegments
from tests.datasets import bands, recording


def features(run, site, timestep, sample=0):
    return places(ep.site(run, site), sample=sample).sel(timestep=timestep).astype(np.float32)


def other(shift=1.0, **options):
    """The same noise with a larger block."""
    run = recording(prompt="a blue house", **options)
    run["mid_block/out"]["value"] = run["mid_block/out"]["value"] + shift
    return run


def test_two_maps_have_one_scale_and_a_difference():
    compare = Compare(recording(), other(), site="mid_block", timestep=281, show="magnitude")
    first, second, one, two, difference = compare.pictures
    assert (first.caption, second.caption) == ("a, picture", "b, picture")
    maps = [magnitude(features(each, "mid_block", 281)).values for each in (recording(), other())]
    low, high = min(map(np.min, maps)), max(map(np.max, maps))
    for values, shown in zip(maps, (one, two), strict=True):
        np.testing.assert_array_equal(shown.pixels(), shaded(values, low, high))
    change = maps[1] - maps[0]
    most = np.abs(change).max()
    expected = shaded(change, -most, most, "balance")
    np.testing.assert_array_equal(difference.pixels(), expected)
    compare.show = "channel"
    np.testing.assert_allclose(np.frombuffer(difference.values, "<f4"), 1, rtol=1e-5)
    same = Compare(recording(), recording(), site="mid_block", show="magnitude").pictures[4]
    assert not np.frombuffer(same.values, "<f4").any()


def test_colours_mean_the_same_in_both():
    compare = Compare(recording(), recording(), site="mid_block", samples=(0, 1))
    _, _, one, two, apart = compare.pictures
    both = places(ep.site(recording(), "mid_block"), sample=0).sel(timestep=1)
    both = xr.concat([both, features(recording(), "mid_block", 1, sample=1)], "sample")
    colours = ep.layers.principal_colours(both).transpose("sample", "y", "x", "rgb").values
    for expected, shown in zip(colours, (one, two), strict=True):
        np.testing.assert_array_equal(shown.pixels(), as_bytes(expected))
    expected = magnitude(both[1] - both[0]).values
    np.testing.assert_allclose(np.frombuffer(apart.values, "<f4"), expected.ravel(), rtol=1e-5)


def test_a_click_in_any_picture_shows_the_likeness_in_both():
    run = recording()
    compare = Compare(run, run, samples=(0, 1), site="mid_block")
    for picture in compare.pictures:
        compare.clear()
        picture.clicked = {"y": 20.0, "x": 50.0, "shift": False, "count": 1}
        assert compare.point == (20, 50)
    one, two = compare.pictures[2:4]
    alike = [
        ep.layers.similarity_to_point(features(run, "mid_block", 1, sample), 20, 50)[0].values
        for sample in (0, 1)
    ]
    most = max(1, -min(map(np.min, alike)))
    for values, shown in zip(alike, (one, two), strict=True):
        assert "cosine" in shown.caption
        np.testing.assert_array_equal(shown.pixels(), shaded(values, -most, most, "balance"))
    assert all(each.marks == [[20, 50]] for each in compare.pictures)


def test_what_one_of_them_has_not_is_not_offered():
    fewer = recording(timesteps=(999, 981, 1))
    del fewer["up_blocks"]
    compare = Compare(recording(), fewer)
    assert compare.sites == ["mid_block:out"]
    assert compare.timesteps == [981, 1]
    values = [features(each, "mid_block", 981) for each in (recording(), fewer)]
    compare.set(timestep=981, show="channel", channel=2)
    change = np.frombuffer(compare.pictures[4].values, "<f4")
    expected = (values[1] - values[0]).isel(channel=2).values.ravel()
    np.testing.assert_allclose(change, expected, rtol=1e-5)
    with pytest.raises(InputError, match="choices: 981, 1"):
        compare.timestep = 281
    with pytest.raises(InputError, match="no timestep is in both"):
        Compare(recording((981,)), recording((1,)))
    with pytest.raises(InputError, match="sample of b is 2; choose 0 to 1"):
        Compare(recording(), recording(), samples=(0, 2))


def test_places_are_the_same_share_of_pictures_of_two_sizes():
    large = recording()
    for node in large.subtree:
        for name in {"y", "x"} & set(node.coords):
            node[name] = node[name] * 2
    compare = Compare(recording(), large, site="mid_block")
    compare.pictures[1].clicked = {"y": 20.0, "x": 50.0, "shift": False, "count": 1}
    assert compare.point == (10, 25)
    assert [each.marks for each in compare.pictures[:2]] == [[[10, 25]], [[20, 50]]]
    assert not np.frombuffer(compare.pictures[4].values, "<f4").any(), "one recording twice"


def test_the_code_makes_the_view_again():
    run = recording()
    compare = Compare(run, run, samples=(0, 1), timestep=281, point=(3, 4))
    assert compare.pictures[0].image != compare.pictures[1].image
    again = eval(compare.code(), {"ep": ep, "a": run, "b": run})
    assert [each.image for each in again.pictures] == [each.image for each in compare.pictures]
    assert again.code() == compare.code()


def test_a_view_without_a_kernel_has_both():
    bundle = Compare(recording(), recording(), point=(3, 4))._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    shown = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert shown.size == (5 * 264 + 8, 18 + 128)


@pytest.fixture
def result():
    return bands(masks=4)


def test_segments_that_differ_after_matching(result):
    other = 3 - result["labels"]
    assert CompareSegments(result, other).agreement == 1
    moved = other.copy()
    moved[:12, :16] = 0
    compare = CompareSegments(result, moved)
    assert compare.agreement == pytest.approx(1 - 12 * 16 / (48 * 64))
    bright = (compare.pictures[2].pixels() == [255, 212, 0]).all(-1)
    assert bright[:12, :16].all()
    assert bright.sum() == 12 * 16
    compare.pictures[0].clicked = {"y": 3.5, "x": 4.5, "shift": False, "count": 1}
    assert all(each.marks == [[3.5, 4.5]] for each in compare.pictures)
    assert "segment 0 of a, segment 0 of b" in compare._said.value
    again = eval(compare.code(), {"ep": ep, "a": result, "b": moved})
    assert again.point == compare.point


def test_what_cannot_be_compared_is_refused(result):
    with pytest.raises(InputError, match="picture="):
        CompareSegments(result["labels"], result)
    with pytest.raises(InputError, match="one size"):
        CompareSegments(result, result["labels"][:10])
    with pytest.raises(InputError, match="48 x 64"):
        CompareSegments(result, result, point=(49, 1))
