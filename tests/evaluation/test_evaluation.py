"""Benchmarks: scores against the exact truth, kept scene by scene, and resumed."""

import json

import numpy as np
import pandas as pd
import pytest

import emerdiff_probe as ep
from emerdiff_probe.errors import StoreError
from emerdiff_probe.evaluation import benchmarks, paired, report, rivals, score, summary
from emerdiff_probe.evaluation.scoring import mean_with_interval
from emerdiff_probe.scenes import scene
from tests.checkpoints import tiny_playground

SEEDS = [(1_000_000, False), (1_000_001, False), (1_000_001, True)]


def truth_and_chance(subject):
    chance = np.random.RandomState(subject.seed % 1000).randint(0, 12, subject.parts.shape)
    return {"truth": subject.parts.astype(np.int16), "chance": chance.astype(np.int16)}


def test_the_truth_scores_one_and_chance_does_not():
    rows = {name: score(labels, scene(1)) for name, labels in truth_and_chance(scene(1)).items()}
    assert rows["truth"] == pytest.approx(
        {"parts_miou": 1, "objects_miou": 1, "boundary_f": 1, "ari": 1}
    )
    assert rows["chance"]["parts_miou"] < 0.15
    assert abs(rows["chance"]["ari"]) < 0.05


def test_a_run_resumes_where_it_was(tmp_path):
    kept = tmp_path / "scores.jsonl"
    whole = benchmarks.run(truth_and_chance, SEEDS, kept, {"model": "a"})
    assert len(whole) == 6
    # As after a kill in the middle of a line.
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(lines[:2]) + "\n" + lines[2][:40])

    seen = []

    def watched(subject):
        seen.append((subject.seed, subject.dissociation))
        return truth_and_chance(subject)

    again = benchmarks.run(watched, SEEDS, kept, {"model": "a"})
    assert seen == SEEDS[1:]
    order = ["seed", "dissociation", "method"]
    pd.testing.assert_frame_equal(
        again.sort_values(order, ignore_index=True), whole.sort_values(order, ignore_index=True)
    )
    assert benchmarks.run(None, SEEDS, kept, {"model": "a"}).shape == whole.shape


def test_scores_of_other_settings_are_not_mixed_in(tmp_path):
    kept = tmp_path / "scores.jsonl"
    benchmarks.run(truth_and_chance, SEEDS[:1], kept, {"model": "a"})
    with pytest.raises(StoreError, match="delete it"):
        benchmarks.run(truth_and_chance, SEEDS[:1], kept, {"model": "b"})


def test_intervals_hold_the_mean_and_pairing_narrows_them():
    random = np.random.RandomState(0)
    base = random.rand(40)
    mean, low, high = mean_with_interval(base)
    assert mean == pytest.approx(base.mean())
    assert low < mean < high
    frames = [
        pd.DataFrame(
            {"seed": range(40), "dissociation": False, "method": name}
            | {metric: values for metric in ("parts_miou", "objects_miou", "boundary_f", "ari")}
        )
        for name, values in {"a": base, "b": base - 0.01}.items()
    ]
    scores = pd.concat(frames)
    assert paired(scores, "a").iloc[0, 0] == "+0.010 [+0.010, +0.010]"
    table = summary(scores)
    assert list(table.index) == ["a", "b"]
    assert f"{base.mean():.3f}" in table.loc["a"].iloc[0]
    assert report.to_markdown(table).count("\n") == 3


def test_the_methods_of_both_benchmarks_segment_a_scene():
    model = ep.load(tiny_playground())
    config = ep.EmerDiffConfig.playground().replace(steps=10, modulation_timestep=101)
    subject = scene(1_000_003)
    for segmentor, least in ((benchmarks.world(model), 9), (benchmarks.quality(model, config), 7)):
        labels = segmentor(subject)
        assert len(labels) >= least
        for each in labels.values():
            assert each.shape == (128, 128)
            assert len(np.unique(each)) <= benchmarks.SEGMENTS


def test_an_untrained_network_has_other_weights_and_spares_the_model():
    model = ep.load(tiny_playground())
    before = model.weights
    first, second = rivals.untrained(model, seed=1), rivals.untrained(model, seed=1)
    assert first.weights == second.weights != before
    assert model.pipeline.unet is model.unet
    assert ep.load(model.pipeline).weights == before


def test_colours_alone_find_colours():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = (200, 30, 30)
    labels = rivals.colour_and_position(picture, 2, weight=0.1)
    assert len(np.unique(labels[:, :16])) == len(np.unique(labels[:, 16:])) == 1
    assert len(np.unique(rivals.superpixels(picture, 8, compactness=10))) <= 8


def test_results_are_written_whole(tmp_path):
    scores = benchmarks.run(truth_and_chance, SEEDS[:2], tmp_path / "kept.jsonl", {})
    report.write(tmp_path / "out", "table", "# Table\n", scores, report.chart(scores, "Two scenes"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "table.csv",
        "table.md",
        "table.png",
    ]
    back = pd.read_csv(tmp_path / "out" / "table.csv")
    assert back["parts_miou"].max() == 1
    assert json.loads((tmp_path / "kept.jsonl").read_text().splitlines()[0]) == {}
