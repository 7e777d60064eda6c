import itertools

import numpy as np
import pytest
import xarray as xr
from skimage.segmentation import slic
from sklearn.metrics import adjusted_rand_score, jaccard_score

from emerdiff_probe.analysis import (
    adjusted_rand,
    boundary_f,
    class_mean_miou,
    image_hungarian_miou,
    majority_class_miou,
)
from emerdiff_probe.errors import InputError


@pytest.fixture
def random_pair():
    """Segments that know something of the truth: 6 of 12 x 15 pixels, and 4 classes."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, (12, 15))
    labels = np.where(rng.random((12, 15)) < 0.7, truth, rng.integers(0, 6, (12, 15)))
    return labels, truth


def shuffled(labels):
    return np.random.default_rng(1).permutation(labels.ravel()).reshape(labels.shape)


def identity_embeddings(count):
    return xr.DataArray(np.eye(count), dims=("mask", "channel"))


def every_miou(labels, truth, n_classes, ignore=None):
    count = int(np.max(labels)) + 1
    return {
        "majority": majority_class_miou(labels, truth, n_classes, ignore),
        "hungarian": image_hungarian_miou(labels, truth, n_classes, ignore),
        "class mean": class_mean_miou(labels, identity_embeddings(count), truth, n_classes, ignore),
    }


class TestEveryMiou:
    def test_the_truth_scores_one_under_any_names_and_shuffled_labels_little(self):
        truth = np.repeat([[0, 1, 3, 1]], 8, axis=0).repeat(4, axis=1)
        renamed = np.array([2, 3, 9, 0])[truth]
        assert set(every_miou(renamed, truth, 5).values()) == {1.0}
        assert all(score < 0.5 for score in every_miou(shuffled(renamed), truth, 5).values())

    def test_ignored_pixels_do_not_count(self, random_pair):
        labels, truth = random_pair
        spoilt = truth.copy()
        spoilt[:6] = 255
        expected = every_miou(labels[6:], truth[6:], 4)
        assert every_miou(labels, spoilt, 4, ignore=255) == expected
        with pytest.raises(InputError, match="truth runs from 0 to 255; it goes from 0 to 3"):
            every_miou(labels, spoilt, 4)

    def test_classes_that_do_not_occur_do_not_count(self, random_pair):
        labels, truth = random_pair
        assert every_miou(labels, truth, 4) == every_miou(labels, truth, 40)

    def test_labelled_arrays_are_aligned_by_name(self, random_pair):
        labels, truth = random_pair
        named = xr.DataArray(labels.T, dims=("x", "y"))
        assert majority_class_miou(named, truth, 4) == majority_class_miou(labels, truth, 4)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (np.zeros((12, 14), int), "bring them to one size"),
            (np.zeros((12, 15)), "labels of shape .* float64"),
            (np.zeros(180, int), r"labels of shape \(180,\)"),
            (np.full((12, 15), -1), "labels runs from -1 to -1; it goes from 0 up"),
        ],
    )
    def test_refuses_other_arrays(self, random_pair, labels, message):
        with pytest.raises(InputError, match=message):
            majority_class_miou(labels, random_pair[1], 4)

    def test_refuses_a_picture_of_ignored_pixels(self, random_pair):
        with pytest.raises(InputError, match="all pixels of the truth are ignore=255"):
            every_miou(random_pair[0], np.full((12, 15), 255), 4, ignore=255)


class TestMajorityClass:
    def test_by_hand(self):
        truth = np.array([[0, 0, 0, 1, 1, 1, 2, 2]])
        labels = np.array([[0, 0, 1, 1, 1, 1, 1, 2]])
        # Segment 1 has 1, 3 and 1 pixels of the classes, so it becomes class 1.
        # IoU: class 0: 2 / 3, class 1: 3 / 5, class 2: 1 / 2.
        expected = (2 / 3 + 3 / 5 + 1 / 2) / 3
        assert majority_class_miou(labels, truth, 3) == pytest.approx(expected)

    def test_agrees_with_scikit_learn(self, random_pair):
        labels, truth = random_pair
        winners = [np.bincount(truth[labels == label]).argmax() for label in range(6)]
        expected = jaccard_score(
            truth.ravel(),
            np.array(winners)[labels].ravel(),
            average="macro",
            labels=np.unique(truth),
        )
        assert majority_class_miou(labels, truth, 4) == pytest.approx(expected)

    def test_one_pixel_a_segment_is_perfect_so_it_rises_with_their_number(self, random_pair):
        _, truth = random_pair
        assert majority_class_miou(np.arange(180).reshape(12, 15), truth, 4) == 1
        picture = np.random.default_rng(2).random((12, 15, 3))
        assert majority_class_miou(slic(picture, 5, start_label=0), truth, 4) < 0.5


class TestImageHungarian:
    def test_a_class_in_two_segments_gets_one_of_them_only(self):
        truth = np.array([[0, 0, 0, 0, 1, 1]])
        labels = np.array([[0, 0, 0, 1, 2, 2]])
        assert image_hungarian_miou(labels, truth, 2) == pytest.approx((3 / 4 + 1) / 2)
        assert majority_class_miou(labels, truth, 2) == 1

    def test_is_the_best_of_all_matchings(self, random_pair):
        labels, truth = random_pair
        best = max(
            np.mean(
                [
                    ((labels == label) & (truth == cls)).sum()
                    / ((labels == label) | (truth == cls)).sum()
                    for cls, label in enumerate(chosen)
                ]
            )
            for chosen in itertools.permutations(range(6), 4)
        )
        assert image_hungarian_miou(labels, truth, 4) == pytest.approx(best)

    def test_fewer_segments_than_classes(self):
        truth = np.array([[0, 0, 1, 2]])
        assert image_hungarian_miou(np.zeros((1, 4), int), truth, 3) == pytest.approx(0.5 / 3)


class TestClassMean:
    def test_by_hand(self):
        truth = np.array([[0, 0, 0, 1, 1, 1]])
        labels = np.array([[0, 0, 1, 1, 2, 2]])
        points = xr.DataArray([[0.0], [4.0], [9.0]], dims=("mask", "channel"))
        # Class means 4/3 and 22/3: segment 1, at 4, is nearer to class 0.
        assert class_mean_miou(labels, points, truth, 2) == pytest.approx((3 / 4 + 2 / 3) / 2)

    def test_knows_only_what_the_embeddings_know(self, random_pair):
        labels, truth = random_pair
        told = class_mean_miou(labels, identity_embeddings(6), truth, 4)
        flat = class_mean_miou(labels, xr.zeros_like(identity_embeddings(6)), truth, 4)
        assert flat < 0.1 < told

    def test_refuses_labels_without_embedding(self, random_pair):
        with pytest.raises(InputError, match="label 5 has no embedding; there are 3"):
            class_mean_miou(random_pair[0], identity_embeddings(3), random_pair[1], 4)


class TestBoundaryF:
    def halves(self, edge, size=20):
        return (np.indices((size, size))[1] >= edge).astype(int)

    def test_within_and_beyond_the_tolerance(self):
        truth = self.halves(10)
        assert boundary_f(truth, truth) == 1
        assert boundary_f(self.halves(12), truth) == 1
        assert boundary_f(self.halves(13), truth) == 0
        assert boundary_f(self.halves(13), truth, tolerance=3) == 1
        assert boundary_f(self.halves(11), truth, tolerance=0.5) == 0

    def test_one_true_edge_and_one_false_by_hand(self):
        labels = self.halves(4) + self.halves(10)
        # Half of the edges are right, all the true ones are found.
        assert boundary_f(labels, self.halves(10)) == pytest.approx(2 * 0.5 / 1.5)
        assert boundary_f(self.halves(10), labels) == pytest.approx(2 * 0.5 / 1.5)

    def test_without_boundaries(self):
        flat = np.zeros((20, 20), int)
        assert boundary_f(flat, flat) == 1
        assert boundary_f(flat, self.halves(10)) == 0
        assert boundary_f(self.halves(10), flat) == 0

    def test_names_do_not_matter_and_places_do(self):
        truth = self.halves(10, 60)
        assert boundary_f(7 - 5 * truth, truth) == 1
        assert boundary_f(truth.T, truth) < 0.2
        assert boundary_f(shuffled(truth), truth) < 0.3


class TestAdjustedRand:
    def test_agrees_with_scikit_learn(self, random_pair):
        labels, truth = random_pair
        expected = adjusted_rand_score(truth.ravel(), labels.ravel())
        assert adjusted_rand(labels, truth) == pytest.approx(expected)
        assert abs(adjusted_rand(shuffled(labels), truth)) < 0.05 < adjusted_rand(labels, truth)

    def test_ignored_pixels_do_not_count(self, random_pair):
        labels, truth = random_pair
        spoilt = truth.copy()
        spoilt[:6] = -1
        assert adjusted_rand(labels, spoilt, ignore=-1) == adjusted_rand(labels[6:], truth[6:])
