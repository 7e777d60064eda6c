"""Settings: each says where it comes from, and refuses what it cannot be."""

import dataclasses
import json

import numpy as np
import pytest
import xarray as xr

import emerdiff_probe as ep
from emerdiff_probe.errors import ConfigError, SiteError
from tests.checkpoints import THREE_LEVELS, stable_diffusion, stable_diffusion_xl, tiny_playground


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
        {"steps": 4.0},
        {"steps": True},
        {"steps": "4"},
        {"seed": -1},
        {"seed": 2**32},
        {"seed": 0.0},
        {"sigma": 1e16},
        {"sigma": float("inf")},
        {"guidance": "7.5"},
        {"guidance": np.array([7.5])},
        {"injection": "false"},
        {"injection": 0},
        {"feature_timestep": -1},
        {"modulation_timestep": "281"},
        {"elsewhere": 1.5},
        {"short_steps": np.float64(8)},
    ],
)
def test_what_a_setting_cannot_be_is_refused(changes):
    (name,) = changes
    with pytest.raises(ConfigError, match=name):
        ep.EmerDiffConfig().replace(**changes)


def test_numbers_of_numpy_are_settings_like_pythons_own():
    timestep = xr.DataArray([981, 281], dims="timestep")
    config = ep.EmerDiffConfig(
        steps=np.int64(50),
        seed=np.uint8(0),
        strength=np.float32(10),
        sigma=np.array(1.0),
        guidance=np.float64(7.5),
        injection=np.bool_(True),
        modulation_timestep=timestep[1],
    )
    assert config == ep.EmerDiffConfig()
    assert json.loads(config.to_json()) == json.loads(ep.EmerDiffConfig().to_json())
    changed = config.replace(steps=np.int64(25))
    assert json.loads(changed.to_json())["steps"] == 25


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
    block = "up_blocks.0.attentions.{}.transformer_blocks.0.attn2:{}"
    assert config.feature_site == block.format(0, "query")
    assert config.modulation_site == block.format(2, "out")
    assert {config.feature_site, config.modulation_site} <= set(xl.sites().index)


def test_settings_follow_the_layout_of_small_unets():
    """Three levels and another size are no playground; blocks of one layer have two attentions."""
    pipeline = stable_diffusion("v1", layers_per_block=1, **THREE_LEVELS)
    config = ep.EmerDiffConfig.for_model(pipeline)
    assert config.strength == ep.EmerDiffConfig.closest_to_paper().strength
    assert config.feature_site == "up_blocks.1.attentions.0.transformer_blocks.0.attn2:query"
    assert config.modulation_site == "up_blocks.1.attentions.1.transformer_blocks.0.attn2:out"
    model = ep.load(pipeline)
    assert model.family == "stable-diffusion"
    assert {config.feature_site, config.modulation_site} <= set(model.sites().index)
