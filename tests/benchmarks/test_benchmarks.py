"""Benchmarks measure what they say, on few scenes and with a tiny model."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

import emerdiff_probe as ep
from benchmarks import captions, charts, modulation, settings
from benchmarks.quality import quality, reassigned, stability, true_masks
from benchmarks.scenes import world
from emerdiff_probe.emerdiff.asking import made_for
from emerdiff_probe.evaluation import Segments, reports, score, summary
from emerdiff_probe.evaluation.journal import SEGMENTS, Journal, run
from emerdiff_probe.evaluation.methods import METHOD
from emerdiff_probe.metrics import majority_classes
from emerdiff_probe.scenes import PARTS, scene
from tests.checkpoints import tiny_playground
from tests.datasets import responses
from tests.scored import SCENES, truth_and_chance


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


@pytest.fixture(scope="module")
def config():
    return ep.EmerDiffConfig.playground().replace(
        steps=10, modulation_timestep=101, feature_timestep=1, balance="root", elsewhere=0.2
    )


def test_the_world_is_measured_with_and_without_training(model):
    found = world(model)(scene(1_000_003))
    assert len(found) == 15
    for each in found.values():
        assert each.labels.shape == (128, 128)
        assert len(np.unique(each.labels)) <= SEGMENTS


def test_every_baseline_null_and_rival_segments_a_scene(model, config):
    subject = scene(1_000_003)
    found = quality(model, config)(subject)
    assert next(iter(found)) == METHOD
    parts = len(np.unique(subject.parts))
    for name, each in found.items():
        assert each.labels.shape == (128, 128)
        if name not in ("DiffSeg", "DiffCut", "TRACE, regions"):  # these find it themselves
            assert len(np.unique(each.labels)) <= (parts if "true" in name else SEGMENTS)
    different = {each.labels.tobytes() for each in found.values()}
    assert len(different) >= len(found) - 2  # of a tiny untrained model two may agree
    exact = score(found["true masks, bilinear masks"], subject, subject.parts)
    assert exact["parts_miou"] > 0.4


def test_other_seeds_change_something(model, config):
    found = stability(model, config, range(1, 2))(scene(1_000_003))
    first, clustered, inverted = (each.labels for each in found.values())
    assert not np.array_equal(first, clustered) or not np.array_equal(first, inverted)


def test_reassigning_by_the_same_settings_changes_nothing(model, config):
    result = ep.segment(model, ep.Photo(scene(1).image), masks=4, config=config, progress=False)
    assert np.array_equal(reassigned(result, config).labels, result["labels"])


def test_true_masks_are_the_parts_renumbered():
    subject = scene(1)
    masks = true_masks(subject)
    assert masks.max() + 1 == len(np.unique(subject.parts))
    for number in range(masks.max() + 1):
        assert len(np.unique(subject.parts[masks == number])) == 1


def test_settings_are_compared_and_tables_made(model, config, tmp_path):
    journal = Journal(tmp_path / "features.jsonl", {})
    features = settings.compare_features(model, config.replace(steps=50), [1_000_000], journal)
    sites = settings.feature_sites(model)
    assert len(features) == len(sites) * len(settings.FEATURE_TIMESTEPS) * 2
    assert features["parts_miou"].between(0, 1).all()
    grid = settings.shift_grid(model, config)
    assert len({each.modulation_site for each in grid}) == 3
    shifts = settings.compare_shifts(
        model, [config], [1_000_000], Journal(tmp_path / "shifts.jsonl", {}), exact=True
    )
    best = settings.best_sigma(shifts)
    assert len(best) == 1
    assert best["relative"].item() > 0
    table = settings.balances(shifts, shifts)
    assert len(table) == 12
    assert table["parts_miou, clusters"].equals(table["parts_miou, true masks"])


def test_engines_are_compared_with_the_literal_one(model, config, tmp_path):
    few = config.replace(sigma=0.0)
    scores = modulation.compare(model, few, [1_000_200], Journal(tmp_path / "modulation.jsonl", {}))
    rows = scores.set_index("variant")
    assert list(rows.index)[:2] == ["literal", "shared"]
    assert len(rows) == 11
    assert rows.loc["literal", ["same", "correlation"]].tolist() == [1, pytest.approx(1)]
    assert rows.loc["shared", "same"] > 0.99
    assert rows.loc["jump", "correlation"] < rows.loc["shared", "correlation"]
    # Two steps of 24 runs and the unmodulated one; one side only has half of them.
    assert rows.loc[["literal", "shared", "shared, one side"], "rows"].tolist() == [50, 50, 26]
    assert rows.loc["jump", "rows"] == 25
    points = modulation.trade_off(scores).data
    assert [point.y[0] for point in points] == list(rows["same"])
    assert [point.name.partition("  ")[2] for point in points] == list(rows.index)


def test_operations_and_linearity_are_measured(model, config):
    trajectory = made_for(model, ep.Photo(scene(1).image), config)[0].trajectory
    masks = torch.zeros(1, 16, 16)
    masks[0, 3:6, 3:6] = 1
    costs = modulation.costs(model, trajectory, masks, config)
    for part in ("denoising", "whole"):
        bound = costs[f"{part} bound"]
        assert bound["literal"] == costs[f"{part} fast"]["literal"] == 1
        assert bound["jump"] > bound["shared"] > 1
    # Decoding is the same for all, so it lessens what an engine saves.
    saving = costs.loc[["shared", "jump"]]
    assert (saving["whole bound"] < saving["denoising bound"]).all()


def test_operations_of_attention_are_counted():
    query = torch.ones(1, 2, 64, 16)
    with modulation._operations() as counter:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert counter.get_total_flops() == 2 * 2 * (2 * 64 * 64 * 16)


def test_answers_are_timed(config):
    features = np.random.default_rng(0).normal(size=(8, 8, 4))
    made = responses(64, 64, (8, 8), config=config.to_json())
    found = modulation.answers(
        made.assign(features=(("source_y", "source_x", "channel"), features))
    )
    assert found.shape == (3, 2)
    assert (found.values > 0).all()


def test_linearity_is_measured(model, config):
    line = modulation.linearity(model, config.replace(strength=0.01), 1)
    assert line["proportional"].iloc[0] == pytest.approx(1)
    assert line["adds up"].iloc[1] > 0.95
    found = modulation.derivatives(model, config.replace(strength=0.01), 1)
    assert found["correlation"].iloc[2] > 0.99


def test_a_classifier_learns_captions_and_a_model_is_asked(model):
    known = captions.examples(model, range(64))
    assert known.pictures.shape == (64, 3, 128, 128)
    assert ((known.colours >= 0) <= (known.kinds > 0)).all()
    assert known.kinds.sum() > 64
    # Every kind that is named has places, and places of a kind that is named once have its colour.
    for row, kind in np.argwhere(known.kinds.numpy() > 0):
        places = known.kind_at[row] == kind + 1
        assert places.any()
        if known.colours[row, kind] >= 0:
            assert (known.colour_at[row][places] == known.colours[row, kind]).all()
    assert ((known.colour_at >= 0) == (known.kind_at > 0)).all()
    classifier = captions.train_classifier(known, epochs=1)
    again = captions.train_classifier(known, epochs=1)
    assert captions.judge(classifier, known) == captions.judge(again, known)
    assert all(0 <= share <= 1 for share in captions.judge(classifier, known).values())


def test_segments_are_shown_in_the_colours_of_their_parts():
    subject = scene(1)
    whole = np.zeros(subject.parts.shape, np.int16)
    most = np.bincount(subject.parts.ravel()).argmax()

    def majority(labels):
        return majority_classes(labels, subject.parts, len(PARTS))[labels]

    assert (majority(whole) == most).all()
    assert np.array_equal(majority(subject.parts), subject.parts)
    found = {"truth again": Segments(subject.parts), "one": Segments(whole)}
    figure = charts.gallery([(subject, found), (subject, found)])
    images = [np.asarray(trace.z) for trace in figure.data]
    assert len(images) == 8
    assert np.array_equal(images[0], subject.image)
    assert np.array_equal(images[1], images[2])
    assert len(np.unique(images[3].reshape(-1, 3), axis=0)) == 1


def test_results_are_written_whole(tmp_path):
    scores = run(truth_and_chance, SCENES[:2], Journal(tmp_path / "kept.jsonl", {}))
    reports.write(
        tmp_path / "out", "table", "# Table\n", scores, charts.chart(scores, "Two scenes")
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "table.csv",
        "table.md",
        "table.png",
    ]
    back = pd.read_csv(tmp_path / "out" / "table.csv")
    assert back["parts_miou"].max() == 1
    assert reports.to_markdown(summary(scores)).count("\n") == 3
    assert json.loads((tmp_path / "kept.jsonl").read_text().splitlines()[0]) == {}
