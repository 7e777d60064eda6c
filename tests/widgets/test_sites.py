"""Choosing sites: what passes, how large it is, and patterns that name nothing."""

import pandas as pd
import pytest

from emerdiff_probe.errors import SiteError
from emerdiff_probe.sites import Site, select
from emerdiff_probe.widgets import SiteBrowser


@pytest.fixture
def table():
    names = ["down_blocks.0:out", "mid_block:out", "up_blocks.1.attentions.0:out", "up.attn2:query"]
    return pd.DataFrame(
        {
            "kind": ["block", "block", "transformer", "cross"],
            "level": [32, 8, 16, 16],
            "bytes": [2**20, 2**19, 2**18, 2**18],
        },
        index=names,
    )


def test_all_sites_pass_at_first(table):
    browser = SiteBrowser(table)
    assert list(browser.selection) == list(table.index)
    assert "4</b> of 4" in browser._summary.value
    assert "2.0 MiB" in browser._summary.value
    assert browser.code() == "sites='*'"


def test_filters_act_together(table):
    browser = SiteBrowser(table, "*block*")
    browser.kind = "block"
    assert browser.selection == ("down_blocks.0:out", "mid_block:out")
    browser.level = "8"
    assert browser.selection == ("mid_block:out",)
    assert "0.5 MiB" in browser._summary.value
    assert "mid_block" in browser._rows.value
    assert "down_blocks" not in browser._rows.value
    sites = [Site.parse(name) for name in table.index]
    chosen = select(sites, browser.code().removeprefix("sites=").strip("'"))
    assert tuple(map(str, chosen)) == browser.selection


def test_menus_and_traits_are_one(table):
    browser = SiteBrowser(table)
    browser._pattern.value = "mid_block"
    assert browser.pattern == "mid_block"
    assert browser.selection == ("mid_block:out",)
    assert list(browser.table.index) == ["mid_block:out"]


@pytest.fixture
def deep():
    attention = "up_blocks.1.attentions.0"
    names = ["conv_in:out", f"{attention}.attn1:query", f"{attention}.attn1:out"]
    names += [f"{attention}.attn2:query", f"{attention}:out", "up_blocks.1:out", "up_blocks.10:out"]
    about = {"kind": "block", "level": 16, "bytes": 2**18}
    return pd.DataFrame([about] * len(names), index=names)


def click(browser, label):
    """On the box of the first branch with a label."""
    labels = [each["label"] for each in browser._tree.branches]
    count = browser._tree.clicked.get("count", 0) + 1
    browser._tree.clicked = {"number": labels.index(label), "count": count}


def test_branches_of_a_tree_are_chosen_whole(deep):
    browser = SiteBrowser(deep)
    tree = browser._tree
    assert [(each["depth"], each["label"]) for each in tree.branches] == [
        (0, "conv_in:out"),
        (0, "up_blocks.1"),
        (1, "attentions.0"),
        (2, "attn1"),
        (3, ":query"),
        (3, ":out"),
        (2, "attn2:query"),
        (2, ":out"),
        (1, ":out"),
        (0, "up_blocks.10:out"),
    ]
    assert tree.branches[1]["holds"] == "5 sites, 1.2 MiB"
    assert tree.states == [2] * 10
    click(browser, "up_blocks.1")
    assert browser.selection == ("conv_in:out", "up_blocks.10:out")
    assert tree.states == [2, *[0] * 8, 2]
    click(browser, "attn1")
    assert browser.pattern == "conv_in:out, up_blocks.1.attentions.0.attn1:*, up_blocks.10:out"
    assert tree.states == [2, 1, 1, 2, 2, 2, 0, 0, 0, 2]
    click(browser, "up_blocks.1")
    assert browser.pattern == "*"
    click(browser, "attn1")
    assert browser.pattern == "*, !up_blocks.1.attentions.0.attn1:*"
    assert tree.states == [2, 1, 1, 0, 0, 0, 2, 2, 2, 2]
    # What a branch is named by names no more than what is on it.
    for each in tree._grown:
        browser.pattern = ", ".join(each.patterns)
        assert browser.selection == each.sites


def test_a_tree_and_filters_act_together(deep):
    browser = SiteBrowser(deep, "conv_in")
    click(browser, "conv_in:out")
    assert (browser.pattern, browser.selection) == ("", ())
    assert "0</b> of 7 sites" in browser._summary.value
    browser.level = "16"
    click(browser, "up_blocks.10:out")
    assert browser.selection == ("up_blocks.10:out",)
    browser.pattern = "zebra"
    assert set(browser._tree.states) == {0}


def test_a_pattern_that_names_nothing_says_so(table):
    browser = SiteBrowser(table)
    browser.pattern = "<b>mid_blok"
    assert browser.selection == ()
    assert "ep-error" in browser._summary.value
    assert "&lt;b&gt;" in browser._summary.value
    browser.pattern = "mid_block"
    assert "ep-error" not in browser._summary.value
    with pytest.raises(SiteError, match="zebra"):
        SiteBrowser(table, "zebra")


def test_a_table_without_a_kernel(table):
    bundle = SiteBrowser(table, "mid_block")._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    assert "mid_block" in data["text/html"]
    assert "down_blocks" not in data["text/html"]


def test_a_model_is_asked_for_its_table_once(table):
    class Model:
        asked = 0

        def sites(self):
            self.asked += 1
            return table

    model = Model()
    SiteBrowser(model).pattern = "mid_block"
    assert model.asked == 1


def test_readers_without_a_kernel_see_the_rows_that_pass(table):
    shown = SiteBrowser(table, "mid_block")._repr_mimebundle_()["text/html"]
    assert "<b>1</b> of 4 sites" in shown
    assert "mid_block:out" in shown
    assert "down_blocks" not in shown
