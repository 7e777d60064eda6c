import re
from collections import Counter

import numpy as np
import pytest

from emerdiff_probe import scenes
from emerdiff_probe.scenes import KeyPoint
from emerdiff_probe.scenes.keypoints import keypoints


def number(name):
    return scenes.PARTS.index(name)


@pytest.fixture
def picture():
    """A car with two wheels and a person in front of a wall."""
    parts = np.full((20, 30), number("sky"), np.uint8)
    instances = np.zeros_like(parts)
    for name, instance, rows, columns in (
        ("car body", 1, slice(5, 10), slice(2, 13)),
        ("car wheel", 1, slice(10, 13), slice(9, 12)),
        ("car wheel", 1, slice(10, 13), slice(3, 6)),
        ("person head", 2, slice(2, 5), slice(20, 23)),
        ("person torso", 2, slice(5, 7), slice(20, 23)),
    ):
        parts[rows, columns], instances[rows, columns] = number(name), instance
    return parts, instances


def test_by_hand(picture):
    assert set(keypoints(*picture)) == {
        KeyPoint("car body", 1, 7.5, 7.5),
        KeyPoint("car wheel 1 of 2", 1, 11.5, 4.5),
        KeyPoint("car wheel 2 of 2", 1, 11.5, 10.5),
        KeyPoint("person head", 2, 3.5, 21.5),  # of the torso too little is seen
    }


def test_what_is_hidden_has_no_point_and_points_lie_on_their_parts(picture):
    parts, instances = picture
    parts[10:13, 8:12], instances[10:13, 8:12] = number("tree crown"), 3
    parts[6:9, 5:10], instances[6:9, 5:10] = number("tree crown"), 3
    found = {point.name: point for point in keypoints(parts, instances)}
    assert "car wheel 1 of 1" in found
    assert "car wheel 2 of 2" not in found
    body = found["car body"]
    assert parts[int(body.y), int(body.x)] == number("car body")
    assert (body.y, body.x) != (7.5, 7.5)


def test_no_things_have_no_points(picture):
    assert keypoints(picture[0], np.zeros_like(picture[1])) == ()


def test_of_scenes():
    many = [scenes.scene(seed) for seed in range(60)]
    names = Counter()
    for made in many:
        points = made.keypoints
        assert len({(point.instance, point.name) for point in points}) == len(points)
        for point in points:
            y, x = int(point.y), int(point.x)
            assert (point.y % 1, point.x % 1) == (0.5, 0.5)
            assert made.instances[y, x] == point.instance
            name = re.sub(r" \d of \d$", "", point.name)
            assert scenes.PARTS[made.parts[y, x]] == name
        names.update({point.name for point in points})
    assert len(names) > 20
    # Many scenes have a part in common, so correspondences can be tested.
    assert sum(count >= 5 for count in names.values()) > 12
