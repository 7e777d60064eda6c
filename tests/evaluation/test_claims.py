"""The claims table: the same segmentations as one by one, right verdicts, and what it writes."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import emerdiff_probe as ep
from emerdiff_probe.cli import app
from emerdiff_probe.evaluation import ablations, claims, claims_table
from emerdiff_probe.evaluation.claims import Claim, Contrast, tested, together, verdict
from emerdiff_probe.evaluation.task import CLAIM_SEEDS, QUALITY_SEEDS
from emerdiff_probe.scenes import scene, split_of
from tests.checkpoints import tiny_playground


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


@pytest.fixture(scope="module")
def config():
    return ep.EmerDiffConfig.playground()


@pytest.fixture
def few(monkeypatch):
    """Fewer settings, which all claims can still be made of."""
    monkeypatch.setattr(ablations, "COUNTS", (2, 3))
    monkeypatch.setattr(ablations, "SEGMENTS", 3)
    monkeypatch.setattr(ablations, "FEATURE_TIMESTEPS", (1, 81))
    monkeypatch.setattr(ablations, "SHIFT_TIMESTEPS", (41, 281, 321))
    monkeypatch.setattr(claims_table, "RESAMPLES", 20)


def test_every_table_changes_one_thing(model, config):
    tables = ablations.tables(model, config)
    frozen = ablations.Setting(config)
    for table, settings in tables.items():
        assert len(set(settings.values())) == len(settings)
        changed = {
            key
            for each in settings.values()
            for key, value in {**vars(each.config), "masks": each.masks}.items()
            if value != {**vars(config), "masks": frozen.masks}[key]
        }
        assert len(changed) == (0 if table == ablations.BASELINES else 1)
    assert {each.config.modulation_site for each in tables["Fig. 14"].values()} == {
        f"up_blocks.1.attentions.{number}.transformer_blocks.0.attn2:{port}"
        for number in range(3)
        for port in ("out", "mix")
    }
    assert frozen in tables["Table 6"].values()
    assert frozen in tables["Table 7"].values()
    assert frozen in tables["Table 8"].values()


def test_shared_work_segments_as_one_by_one(few, model, config):
    picture = scene(CLAIM_SEEDS[0]).image
    found = ablations.ablated(model, config)(picture)
    every = ablations.tables(model, config)
    assert len(found) == sum(map(len, every.values())) + 1
    # Of this the trajectory begins at its own t_m, where other noise would be drawn: so all begin
    # at the largest one here.
    largest = ablations.SHIFT_TIMESTEPS[-1]
    assert config.modulation_timestep > largest
    for table, label in (
        ("Table 4", "2"),
        ("Table 5", "first"),
        ("Table 6", "81"),
        ("Table 8", "2.5"),
        ("Table 9", "without"),
        ("Fig. 14", "first, before f"),
    ):
        setting = every[table][label]
        alone = ep.segment(
            model,
            ep.Photo(picture),
            masks=setting.masks,
            config=setting.config,
            progress=False,
        )
        labels = found[ablations.name(table, label)].labels
        assert (labels == alone["labels"]).mean() > 0.99
        np.testing.assert_allclose(
            found[ablations.name(table, label)].embeddings, alone["embeddings"], atol=1e-4
        )
    different = {each.labels.tobytes() for each in found.values()}
    assert len(different) > len(found) / 2


def test_verdicts():
    assert verdict((0.01, 0.2), 0.02, little=False) == "holds"
    assert verdict((-0.2, -0.1), 0.02, little=False) == "does not hold"
    assert verdict((-0.01, 0.05), 0.02, little=False) == "undecided"
    assert verdict((-0.01, 0.015), 0.02, little=True) == "holds"
    assert verdict((0.03, 0.05), 0.02, little=True) == "does not hold"
    assert verdict((-0.05, -0.03), 0.02, little=True) == "does not hold"
    # No significance is no equivalence.
    assert verdict((-0.03, 0.03), 0.02, little=True) == "undecided"
    assert together(["holds", "holds"]) == "holds"
    assert together(["holds", "undecided"]) == "undecided"
    assert together(["undecided", "does not hold"]) == "does not hold"


def draws(*means, spread=0.001):
    random = np.random.RandomState(0)
    return np.stack([np.append(mean, random.normal(mean, spread, 200)) for mean in means])


def test_scenes_and_models_must_agree():
    claim = Claim("T", "", "", (Contrast(("a", "b"), ("c",)),))
    scores = {"T: a": draws(0.5, 0.5), "T: b": draws(0.7, 0.7), "T: c": draws(0.4, 0.3)}
    (found,) = tested(claim, scores, 0.02)
    assert found.values == pytest.approx([0.2, 0.3])
    assert found.scenes == pytest.approx((0.25, 0.25), abs=0.005)
    # Two models that differ by 0.1: 12.7 times the standard error of 0.05.
    assert found.models == pytest.approx((0.25 - 0.635, 0.25 + 0.635), abs=0.001)
    assert found.verdicts == ("holds", "undecided")
    assert found.verdict == "undecided"
    (alone,) = tested(claim, {key: each[:1] for key, each in scores.items()}, 0.02)
    assert alone.models is None
    assert alone.verdict == "holds"


def test_claims_speak_of_settings_that_there_are(model, config):
    tables = ablations.tables(model, config)
    labels = {table: list(settings) for table, settings in tables.items()}
    labels[ablations.BASELINES].append(ablations.BILINEAR)
    made = claims.claims(labels)
    assert {claim.table for claim in made} == set(labels)
    for claim in made:
        assert set(claim.measures) <= set(claims_table.MEASURES)
        for contrast in claim.contrasts:
            assert {label for side in contrast for label in side} <= set(labels[claim.table])


def test_scenes_are_fresh_and_of_the_test_split():
    assert not set(CLAIM_SEEDS) & set(QUALITY_SEEDS)
    assert {split_of(seed) for seed in CLAIM_SEEDS} == {"test"}


def test_the_command_writes_the_table_and_goes_on(few, tmp_path, model, tiny_folder, monkeypatch):
    loaded = {"playground": model, str(tiny_folder): ep.load(tiny_playground(seed=1))}
    monkeypatch.setattr(ep, "load", lambda name, **_: loaded[name])
    arguments = ["claims", "--count", "2", "--processes", "1"]
    arguments += ["--kept", str(tmp_path / "kept"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out/claims.md").read_text()
    assert text.count("not measured over models") > 10
    arguments += ["--model", str(tiny_folder)]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    text = (tmp_path / "out/claims.md").read_text()
    assert "not measured over models" not in text
    for each in loaded.values():
        assert each.weights in text
    assert "| Table 9 | without attention injection it is worse |" in text
    table = pd.read_csv(tmp_path / "out/claims.csv")
    assert set(table["model"]) == {each.weights for each in loaded.values()}
    assert (table["low"] <= table["high"]).all()
    assert (tmp_path / "out/claims.png").exists()
    assert (tmp_path / "out/claims-boundary-f.png").exists()
    # What was there of the first model was not computed again, nor written.
    lines = (tmp_path / f"kept/claims-{model.weights}/scores.jsonl").read_text().splitlines()
    assert len(lines) == 3
