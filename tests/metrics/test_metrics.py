import itertools
import json
import pickle

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion
from skimage.segmentation import slic
from sklearn.metrics import (
    accuracy_score,
    adjusted_mutual_info_score,
    adjusted_rand_score,
    jaccard_score,
    normalized_mutual_info_score,
)

from emerdiff_probe.errors import InputError
from emerdiff_probe.metrics import (
    ClassMeans,
    Confusion,
    Score,
    achievable_accuracy,
    adjusted_mutual_information,
    adjusted_rand,
    boundary_f,
    boundary_iou,
    class_mean_miou,
    dataset_hungarian_classes,
    dataset_hungarian_miou,
    image_hungarian_miou,
    majority_class_miou,
    majority_classes,
    miou,
    normalised_mutual_information,
    pixel_accuracy,
    present_miou,
)


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
        with pytest.raises(InputError, match="truth runs from 0 to 255; give numbers from 0 to 3"):
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
            (np.zeros((12, 14), int), "resize one to the other"),
            (np.zeros((12, 15)), "labels of shape .* float64"),
            (np.zeros(180, int), r"labels of shape \(180,\)"),
            (np.full((12, 15), -1), "labels runs from -1 to -1; give numbers from 0 up"),
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


class TestScore:
    def test_says_its_protocol_and_is_a_number(self, random_pair):
        score = majority_class_miou(*random_pair, 4)
        assert score.protocol == "majority-class mIoU"
        assert repr(score) == f"{float(score):.4f} (majority-class mIoU)"
        assert json.loads(json.dumps(score)) == score
        again = pickle.loads(pickle.dumps(score))
        assert (again, again.protocol) == (score, score.protocol)

    def test_no_two_protocols_share_a_name(self, random_pair):
        labels, truth = random_pair
        confusion = Confusion.of(labels, truth, 4)
        scores = [
            majority_class_miou(labels, truth, 4),
            image_hungarian_miou(labels, truth, 4),
            class_mean_miou(labels, identity_embeddings(6), truth, 4),
            dataset_hungarian_miou(confusion),
            miou(confusion.assigned([0, 1, 2, 3, 0, 0]), "mine"),
            pixel_accuracy(confusion.assigned([0, 1, 2, 3, 0, 0]), "mine"),
            adjusted_rand(labels, truth),
            adjusted_mutual_information(labels, truth),
            normalised_mutual_information(labels, truth),
            achievable_accuracy(labels, truth),
            boundary_f(labels, truth),
            boundary_iou(truth, truth),
        ]
        assert all(isinstance(score, Score) for score in scores)
        assert len({score.protocol for score in scores}) == len(scores)


class TestConfusion:
    def test_over_two_pictures_is_that_of_both_beside_each_other(self, random_pair):
        labels, truth = random_pair
        parts = Confusion.empty(4).update(labels[:5], truth[:5])
        whole = parts.update(labels[5:], truth[5:])
        assert np.array_equal(whole.counts, Confusion.of(labels, truth, 4).counts)
        assert parts.counts.sum() == 5 * 15
        with pytest.raises(InputError, match="4 classes and the other 3"):
            _ = whole + Confusion.empty(3)

    def test_iou_and_accuracy_agree_with_scikit_learn(self, random_pair):
        labels, truth = random_pair
        classes = labels % 4
        confusion = Confusion.of(classes, truth, 4)
        expected = jaccard_score(truth.ravel(), classes.ravel(), average=None)
        assert confusion.iou() == pytest.approx(expected)
        assert confusion.accuracy() == pytest.approx(accuracy_score(truth.ravel(), classes.ravel()))

    def test_empty_classes_by_hand(self):
        # Class 1 occurs in the prediction alone, class 3 nowhere.
        confusion = Confusion.of(np.array([[0, 1, 2]]), np.array([[0, 0, 2]]), 4)
        np.testing.assert_array_equal(confusion.iou(), [0.5, 0, 1, np.nan])
        assert miou(confusion, "own") == pytest.approx(0.5)
        assert present_miou(confusion, "own") == pytest.approx(0.75)

    def test_labels_of_no_class_are_missed_and_wrong_for_none(self):
        confusion = Confusion.of(np.array([[0, 0, 1, 2]]), np.array([[0, 0, 1, 1]]), 2)
        assigned = confusion.assigned([0, 1, -1])
        assert assigned.iou().tolist() == [1, 0.5]
        assert assigned.accuracy() == 0.75


class TestDatasetHungarian:
    def test_is_the_matching_with_most_correct_pixels(self, random_pair):
        labels, truth = random_pair
        confusion = Confusion.of(labels, truth, 4)
        best = max(
            itertools.permutations(range(6), 4),
            key=lambda chosen: sum(confusion.counts[label, k] for k, label in enumerate(chosen)),
        )
        found = dataset_hungarian_classes(confusion)
        assert [int(np.flatnonzero(found == k)[0]) for k in range(4)] == list(best)
        classes = np.full(6, 4)
        classes[list(best)] = range(4)
        expected = jaccard_score(
            truth.ravel(), classes[labels].ravel(), average=None, labels=range(4), zero_division=0
        )
        assert dataset_hungarian_miou(confusion) == pytest.approx(expected.mean())

    def test_one_matching_for_all_pictures_is_stricter_than_one_for_each(self):
        # The same two clusters, with exchanged names in the second picture.
        truth = np.array([[0, 0, 1, 1]])
        both = Confusion.empty(2).update(truth, truth).update(1 - truth, truth)
        assert image_hungarian_miou(truth, truth, 2) == image_hungarian_miou(1 - truth, truth, 2)
        assert image_hungarian_miou(1 - truth, truth, 2) == 1
        assert dataset_hungarian_miou(both) == pytest.approx(1 / 3)
        same = Confusion.empty(2).update(1 - truth, truth).update(1 - truth, truth)
        assert dataset_hungarian_miou(same) == 1


class TestClassMeansOverADataset:
    def test_the_mean_is_over_the_pixels_of_all_pictures(self):
        points = xr.DataArray([[0.0], [4.0], [10.0]], dims=("mask", "channel"))
        first = Confusion.of(np.array([[0, 0, 1]]), np.array([[0, 0, 1]]), 2)
        second = Confusion.of(np.array([[2, 2, 1]]), np.array([[1, 1, 0]]), 2)
        means = ClassMeans.empty(2, 1).update(first, points)
        assert means.nearest(points).tolist() == [0, 1, 1]
        both = means.update(second, points)
        # Class 0: (0 + 0 + 4) / 3; class 1: (4 + 10 + 10) / 3 = 8. 4 lies nearer to 4 / 3.
        assert (both.sums[:, 0] / both.pixels).tolist() == pytest.approx([4 / 3, 8])
        assert both.nearest(points).tolist() == [0, 0, 1]

    def test_of_one_picture_it_is_the_protocol_per_image(self, random_pair):
        labels, truth = random_pair
        points = xr.DataArray(np.random.default_rng(3).random((6, 2)), dims=("mask", "channel"))
        confusion = Confusion.of(labels, truth, 4)
        classes = ClassMeans.empty(4, 2).update(confusion, points).nearest(points)
        again = present_miou(confusion.assigned(classes), "class-mean")
        assert again == class_mean_miou(labels, points, truth, 4)


class TestBoundaryIou:
    def test_bands_by_hand(self):
        truth = (np.indices((10, 20))[1] >= 10).astype(int)
        shifted = (np.indices((10, 20))[1] >= 11).astype(int)
        # A band of 1 pixel is the outline of a rectangle: of 10 x 10, 36 pixels; 10 x 11, 38;
        # 10 x 9, 34. They share three sides but for the pixels at the shifted edge.
        left = (10 + 10 + 10 - 2) / (36 + 38 - 28)
        right = (9 + 9 + 10 - 2) / (36 + 34 - 26)
        assert boundary_iou(shifted, truth, width=1) == pytest.approx((left + right) / 2)
        assert boundary_iou(truth, truth, width=1) == 1

    @settings(deadline=None)
    @given(arrays(np.uint8, (9, 12), elements=st.integers(0, 2)), st.integers(1, 4))
    def test_agrees_with_erosion_step_by_step(self, truth, width):
        labels = np.roll(truth, 1, axis=1)
        ious = []
        for number in np.unique(truth):
            a, b = (
                mask & ~binary_erosion(mask, np.ones((3, 3)), iterations=width)
                for mask in (labels == number, truth == number)
            )
            ious.append((a & b).sum() / (a | b).sum())
        assert boundary_iou(labels, truth, width=width) == pytest.approx(np.mean(ious))

    def test_the_width_is_two_per_cent_of_the_diagonal(self):
        truth = (np.indices((300, 400))[1] >= 200).astype(int)
        assert boundary_iou(truth, truth).protocol == "boundary IoU, 10 px"
        far = (np.indices((300, 400))[1] >= 230).astype(int)
        near = (np.indices((300, 400))[1] >= 202).astype(int)
        assert boundary_iou(far, truth) < boundary_iou(near, truth) < 1

    def test_ignored_pixels_do_not_count(self):
        truth = np.tile([0, 0, 0, 0, 1, 1, 1, 1], (8, 1))
        spoilt, labels = truth.copy(), truth.copy()
        spoilt[:4] = 255
        labels[:4] = 1 - labels[:4]
        assert boundary_iou(labels, truth, width=1) < 0.7
        assert boundary_iou(labels, spoilt, 255, width=2) > boundary_iou(labels, truth, width=2)
        assert boundary_iou(truth, spoilt, 255, width=1) < 1  # the edge to what is ignored
        with pytest.raises(InputError, match="choose 1 pixel or more"):
            boundary_iou(truth, truth, width=0)


class TestBoundaryFIgnoring:
    def test_edges_to_what_is_ignored_do_not_count(self):
        truth = np.tile([0, 0, 0, 0, 1, 1, 1, 1], (20, 1))
        spoilt, labels = truth.copy(), truth.copy()
        spoilt[:, :2] = 255
        labels[:, 0] = 3
        assert boundary_f(truth, spoilt, 0.5) < 1
        assert boundary_f(labels, spoilt, 0.5, ignore=255) == 1
        assert boundary_f(labels.T, spoilt.T, 0.5, ignore=255) == 1


class TestPartitions:
    METRICS = (
        (adjusted_rand, adjusted_rand_score),
        (adjusted_mutual_information, adjusted_mutual_info_score),
        (normalised_mutual_information, normalized_mutual_info_score),
    )

    @pytest.mark.parametrize(("ours", "theirs"), METRICS)
    def test_agree_with_scikit_learn_and_ignore(self, random_pair, ours, theirs):
        labels, truth = random_pair
        expected = theirs(truth[6:].ravel(), labels[6:].ravel())
        spoilt = truth.copy()
        spoilt[:6] = 9
        assert ours(labels, spoilt, ignore=9) == pytest.approx(expected)
        assert ours(labels, truth) != pytest.approx(expected)

    def test_only_the_adjusted_ones_know_chance(self, random_pair):
        labels, truth = shuffled(np.arange(180).reshape(12, 15) // 2), random_pair[1]
        assert abs(adjusted_rand(labels, truth)) < 0.05
        assert abs(adjusted_mutual_information(labels, truth)) < 0.05
        assert normalised_mutual_information(labels, truth) > 0.2
        assert achievable_accuracy(labels, truth) > 0.5

    def test_achievable_accuracy_by_hand(self, random_pair):
        truth = np.array([[0, 0, 0, 5, 5, 2]])
        labels = np.array([[7, 7, 3, 3, 3, 3]])
        assert achievable_accuracy(labels, truth) == pytest.approx(4 / 6)
        labels, truth = random_pair
        painted = majority_classes(labels, truth, 4)[labels]
        assert achievable_accuracy(labels, truth) == pytest.approx((painted == truth).mean())

    @settings(deadline=None)
    @given(arrays(np.uint8, (6, 7), elements=st.integers(0, 4)), st.permutations(range(5)))
    def test_names_of_segments_do_not_matter(self, labels, names):
        truth = np.indices((6, 7)).sum(0) % 3
        renamed = np.array(names)[labels]
        metrics = [ours for ours, _ in self.METRICS] + [achievable_accuracy, boundary_f]
        for metric in metrics:
            assert metric(renamed, truth) == pytest.approx(metric(labels, truth))
            assert metric(renamed, labels) == pytest.approx(1)
        for metric in (majority_class_miou, image_hungarian_miou):
            assert metric(renamed, truth, 3) == pytest.approx(metric(labels, truth, 3))
