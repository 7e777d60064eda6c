import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity as reference

from emerdiff_probe.errors import InputError
from emerdiff_probe.layers import (
    agreement,
    cluster,
    cosine_similarity,
    normalised,
    similarity_to_point,
)
from tests.recordings import layer

RNG = np.random.default_rng(0)


def test_similarity_agrees_with_scikit_learn_across_pictures_and_timesteps():
    values = RNG.normal(size=(2, 3, 4, 4, 5))
    found = similarity_to_point(layer(values), y=13, x=30, sample=1)
    for step in range(3):
        point = values[1, step, 1, 3]
        expected = reference(values[:, step].reshape(-1, 5), point[None])
        ours = found.isel(timestep=step).transpose("sample", "y", "x")
        assert ours.values.ravel() == pytest.approx(expected.ravel(), abs=1e-6)
    assert float(found.isel(sample=1, y=1, x=3).min()) == pytest.approx(1)
    with pytest.raises(InputError, match="sample=2; choose 0 to 1"):
        similarity_to_point(layer(values), 1, 1, sample=2)


def test_zeros_are_like_nothing_and_half_precision_does_not_overflow():
    values = np.full((1, 2, 2, 64), 3000, np.float16)
    values[0, 0, 0] = 0
    found = cosine_similarity(layer(values), layer(values).isel(sample=0, y=1, x=1))
    assert found.values.ravel() == pytest.approx([0, 1, 1, 1], abs=1e-5)


def grouped():
    """Three groups of places in two pictures, far apart."""
    truth = RNG.integers(0, 3, (2, 6, 5))
    centres = np.array([[0, 0], [9, 0], [0, 9]])
    return truth, layer(centres[truth] + RNG.normal(size=(2, 6, 5, 2)) * 0.1)


def test_a_cluster_means_the_same_in_every_picture():
    truth, values = grouped()
    found = cluster(values, 3)
    names = [set(found.values[truth == number]) for number in range(3)]
    assert all(len(each) == 1 for each in names)
    assert len(set.union(*names)) == 3
    assert found.dims == ("sample", "y", "x")
    single = cluster(values.isel(sample=0).rename(y="source_y", x="source_x"), 3)
    assert single.dims == ("source_y", "source_x")
    alone = cluster(values.isel(sample=[0]), 3)
    assert np.array_equal(alone.isel(sample=0), single)
    # Normalised over all pictures together, too.
    standard = normalised(values, "standard")
    assert standard.dims == ("sample", "y", "x", "channel")
    np.testing.assert_allclose(standard.mean(("sample", "y", "x")), 0, atol=1e-9)
    np.testing.assert_allclose(standard.std(("sample", "y", "x")), 1)
    assert abs(standard.isel(sample=0).mean(("y", "x"))).max() > 1e-3
    with pytest.raises(InputError, match="2 of dim timestep; choose one"):
        cluster(layer(RNG.random((1, 2, 3, 3, 2))), 2)


def test_agreement_is_one_for_renamed_clusters_and_nothing_for_shuffled():
    truth, values = grouped()
    found = cluster(values, 3)
    renamed = found.copy(data=(found.values + 1) % 3)
    for same in (renamed, found.copy(data=truth)):
        assert list(agreement(found, same).values()) == pytest.approx([1, 1, 1])
    shuffled = found.copy(data=RNG.permutation(found.values.ravel()).reshape(found.shape))
    scores = agreement(found, shuffled)
    assert abs(scores["ari"]) < 0.1
    assert abs(scores["ami"]) < 0.1
    assert [score.protocol for score in scores.values()] == ["ARI", "AMI", "NMI"]


def test_agreement_between_grids_is_on_the_finer():
    coarse = layer(np.array([[[[0], [1]], [[2], [3]]]])).isel(channel=0)
    fine = layer(np.kron([[0, 1], [2, 3]], np.ones((3, 3), int))[None, ..., None]).isel(channel=0)
    assert agreement(coarse, fine)["ari"] == agreement(fine, coarse)["ari"] == 1
    assert agreement(coarse, fine.copy(data=fine.values % 2))["ari"] < 0.6
    with pytest.raises(InputError, match="give groups of the same images"):
        agreement(coarse, fine.isel(sample=[0, 0]))
