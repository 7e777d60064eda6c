"""Two of a kind: recordings with one cursor, and segmentations that agree or not."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError
from emerdiff_probe.widgets import Compare, CompareSegments
from tests.datasets import bands, recording


def test_what_is_done_to_one_recording_is_done_to_the_other():
    compare = Compare(recording(), recording(prompt="a blue house"))
    first, second = compare.inspectors
    first.pictures[1].clicked = {"y": 20.0, "x": 50.0, "shift": False, "count": 1}
    assert second.point == (20, 50)
    assert second.pictures[2].image, "the likeness is shown in both"
    second.timestep = 281
    second.site = "mid_block"
    second.show = "colours"
    assert (first.timestep, first.site, first.show) == (281, "mid_block:out", "colours")
    second.set(pins=[(1, 1)], point=())
    assert (first.pins, first.point) == (((1, 1),), ())


def test_what_the_other_does_not_have_stays_as_it_is():
    compare = Compare(recording(), recording(timesteps=(981, 1)))
    first, second = compare.inspectors
    first.timestep = 281
    assert second.timestep == 1
    assert "timestep 281 was not recorded here" in second._said.value
    first.timestep = 981
    assert second.timestep == 981


def test_samples_of_one_recording_and_the_code_that_makes_the_view_again():
    run = recording()
    compare = Compare(run, run, samples=(0, 1), timestep=281)
    first, second = compare.inspectors
    assert (first.sample, second.sample, second.timestep) == (0, 1, 281)
    assert not np.array_equal(first.pictures[0].pixels(), second.pictures[0].pixels())
    again = eval(compare.code(), {"ep": ep, "a": run, "b": run})
    for one, other in zip(compare.inspectors, again.inspectors, strict=True):
        assert one.code() == other.code()
        assert one.sample == other.sample


def test_a_view_without_a_kernel_has_both():
    bundle = Compare(recording(), recording(), point=(3, 4))._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    shown = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert shown.size == (4 * 264 + 8, 2 * (18 + 128 + 8))


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
