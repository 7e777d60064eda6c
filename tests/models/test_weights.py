"""A hash of weights sees every bit, and nothing else."""

import pytest
import torch

from emerdiff_probe.models.weights import content_hash


def weights():
    # More than one block, and a rest of one word.
    return torch.randn(3, 2**18 + 1, generator=torch.Generator().manual_seed(0))


def test_equal_values_have_one_hash_wherever_they_lie():
    found = content_hash({"a": weights()})
    assert content_hash({"a": weights()}) == found
    assert content_hash({"a": weights().t().contiguous().t()}) == found
    assert content_hash({"a": torch.cat([torch.zeros(1, 2**18 + 1), weights()])[1:]}) == found
    two = {"a": weights(), "b": torch.ones(3)}
    assert content_hash(two) == content_hash(dict(reversed(two.items()))) != found


@pytest.mark.parametrize(
    "change",
    [
        lambda w: w.flatten(),
        lambda w: w.double(),
        lambda w: -w,
        lambda w: w.flip(0),
        lambda w: w.roll(2**18, 1),
        lambda w: w.index_put((torch.tensor(2), torch.tensor(2**18)), torch.tensor(1.0)),
        lambda w: w.index_put((torch.tensor(1), torch.tensor(5)), w[1, 5] * (1 + 2**-23)),
        lambda w: w.view(torch.int32),
    ],
)
def test_any_change_shows(change):
    assert content_hash({"a": change(weights())}) != content_hash({"a": weights()})


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.int8, torch.bool]
)
def test_narrow_dtypes_are_hashed_to_the_last_byte(dtype):
    ones = torch.ones(7).to(dtype)
    other = ones.clone()
    other[-1] = 0
    assert content_hash({"a": ones}) == content_hash({"a": torch.ones(8).to(dtype)[1:]})
    assert content_hash({"a": other}) != content_hash({"a": ones})
    assert content_hash({"a": ones[:0]}) != content_hash({"a": ones[0]})


def test_names_belong_to_the_hash():
    assert content_hash({"a": weights()}) != content_hash({"b": weights()})
