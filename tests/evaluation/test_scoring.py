"""Scores against the exact truth, kept scene by scene, and resumed."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emerdiff_probe.errors import ConfigError, StoreError
from emerdiff_probe.evaluation import METRICS, paired, score, summary, verdicts
from emerdiff_probe.evaluation.journal import Journal, run
from emerdiff_probe.evaluation.scoring import mean_with_interval
from emerdiff_probe.scenes import scene
from tests.scored import SCENES, truth_and_chance


def test_the_truth_scores_one_and_chance_does_not():
    subject = scene(1)
    found = truth_and_chance(subject)
    rows = {name: score(each, subject, subject.parts) for name, each in found.items()}
    truth, chance = rows["truth"], rows["chance"]
    assert set(truth) == set(METRICS)
    # An object's mean embedding lies between those of its parts, so another object's may be nearer.
    assert {name: truth[name] for name in truth if name != "objects_class_mean"} == pytest.approx(
        dict.fromkeys(set(METRICS) - {"objects_class_mean"}, 1)
    )
    assert chance["parts_miou"] < 0.15
    assert abs(chance["ari"]) < 0.05
    assert chance["agreement"] == chance["ari"]
    assert np.isnan(chance["parts_class_mean"])


def test_a_run_resumes_where_it_was(tmp_path):
    kept = tmp_path / "scores.jsonl"
    whole = run(truth_and_chance, SCENES, Journal(kept, {"model": "a"}))
    assert len(whole) == 6
    # As after a kill in the middle of a line.
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(lines[:2]) + "\n" + lines[2][:40])

    seen = []

    def watched(subject):
        seen.append((subject.seed, subject.dissociation))
        return truth_and_chance(subject)

    again = run(watched, SCENES, Journal(kept, {"model": "a"}))
    assert seen == SCENES[1:]
    pd.testing.assert_frame_equal(again, whole)
    assert run(None, SCENES, Journal(kept, {"model": "a"})).shape == whole.shape


def test_rows_of_another_model_are_refused_and_rounding_is_not(tmp_path):
    kept = tmp_path / "scores.jsonl"

    def journal(unet, answer, **place):
        model = {"weights": {"unet": unet}, "answers": {"predict": [answer, -2.0]}, **place}
        return Journal(kept, {"model": model, "masks": 3})

    journal("aa", 1.0, device="cpu")
    journal("aa", 1.001, device="cuda:0")
    with pytest.raises(ConfigError, match=r"weights\.unet: stored 'aa', now 'bb'(?s:.*)delete"):
        journal("bb", 1.0, device="cpu")
    with pytest.raises(ConfigError, match=r"answers\.predict: stored"):
        journal("aa", 2.0, device="cpu")


def test_scenes_at_the_same_time_score_as_one_after_the_other(tmp_path):
    one, two = (
        run(
            truth_and_chance,
            SCENES,
            Journal(tmp_path / f"{processes}.jsonl", {}),
            processes=processes,
        )
        for processes in (1, 2)
    )
    pd.testing.assert_frame_equal(one, two)


def test_scores_of_other_settings_are_not_mixed_in(tmp_path):
    kept = tmp_path / "scores.jsonl"
    run(truth_and_chance, SCENES[:1], Journal(kept, {"model": "a"}))
    with pytest.raises(StoreError, match="delete it"):
        Journal(kept, {"model": "b"})


def test_intervals_hold_the_mean_and_pairing_narrows_them():
    random = np.random.RandomState(0)
    base = random.rand(40)
    mean, low, high = mean_with_interval(base)
    assert mean == pytest.approx(base.mean())
    assert low < mean < high
    frames = [
        pd.DataFrame(
            {"seed": range(40), "dissociation": False, "method": name}
            | {metric: values for metric in METRICS}
        )
        for name, values in {"a": base, "b": base - 0.01}.items()
    ]
    scores = pd.concat(frames)
    assert paired(scores, "a").iloc[0, 0] == "+0.010 [+0.010, +0.010]"
    above, below = verdicts(scores, "a"), verdicts(scores, "b")
    assert above[0].startswith("**b**: a is above it in majority-class mIoU, parts;")
    assert below[0].startswith("**a**: b is below it in ")
    (same,) = verdicts(scores.replace("b", "c").assign(parts_miou=0.5), "a")
    assert "not told apart from it in majority-class mIoU, parts" in same
    table = summary(scores)
    assert list(table.index) == ["a", "b"]
    assert f"{base.mean():.3f}" in table.loc["a"].iloc[0]


def test_a_journal_that_is_opened_is_never_shorter_in_between(tmp_path, monkeypatch):
    """One that is killed while it opens a journal loses no row."""
    kept = tmp_path / "scores.jsonl"
    Journal(kept, {})
    lines = kept.read_text() + '["a", [{"x": 1}]]\n["b", [{"x": 2}]]\n'
    for cut in ("", '["c", [{'):
        kept.write_text(lines + cut)
        with monkeypatch.context() as killed:
            for name in ("write_text", "write_bytes"):
                killed.setattr(Path, name, lambda *_: pytest.fail("it was begun anew"))
            assert Journal(kept, {}).pieces == {"a": [{"x": 1}], "b": [{"x": 2}]}
        assert kept.read_text() == lines


@pytest.mark.parametrize("begun", [b"", b"{", b'{"mo'])
def test_a_journal_without_its_first_line_is_begun(tmp_path, begun):
    kept = tmp_path / "scores.jsonl"
    kept.write_bytes(begun)
    assert Journal(kept, {"model": "a"}).pieces == {}
    assert kept.read_text() == '{"model": "a"}\n'
    assert [each.name for each in tmp_path.iterdir()] == ["scores.jsonl"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (b"\xff\n", "damaged in its first line"),
        (b"3\n", "damaged in its first line"),
        (b'{}\n["a", []]\n["b"\n', "damaged in line 3; delete that line"),
        (b"{}\n\x00\n", "damaged in line 2"),
        (b"{}\n3\n", "damaged in line 2"),
    ],
)
def test_a_damaged_journal_names_the_line(tmp_path, text, match):
    kept = tmp_path / "scores.jsonl"
    kept.write_bytes(text)
    with pytest.raises(StoreError, match=match):
        Journal(kept, {})
    assert kept.read_bytes() == text
