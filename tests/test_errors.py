import pytest

from emerdiff_probe import errors
from emerdiff_probe.errors import ProbeError, closest


def test_every_kind_is_a_probe_error():
    kinds = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert len(kinds) == 7
    assert all(issubclass(kind, ProbeError) for kind in kinds)


def test_closest_gives_at_most_count_choices_and_says_that_there_are_more():
    assert closest("zzz", ["a", "b", "c"], count=2) == "choices: 'a', 'b', ..."
    assert closest("zzz", ["a", "b"], count=2) == "choices: 'a', 'b'"


@pytest.mark.parametrize("name", ["up_blocks.1.attn", "up_block.1"])
def test_closest_prefers_what_is_alike(name):
    found = closest(name, ["conv_in", "up_blocks.1.attn2", "mid_block"])
    assert found.startswith("closest: 'up_blocks.1.attn2'")
    assert "conv_in" not in found
