"""The claims table: the same segmentations as one by one, right verdicts, and what it writes."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import emerdiff_probe as ep
from benchmarks.task import QUALITY_SEEDS
from emerdiff_probe.cli import app
from emerdiff_probe.emerdiff import ENGINES, low_resolution_masks
from emerdiff_probe.emerdiff.segmentation import assigned
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.evaluation import ablations, claims, claims_on_images, claims_table, failures
from emerdiff_probe.evaluation.claims import Claim, Contrast, outcomes, together, verdict
from emerdiff_probe.evaluation.claims_table import CLAIM_SEEDS
from emerdiff_probe.evaluation.failures import FAILURE_SEEDS
from emerdiff_probe.runs import prepare
from emerdiff_probe.runs.making import made
from emerdiff_probe.scenes import scene, split_of
from emerdiff_probe.sites import Site
from tests.checkpoints import stable_diffusion, tiny_playground


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


@pytest.fixture(scope="module")
def config():
    return ep.EmerDiffConfig.playground()


@pytest.fixture
def few(monkeypatch):
    """Fewer settings and steps, of which all claims can still be made."""
    config = ep.EmerDiffConfig.playground().replace(
        steps=5, modulation_timestep=401, feature_timestep=1
    )
    monkeypatch.setattr(ep.EmerDiffConfig, "for_model", lambda model: config)
    monkeypatch.setattr(ablations, "COUNTS", (2, 3))
    monkeypatch.setattr(ablations, "SEGMENTS", 2)
    monkeypatch.setattr(ablations, "FEATURE_TIMESTEPS", (1, 201))
    monkeypatch.setattr(ablations, "SHIFT_TIMESTEPS", (201, 401, 601))
    monkeypatch.setattr(claims_table, "RESAMPLES", 20)
    monkeypatch.setattr(failures, "SCENES", 2)
    monkeypatch.setattr(failures, "SEGMENTS", 2)
    return config


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


def test_shared_work_segments_as_one_by_one(few, model):
    picture = scene(CLAIM_SEEDS[0]).image
    found = ablations.ablated(model, few)(picture)
    every = ablations.tables(model, few)
    assert len(found) == sum(map(len, every.values())) + 1
    different = {each.labels.tobytes() for each in found.values()}
    assert len(different) > len(found) / 3
    # One by one, from the same inversion, which begins at the largest timestep of all.
    first = max(ablations.SHIFT_TIMESTEPS)
    run = made(
        prepare(model, ep.Photo(picture), seed=few.seed, settings=few.of_run()),
        first=first,
        progress=False,
    )
    for table, label, engine in (
        ("Table 4", "3", "shared"),
        ("Table 6", "201", "literal"),
        ("Table 7", "201", "literal"),
        ("Table 9", "without", "literal"),
        ("Fig. 14", "first, before f", "literal"),
    ):
        setting = every[table][label]
        features = run.features(setting.config.feature_site, setting.config.feature_timestep)
        weights = low_resolution_masks(features, setting.masks, setting.config)
        masks = torch.from_numpy(weights.values)
        ended = ENGINES[engine](model, run.trajectory, masks, setting.config)
        labels = assigned(run, weights, ended, setting.config)["labels"]
        assert (found[ablations.name(table, label)].labels == labels).mean() > 0.99


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
    (found,) = outcomes(claim, scores, 0.02)
    assert found.values == pytest.approx([0.2, 0.3])
    assert found.scenes == pytest.approx((0.25, 0.25), abs=0.005)
    # Two models that differ by 0.1: 12.7 times the standard error of 0.05.
    assert found.models == pytest.approx((0.25 - 0.635, 0.25 + 0.635), abs=0.001)
    assert found.verdicts == ("holds", "undecided")
    assert found.verdict == "undecided"
    (alone,) = outcomes(claim, {key: each[:1] for key, each in scores.items()}, 0.02)
    assert alone.models is None
    assert alone.verdict == "holds"


def test_claims_speak_of_settings_that_there_are(model, config):
    tables = ablations.tables(model, config)
    labels = {table: list(settings) for table, settings in tables.items()}
    labels[ablations.BASELINES].append(ablations.BILINEAR)
    made = claims.claims(labels)
    assert {claim.table for claim in made} == set(labels)
    for claim in made:
        assert set(claim.measures) <= set(claims.MEASURES)
        for contrast in claim.contrasts:
            assert {label for side in contrast for label in side} <= set(labels[claim.table])


def test_scenes_are_fresh_and_of_the_test_split():
    assert not set(CLAIM_SEEDS) & set(QUALITY_SEEDS)
    assert {split_of(seed) for seed in CLAIM_SEEDS} == {"test"}
    assert {split_of(seed) for seed in FAILURE_SEEDS} == {"validation"}


def test_what_injection_holds_back(few, model):
    found = failures.moved_by_injection(model, few, FAILURE_SEEDS[0])
    with_it, without_it = (
        ep.segment(
            model,
            ep.Photo(scene(FAILURE_SEEDS[0]).image),
            masks=2,
            engine="shared" if injection else "literal",
            config=few.replace(injection=injection),
            progress=False,
        )
        for injection in (True, False)
    )
    assert found.labels == (with_it["labels"] != without_it["labels"]).mean()
    change = without_it["difference"] - with_it["difference"]
    assert found.maps == pytest.approx(
        float(np.linalg.norm(change) / np.linalg.norm(with_it["difference"])), rel=1e-3
    )
    assert 0 < found.attention < 1
    gentle = failures.moved_by_injection(
        model, few.replace(strength=few.strength / 100), FAILURE_SEEDS[0]
    )
    assert gentle.attention < found.attention / 2


def test_attention_that_goes_elsewhere_altogether(model):
    site = "mid_block.attentions.0.transformer_blocks.0.attn1"
    heads = model.unet.get_submodule(site).heads
    # One channel a head; the only query prefers one key by far, and then the other.
    query = torch.ones(1, 1, heads)
    keys = torch.tensor([50.0, -50.0])[None, :, None].expand(1, 2, heads)
    own, theirs = (
        {Site(site, "query"): query, Site(site, "key"): each} for each in (keys, keys.flip(1))
    )
    assert failures._total_variation(model, own, theirs) == pytest.approx(1)
    assert failures._total_variation(model, own, own) == 0


def test_scores_of_draws_are_centred_on_the_data_sets():
    """Else the interval of a score that repeated scenes raise is all above it."""
    draws = np.concatenate([np.arange(8)[None], np.random.RandomState(0).randint(8, size=(50, 8))])
    repeats = claims_table._over_draws(
        lambda drawn: 8 - len(set(drawn())), [str(number) for number in range(8)], draws
    )
    assert repeats[0] == 0
    assert repeats[1:].mean() == pytest.approx(0)
    assert repeats[1:].std() > 0


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
    assert re.search(r"\| Table 9 +\| without attention injection it is worse +\|", text)
    assert re.search(r" of 2 +\|", text)
    assert "## What was looked into" in text
    assert re.search(r"\| 2560 +\|", text)
    table = pd.read_csv(tmp_path / "out/claims.csv")
    assert set(table["model"]) == {each.weights for each in loaded.values()}
    assert (table["low"] <= table["high"]).all()
    assert (tmp_path / "out/claims.png").exists()
    assert (tmp_path / "out/claims-boundary-f.png").exists()
    # What was there of the first model was not computed again, nor written.
    lines = (tmp_path / f"kept/claims-{model.weights}/scores.jsonl").read_text().splitlines()
    assert len(lines) == 3


@pytest.fixture
def ade(tmp_path):
    """A scene in the folders of ADE20K, and another image without a class that counts."""
    root = tmp_path / "ade"
    for part in ("images", "annotations"):
        (root / part / "validation").mkdir(parents=True)
    for number in range(2):
        made = scene(CLAIM_SEEDS[number])
        truth = made.parts.astype(np.uint8) % 150 + 1 if number < 1 else 0 * made.parts
        name = f"ADE_val_0000000{number}"
        Image.fromarray(made.image).save(root / f"images/validation/{name}.png")
        Image.fromarray(truth.astype(np.uint8)).save(root / f"annotations/validation/{name}.png")
    lines = [f"{index}\t0.1\t10\t1\t1\tclass {index}" for index in range(1, 151)]
    (root / "objectInfo150.txt").write_text("\n".join(["Idx\t...\tName", *lines]))
    return root


def claimed(*arguments):
    return CliRunner().invoke(app, ["claims", *map(str, arguments)], catch_exceptions=False)


def test_a_data_set_is_tested_with_a_model_of_ones_own(few, tmp_path, ade, monkeypatch):
    other = ep.load(tiny_playground(seed=1))
    monkeypatch.setattr(ep, "load", lambda *_, **__: other)
    arguments = ["--model", "mine", "--dataset", "ade20k", "--root", ade, "--masks", 2]
    arguments += ["--kept", tmp_path / "kept", "--out", tmp_path / "out"]
    # The second image cannot be scored, which ends it once the first is kept.
    refused = claimed(*arguments)
    assert refused.exit_code == 1
    assert "no pixel of its labels counts" in refused.output
    (kept,) = (tmp_path / "kept").iterdir()
    before = (kept / "scores.jsonl").read_text()
    assert len(before.splitlines()) == 2
    done = claimed(*arguments, "--skip")
    assert done.exit_code == 0, done.output
    assert "left out 'ADE_val_00000001'" in done.output
    assert (kept / "scores.jsonl").read_text().startswith(before)
    expected = claims_on_images.operations(other, few, 2)
    assert f"2 images, {expected.rows:,} rows of UNet calls" in done.output
    text = (tmp_path / "out/claims.md").read_text()
    assert text.startswith("# The paper's claims on ADE20K-150 validation")
    assert "over images" in text
    assert "scenes" not in text
    provenance = json.loads(text.partition("```json\n")[2].partition("```")[0])
    assert provenance["models"][0]["weights"]["unet"] == other.weights
    assert provenance["config"]["modulation_timestep"] == few.modulation_timestep
    assert (provenance["images"], provenance["masks"]) == (2, 2)
    table = pd.read_csv(tmp_path / "out/claims.csv")
    assert set(table["setting"]) >= {"Table 4: 3", "Table 9: without", ablations.FROZEN}
    assert table["score"].between(0, 1).all()
    # Another number of masks would be another result, and lie beside it.
    assert kept.name == f"claims-ade20k-150-validation-2-{other.weights}"


def test_the_cost_of_an_image_is_counted(few, model):
    expected = claims_on_images.operations(model, few, 2)
    rows, decoded = 0, 0

    def count(module, inputs, named):
        nonlocal rows
        rows += len(named["sample"] if "sample" in named else inputs[0])

    def count_images(module, inputs):
        nonlocal decoded
        decoded += len(inputs[0])

    handles = [
        model.unet.register_forward_pre_hook(count, with_kwargs=True),
        model.vae.post_quant_conv.register_forward_pre_hook(count_images),
    ]
    ablations.ablated(model, few, 2)(scene(CLAIM_SEEDS[0]).image)
    for handle in handles:
        handle.remove()
    assert expected.rows == pytest.approx(rows, rel=0.1)
    assert expected.decodings == pytest.approx(decoded, rel=0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--root", "here"), "--root is for a data set"),
        (("--skip",), "--skip is for a data set"),
        (("--dataset", "ade20k", "--root", "here"), "give it with --model"),
        (("--dataset", "ade20k", "--model", "it"), "give it with --root"),
        (("--dataset", "ade20k", "--model", "it", "--root", "nowhere"), "nowhere"),
        (("--count", "101"), "there are 100 scenes"),
    ],
)
def test_what_does_not_go_together_is_said_before_a_model_is_loaded(
    arguments, message, monkeypatch
):
    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(ep, "load", load)
    result = claimed(*arguments)
    assert result.exit_code == 1
    assert message in result.output


def test_models_of_several_layouts_are_not_compared(model, tmp_path):
    other = ep.load(stable_diffusion("v1"))
    with pytest.raises(ConfigError, match="playground, stable-diffusion"):
        claims_on_images.benchmark_images(
            [model, other], claims_table.scene_dataset([1]), tmp_path, tmp_path
        )
