"""The page: whole in itself, and with nothing of a prompt or file name as markup."""

import json
import re

import pytest

from emerdiff_probe import views
from tests.datasets import bands

HOSTILE = "prompt '</script><script>alert(1)</script> <img src=x onerror=alert(2)>', seed 0"


@pytest.fixture(scope="module")
def page():
    return views.page(bands(source=HOSTILE, model="<b>m</b>", config='{"<u>": "<s>"}'))


@pytest.fixture(scope="module")
def own(page):
    """The page without plotly.js."""
    start = page.index("plotly.js v")
    return page[:start] + page[page.index("</script>", start) :]


def test_it_loads_nothing(page, own):
    assert re.search(r"plotly\.js v\d", page)
    assert "default-src 'none'" in own
    assert not re.search(r"<(link|iframe|img)\b|<\w[^>]*\bsrc=|@import", own)


def test_texts_are_escaped(own):
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in own
    assert "&lt;b&gt;m&lt;/b&gt;" in own
    assert "&lt;u&gt;" in own
    for markup in ("<script>alert", "<img", "<b>m", "<u>", "<s>"):
        assert markup not in own
    # The browser would end a script at the first of these, wherever it is.
    assert own.count("</script>") == own.count("<script")


def test_it_says_where_the_result_comes_from(own):
    for text in ("Provenance", "0123", "literal", "edit_friendly", "4 segments of 4 masks"):
        assert text in own


@pytest.mark.parametrize(
    ("source", "family", "said"),
    [
        ("photo 'cat' 0123", "playground", True),
        ("prompt 'a photo ', seed 0", "playground", False),
        ("photo 'cat' 0123", "stable-diffusion", False),
        ("photo 'cat' 0123", None, False),
    ],
)
def test_it_says_that_the_bundled_model_has_seen_no_photographs(source, family, said):
    page = views.page(bands(source=source, config=f'{{"family": {json.dumps(family)}}}'))
    assert ("has never seen anything like it" in page) == said
