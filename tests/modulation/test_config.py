"""Settings: each says where it comes from, and refuses what it cannot be."""

import dataclasses

import pytest

import emerdiff_probe as ep
from emerdiff_probe.errors import ConfigError, SiteError
from tests.checkpoints import stable_diffusion, stable_diffusion_xl, tiny_playground


def test_every_setting_says_where_it_comes_from():
    table = ep.EmerDiffConfig.table()
    assert list(table.index) == [each.name for each in dataclasses.fields(ep.EmerDiffConfig)]
    assert set(table["origin"]) == {"paper", "inferred", "ours"}


def test_what_the_paper_says():
    config = ep.EmerDiffConfig.closest_to_paper()
    assert (config.steps, config.modulation_timestep, config.feature_timestep) == (50, 281, 1)
    assert config.strength == 10
    assert config.injection
    table = ep.EmerDiffConfig.table()
    for unknown in ("sigma", "normalise", "restarts", "modulation_site"):
        assert table.loc[unknown, "origin"] == "ours"


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"inversion": "null-text"},
        {"condition": "full"},
        {"guidance": 0.5},
        {"normalise": "max"},
        {"restarts": 0},
        {"strength": 0.0},
        {"strength": float("nan")},
        {"sigma": -1.0},
        {"batch": 0},
        {"modulation_site": "mid_block.attentions.0.transformer_blocks.0.attn2:query"},
        {"lambda_": 3},
    ],
)
def test_what_a_setting_cannot_be_is_refused(changes):
    (name,) = changes
    with pytest.raises(ConfigError, match=name):
        ep.EmerDiffConfig().replace(**changes)


def test_sites_are_brought_to_their_one_name():
    config = ep.EmerDiffConfig(feature_site="mid_block.attentions.0.to_q")
    assert config.feature_site == "mid_block.attentions.0:query"
    with pytest.raises(SiteError):
        ep.EmerDiffConfig(feature_site=":query")


def test_settings_follow_the_layout_and_not_the_name():
    trained_elsewhere = ep.load(tiny_playground())
    assert ep.EmerDiffConfig.for_model(trained_elsewhere) == ep.EmerDiffConfig.playground()
    stable = ep.load(stable_diffusion("v1"))
    assert ep.EmerDiffConfig.for_model(stable) == ep.EmerDiffConfig.closest_to_paper()
    xl = ep.load(stable_diffusion_xl())
    config = ep.EmerDiffConfig.for_model(xl)
    assert config == ep.EmerDiffConfig.stable_diffusion_xl()
    assert {config.feature_site, config.modulation_site} <= set(xl.sites().index)
