"""The table of families says what works, why not, and what goes wrong without a word."""

import pytest

from benchmarks import families
from benchmarks.families import WORKS, Subject, Wrong, refused, tried
from emerdiff_probe.errors import ModelError
from tests.families import pixart


@pytest.mark.parametrize(
    ("error", "cell"),
    [
        (None, WORKS),
        (ModelError("no such thing; choose one\nThere are two"), "no such thing; choose one"),
        (Wrong("the picture differs"), "WRONG: the picture differs"),
    ],
)
def test_a_cell_works_or_says_why_not(monkeypatch, error, cell):
    def capability(subject):
        if error is not None:
            raise error

    monkeypatch.setattr(families, "CAPABILITIES", {"one": capability})
    assert tried(None, "one") == cell


def test_own_errors_of_a_check_are_not_taken_for_answers(monkeypatch):
    monkeypatch.setattr(families, "CAPABILITIES", {"one": lambda subject: 1 / 0})
    with pytest.raises(ZeroDivisionError):
        tried(None, "one")


def test_a_family_is_tried_out(monkeypatch):
    subject = Subject.of(pixart())
    assert tried(subject, "intervene") == WORKS
    assert tried(subject, "segment, shared") == WORKS
    # The control: a shift that a norm takes off.
    dead = {"modulation_site": "transformer_blocks.1.attn2:out", "strength": 10.0}
    monkeypatch.setattr(families, "_settings", lambda subject: dead)
    assert tried(subject, "segment, shared") == "WRONG: no pixel is moved"


def test_refusals_have_a_reason():
    assert "films" in refused()["WanTransformer3DModel"]
    assert all("not supported: " in each for each in refused().values())
