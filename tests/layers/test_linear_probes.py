import numpy as np
import pytest
import xarray as xr
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import SHARES, explained, linear_probe
from emerdiff_probe.layers.linear_probes import picture_folds
from tests.recordings import layer

RNG = np.random.default_rng(0)


def read(noise, pictures=6, classes=3):
    """Labels of blocks of 2 x 2 pixels, and features that know them but for noise."""
    cells = RNG.integers(0, classes, (pictures, 6, 6))
    centres = RNG.normal(size=(classes, 5))
    values = centres[cells] + noise * RNG.normal(size=(pictures, 6, 6, 5))
    return layer(values, 12), np.kron(cells, np.ones((1, 2, 2), int)), cells


class TestLinearProbe:
    def test_reads_what_is_there_and_nothing_of_shuffled_labels(self):
        values, labels, _ = read(0.2)
        scores = linear_probe(values, labels)
        assert scores.accuracy > 0.95
        assert scores.control < 0.5
        assert scores.selectivity == scores.accuracy - scores.control
        assert 0.25 < scores.chance < 0.5
        assert (scores.pictures, scores.points) == (6, 216)
        nothing = linear_probe(layer(RNG.normal(size=(6, 6, 6, 5)), 12), labels)
        assert abs(nothing.selectivity) < 0.15
        assert nothing.accuracy < 0.5

    def test_exchanged_labels_tell_what_position_gives(self):
        values, labels, _ = read(0.2)
        scores = linear_probe(values, labels)
        assert scores.exchanged < 0.5, "meaning leaves with the labels"
        # The control: features of position alone, and labels with the same layout in all images.
        rows = np.arange(6) / 6
        place = layer(np.broadcast_to(rows[:, None, None], (6, 6, 6, 1)), 12)
        upper = np.repeat(np.repeat(rows < 0.5, 2)[:, None], 12, 1)
        scores = linear_probe(place, np.broadcast_to(upper, (6, 12, 12)).astype(int))
        assert scores.accuracy == scores.exchanged == 1
        assert scores.selectivity > 0.3, "shuffled labels give position away as knowledge"

    @pytest.mark.parametrize("seed", range(5))
    def test_exchanged_labels_are_never_an_image_s_own(self, seed):
        values, labels, _ = read(0.2, pictures=2)
        scores = linear_probe(values, labels, seed=seed)
        assert scores.exchanged < 0.7 < scores.accuracy

    def test_locations_ignored_in_the_other_image_do_not_count_there(self):
        values, labels, _ = read(0.2)
        spoilt = labels.copy()
        spoilt[0] = 255
        spoilt[1:, :4] = 255
        named = layer(np.broadcast_to(np.eye(6)[:, None, None], (6, 6, 6, 6)), 12)
        assert 0 < linear_probe(named, spoilt, ignore=255).exchanged <= 1
        half = np.where(np.arange(6)[:, None, None] % 2, labels, 255)
        assert 0 <= linear_probe(values, half, ignore=255).exchanged <= 1

    def test_agrees_with_scikit_learn(self):
        values, labels, cells = read(1.5)
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        groups = np.repeat(np.arange(6), 36)
        predicted = cross_val_predict(
            model, values.values.reshape(-1, 5), cells.ravel(), groups=groups, cv=GroupKFold(3)
        )
        expected = (predicted == cells.ravel()).mean()
        scores = linear_probe(values, labels, folds=3)
        assert 0.4 < scores.accuracy == pytest.approx(expected)
        for each in np.unique(cells):
            here = cells.ravel() == each
            assert scores.by_class[each] == pytest.approx((predicted[here] == each).mean())

    def test_a_class_of_a_single_picture_has_no_recall(self):
        values, labels, _ = read(0.2)
        labels = labels.copy()
        labels[2, :2, :2] = 9
        scores = linear_probe(values, labels)
        assert 9 not in scores.by_class
        assert set(scores.by_class) == set(np.unique(labels)) - {9}
        assert scores.points == 6 * 36, "its places count against the accuracy"

    def test_what_only_a_picture_has_in_itself_is_not_read(self):
        """Features that name the picture, and labels that follow from it: memory reads nothing."""
        pictures = np.arange(6)[:, None, None]
        labels = np.broadcast_to(pictures % 2, (6, 4, 4)).copy()
        labels[:, 0] = 1 - labels[:, 0]
        values = layer(np.broadcast_to(np.eye(6)[:, None, None], (6, 4, 4, 6)))
        assert linear_probe(values, labels, folds=6).accuracy < 0.8
        # The control: a split of places would read nearly all of it.
        flat, truth = values.values.reshape(-1, 6), labels.ravel()
        order = RNG.permutation(96)
        fitted = LogisticRegression(C=100).fit(flat[order[:64]], truth[order[:64]])
        leaked = (fitted.predict(flat[order[64:]]) == truth[order[64:]]).mean()
        assert leaked > linear_probe(values, labels, folds=6).accuracy

    def test_no_picture_is_in_both(self):
        pictures = np.repeat(np.arange(5), 4)
        folds = picture_folds(pictures, 5)
        assert len(folds) == 5
        for train, test in folds:
            assert not set(pictures[train]) & set(pictures[test])
        assert sorted(np.concatenate([test for _, test in folds])) == list(range(20))

    def test_ignored_places_and_a_number_of_places(self):
        values, labels, _ = read(0.2)
        spoilt = labels.copy()
        spoilt[:, :4] = 255
        assert linear_probe(values, spoilt, ignore=255).points == 6 * 24
        assert linear_probe(values, spoilt, ignore=255).accuracy > 0.9
        few = linear_probe(values, labels, points=10)
        assert few.points == 60
        assert few == linear_probe(values, labels, points=10)
        ridge = linear_probe(values, labels, classifier=RidgeClassifier())
        assert ridge.accuracy > 0.9

    def test_refuses_what_cannot_be_tested(self):
        values, labels, _ = read(0.2)
        with pytest.raises(InputError, match="give two or more images"):
            linear_probe(values.isel(sample=[0]), labels[:1])
        with pytest.raises(InputError, match="labels have 5 images and features 6"):
            linear_probe(values, labels[:5])
        with pytest.raises(InputError, match="labels have 1 classes"):
            linear_probe(values, np.zeros_like(labels))


@pytest.fixture(scope="module")
def world():
    """Twelve pictures in which position, colour and class have nothing to do with each other."""
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, (12, 8, 8))
    pictures = xr.DataArray(rng.random((12, 8, 8, 3)), dims=("sample", "y", "x", "rgb"))
    return labels, pictures


class TestExplained:
    def shares(self, values, world, **more):
        labels, pictures = world
        found = explained(layer(values, 8), pictures, labels, **more)
        assert found["share"].values.tolist() == list(SHARES)
        return {str(name): float(found.sel(share=name)) for name in SHARES}

    def position(self):
        y, x = np.indices((8, 8)) + 0.5
        waves = np.stack([np.cos(np.pi * y / 8), np.cos(2 * np.pi * x / 8)], -1)
        return np.broadcast_to(waves, (12, 8, 8, 2))

    def test_each_factor_alone(self, world):
        labels, pictures = world
        causes = {
            "position": self.position(),
            "colour": pictures.values,
            "semantics": np.eye(3)[labels],
        }
        for name, values in causes.items():
            found = self.shares(values, world)
            assert found[name] > 0.99
            assert found[f"only {name}"] > 0.95
            assert found["total"] > 0.99
            assert abs(found["common to all"]) < 0.05
            others = set(causes) - {name}
            assert all(abs(found[f"only {other}"]) < 0.05 for other in others)

    def test_the_parts_add_up_and_noise_is_explained_by_nothing(self, world):
        labels, _ = world
        noise = np.random.default_rng(2).normal(size=(12, 8, 8, 4))
        mixed = noise + np.concatenate([self.position() * 2, np.eye(3)[labels][..., :2] * 3], -1)
        found = self.shares(mixed, world)
        parts = [name for name in SHARES if name.startswith(("only", "common"))]
        assert len(parts) == 7
        assert sum(found[name] for name in parts) == pytest.approx(found["total"])
        assert 0.3 < found["total"] < 0.9
        assert self.shares(noise, world)["total"] < 0.02

    def test_what_can_be_reached_two_ways_is_common(self, world):
        labels, _ = world
        coloured = xr.DataArray(np.eye(3)[labels], dims=("sample", "y", "x", "rgb"))
        found = self.shares(np.eye(3)[labels], (labels, coloured))
        assert found["only colour and semantics"] > 0.95
        assert abs(found["only colour"]) + abs(found["only semantics"]) < 0.02

    def test_ignored_labels_are_no_class(self, world):
        labels, pictures = world
        known = self.shares(np.eye(3)[labels], world)["semantics"]
        hidden = np.where(labels == 2, 255, labels)
        told = self.shares(np.eye(3)[labels], (hidden, pictures), ignore=255)["semantics"]
        assert told == pytest.approx(known, abs=0.01)  # what is left tells the third class
        blank = np.where(labels > 0, 255, labels)
        assert self.shares(np.eye(3)[labels], (blank, pictures), ignore=255)["semantics"] < 0.8

    def test_refuses_one_picture(self, world):
        labels, pictures = world
        with pytest.raises(InputError, match="give two or more images"):
            explained(layer(self.position()[:1], 8), pictures[:1], labels[:1])
