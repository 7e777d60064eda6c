"""The grammar of sites and patterns."""

import pytest

from emerdiff_probe.errors import SiteError
from emerdiff_probe.sites import Site, reading_block, select

SITES = [
    Site("down_blocks.1"),
    Site("down_blocks.1.attn1", "query"),
    Site("down_blocks.1.attn1", "out"),
    Site("up_blocks.1.resnets.0", "skip"),
    Site("up_blocks.1.attn2", "query"),
    Site("up_blocks.1.attn2", "key"),
]


def names(pattern):
    return [str(site) for site in select(SITES, pattern)]


def test_aliases_are_one_site():
    assert Site.parse("a.attn2.to_q") == Site.parse("a.attn2:query") == Site("a.attn2", "query")
    assert Site("a.attn2", "query").module == "a.attn2.to_q"


def test_a_skip_enters_at_its_block_and_the_last_is_taken_first():
    assert Site.parse("up_blocks.1.resnets.0:skip").module == "up_blocks.1"
    assert Site.parse("up_blocks.1.resnets.2:skip").skip_index == -3
    for wrong in ("down_blocks.1.resnets.0:skip", "up_blocks.1:skip", "a:probs", ":out", ""):
        with pytest.raises(SiteError, match="no site"):
            Site.parse(wrong)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*", list(map(str, SITES))),
        ("*attn1", ["down_blocks.1.attn1:out"]),
        ("attention, !*:query", ["down_blocks.1.attn1:out", "up_blocks.1.attn2:key"]),
        ("*, !attention", ["down_blocks.1:out", "up_blocks.1.resnets.0:skip"]),
        ("*.to_q", ["down_blocks.1.attn1:query", "up_blocks.1.attn2:query"]),
        ("*:query", ["down_blocks.1.attn1:query", "up_blocks.1.attn2:query"]),
        ("up*:*, !*:key", ["up_blocks.1.resnets.0:skip", "up_blocks.1.attn2:query"]),
        ("!up*:*, !*:query", ["down_blocks.1:out", "down_blocks.1.attn1:out"]),
        # In their own order, whatever the pattern's, and once.
        ("*attn2:key, down_blocks.?, *:key", ["down_blocks.1:out", "up_blocks.1.attn2:key"]),
    ],
)
def test_patterns(pattern, found):
    assert names(pattern) == found


def test_what_matches_nothing_is_named_with_what_is_close():
    with pytest.raises(SiteError, match=r"'down_blocks\.2'; closest: 'down_blocks\.1:out'"):
        names("*:query, down_blocks.2")
    with pytest.raises(SiteError, match=r"no site matches '\*attn3\*'; closest: 'attn2', 'attn1'"):
        names("*, !*attn3*")


def test_presets_mean_those_of_their_sites_that_there_are():
    without_middle = [Site("down_blocks.0"), Site("up_blocks.0"), Site("conv_in")]
    assert select(without_middle, "blocks") == without_middle[:2]
    assert select(without_middle, "!blocks") == without_middle[2:]
    with pytest.raises(SiteError, match="no site matches 'semantic'"):
        select(without_middle, "semantic")
    with pytest.raises(SiteError, match="no site matches 'mid_block'"):
        select(without_middle, "down_blocks.0, mid_block")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_block_that_is_read_is_the_first_upward_one_with_cross_attention(number):
    own = Site(f"up_blocks.{number}.attentions.0.transformer_blocks.0.attn2", "query")
    later = Site("up_blocks.3.attentions.0.transformer_blocks.0.attn2", "query")
    downward = Site("down_blocks.0.attentions.0.transformer_blocks.0.attn2", "query")
    alone = Site("up_blocks.0.attentions.0.transformer_blocks.0.attn1", "query")
    others = [] if number == 0 else [alone]
    assert select([downward, later, *others, own], "semantic") == [own]
    assert reading_block([downward, alone]) is None
