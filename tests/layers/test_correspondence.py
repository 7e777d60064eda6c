import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import map_coordinates
from sklearn.neighbors import NearestNeighbors

from emerdiff_probe import scenes
from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import PCK, average_draws, match_points, mutual_matches
from emerdiff_probe.schema import pixel_centres

RNG = np.random.default_rng(0)


def picture(values, size=32):
    rows, columns = values.shape[:2]
    places = {"y": pixel_centres(rows, size), "x": pixel_centres(columns, size)}
    return xr.DataArray(values, dims=("y", "x", "channel"), coords=places)


class TestMatch:
    def test_finds_where_things_moved(self):
        values = RNG.normal(size=(8, 8, 16))
        found = match_points(
            picture(values), picture(np.roll(values, (2, -1), (0, 1)) * 3), [2, 14], [18, 30]
        )
        assert found["y"].values.tolist() == [10, 22]
        assert found["x"].values.tolist() == [14, 26]
        assert found["similarity"].values == pytest.approx(np.ones(2))

    def test_agrees_with_scikit_learn(self):
        one, other = RNG.normal(size=(2, 6, 7, 5))
        y, x = (each.ravel() for each in np.meshgrid(pixel_centres(6, 32), pixel_centres(7, 32),
                                                     indexing="ij"))  # fmt: skip
        found = match_points(picture(one), picture(other), y, x)
        search = NearestNeighbors(n_neighbors=1, metric="cosine").fit(other.reshape(-1, 5))
        distance, index = search.kneighbors(one.reshape(-1, 5))
        assert np.array_equal(found["y"], y[index[:, 0]])
        assert np.array_equal(found["x"], x[index[:, 0]])
        assert found["similarity"].values == pytest.approx(1 - distance[:, 0], abs=1e-5)

    def test_at_pixels_is_as_if_features_were_interpolated_first(self, monkeypatch):
        one, other = RNG.normal(size=(2, 4, 4, 6))
        pixels = {"at_pixels": (np.arange(16) + 0.5,) * 2}
        grid = (np.arange(16) + 0.5) / 4 - 0.5
        large = np.stack(
            [
                map_coordinates(plane, np.meshgrid(grid, grid, indexing="ij"), order=1,
                                mode="nearest")
                for plane in np.moveaxis(other, -1, 0)
            ],
            -1,
        )  # fmt: skip
        asked = [3, 9.5], [5, 1]
        direct = match_points(picture(one, 16), picture(large, 16), *asked)
        found = match_points(picture(one, 16), picture(other, 16), *asked, **pixels)
        xr.testing.assert_allclose(found, direct)
        monkeypatch.setattr("emerdiff_probe.layers.correspondence._ROWS_AT_ONCE", 1)
        blocks = match_points(picture(one, 16), picture(other, 16), *asked, **pixels)
        xr.testing.assert_allclose(blocks, direct)

    def test_refusals(self):
        good = picture(RNG.normal(size=(4, 4, 3)))
        with pytest.raises(InputError, match="features have 3 and 2 channels"):
            match_points(good, good[..., :2], 1, 1)
        two = xr.concat([good, good], "timestep")
        with pytest.raises(InputError, match="2 of dim timestep; choose one"):
            match_points(good, two, 1, 1)
        with pytest.raises(InputError, match="source has coordinates"):
            match_points(good.drop_vars("y"), good, 1, 1)
        with pytest.raises(InputError, match="one for each point"):
            match_points(good, good, [1, 2], 1)


class TestMutualMatches:
    def test_are_the_pairs_that_choose_each_other(self):
        one, other = RNG.normal(size=(2, 5, 6, 4))
        found = mutual_matches(picture(one), picture(other))
        there = match_points(picture(one), picture(other), found["y"], found["x"])
        back = match_points(picture(other), picture(one), found["target_y"], found["target_x"])
        assert np.array_equal(there["y"], found["target_y"])
        assert np.array_equal(back["x"], found["x"])
        units = [each.reshape(-1, 4) / np.linalg.norm(each.reshape(-1, 4), axis=1)[:, None]
                 for each in (one, other)]  # fmt: skip
        similarity = units[0] @ units[1].T
        both = (similarity == similarity.max(1)[:, None]) & (similarity == similarity.max(0))
        assert 0 < found.sizes["point"] == both.sum() < 30

    def test_a_picture_matches_itself_everywhere(self):
        same = picture(RNG.normal(size=(5, 6, 8)))
        found = mutual_matches(same, same)
        assert found.sizes["point"] == 30
        assert np.array_equal(found["y"], found["target_y"])
        assert np.array_equal(found["x"], found["target_x"])


class TestAveraged:
    def test_is_the_mean_of_any_number_of_draws(self):
        draws = [picture(RNG.normal(size=(3, 3, 2)).astype(np.float16)) for _ in range(5)]
        expected = np.mean([draw.astype(np.float64) for draw in draws], 0)
        assert average_draws(iter(draws)).values == pytest.approx(expected, abs=1e-6)
        assert average_draws(draws).dtype == np.float32
        with pytest.raises(InputError, match="no draws"):
            average_draws([])
        with pytest.raises(InputError, match="draws have sizes"):
            average_draws([draws[0], draws[0][:2]])

    def test_makes_matches_better(self):
        clean = RNG.normal(size=(8, 8, 8))
        true = picture(clean)
        y, x = np.repeat(true["y"].values, 8), np.tile(true["x"].values, 8)
        noisy = [picture(clean + 1.5 * RNG.normal(size=clean.shape)) for _ in range(16)]

        def right(features):
            found = match_points(true, features, y, x)
            return PCK(0.01).update(found["y"], found["x"], y, x, 32).per_point

        assert right(average_draws(noisy)) > right(noisy[0]) + 0.3


class TestPCK:
    def test_per_image_and_per_point_by_hand(self):
        pck = PCK(0.1).update([1, 1, 1, 1], [0, 0, 0, 9], [1, 1, 1, 1], [0, 1, 2, 0], size=10)
        pck = pck.update([5], [5], [5], [5.5], size=[5])
        # 2 of 4 within 1 pixel in the first pair, 1 of 1 within half a pixel in the second.
        assert (pck.correct, pck.points) == ((2, 1), (4, 1))
        assert pck.per_image == pytest.approx(0.75)
        assert pck.per_point == pytest.approx(0.6)
        assert np.isnan(PCK(0.1).per_image)

    def test_rises_with_alpha_and_is_low_by_chance(self):
        y, x, true_y, true_x = RNG.uniform(0, 100, (4, 2000))
        values = [PCK(a).update(y, x, true_y, true_x, 100).per_point for a in (0.05, 0.1, 0.3, 2)]
        assert values == sorted(values)
        assert values[0] < 0.02
        assert values[-1] == 1
        # A disc of radius r in the unit square: pi r^2 (less at the edges).
        assert values[1] == pytest.approx(np.pi * 0.01, abs=0.015)

    def test_refuses_pairs_without_points(self):
        with pytest.raises(InputError, match="leave pairs without points out"):
            PCK(0.1).update([], [], [], [], 10)
        with pytest.raises(InputError, match="as many found as true"):
            PCK(0.1).update([1], [1], [1, 2], [1, 2], 10)


def test_key_points_of_scenes_are_found_by_features_that_know_parts_and_not_by_noise():
    """Features that name part and thing at 32 x 32 places, against features of noise."""
    pairs = [(scenes.scene(a), scenes.scene(b)) for a in range(8) for b in range(8) if a != b]
    scores = {}
    for kind in ("parts", "noise"):
        pck = PCK(0.15)
        for one, other in pairs:
            points = {p.name: p for p in one.keypoints}
            common = [(points[p.name], p) for p in other.keypoints if p.name in points]
            if not common:
                continue
            layers = []
            for made in (one, other):
                known = np.eye(len(scenes.PARTS))[made.parts[2::4, 2::4]]
                noise = RNG.normal(size=known.shape)
                layers.append(picture(known if kind == "parts" else noise, 128))
            found = match_points(*layers, [p.y for p, _ in common], [p.x for p, _ in common])
            true = [q.y for _, q in common], [q.x for _, q in common]
            pck = pck.update(found["y"], found["x"], *true, 128)
        scores[kind] = pck.per_point
    assert scores["parts"] > scores["noise"] + 0.3
    assert scores["noise"] < 0.2
