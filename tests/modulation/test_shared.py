"""The shared engine gives what the literal one gives, up to rounding."""

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.modulation import literal, observe, shared
from emerdiff_probe.scenes import scene
from tests.checkpoints import stable_diffusion, stable_diffusion_xl, tiny_playground

SUBJECT = ep.Photo(scene(1_000_000).image)
SETTINGS = {"feature_timestep": 1, "steps": 10, "modulation_timestep": 201}


def halves(side):
    left = torch.zeros(side, side)
    left[:, : side // 2] = 1
    return torch.stack([left, 1 - left, torch.eye(side)])


@pytest.mark.parametrize(
    ("checkpoint", "config", "side"),
    [
        (tiny_playground, ep.EmerDiffConfig.playground(), 16),
        (lambda: stable_diffusion("v1"), ep.EmerDiffConfig.closest_to_paper(), 4),
        (lambda: stable_diffusion("v2"), ep.EmerDiffConfig.closest_to_paper(), 4),
        (stable_diffusion_xl, ep.EmerDiffConfig.stable_diffusion_xl(), 4),
    ],
)
def test_both_engines_agree(checkpoint, config, side):
    model = ep.load(checkpoint())
    config = config.replace(**SETTINGS, batch=4)
    trajectory = observe(model, SUBJECT, config).trajectory
    expected = literal.modulate(model, trajectory, halves(side), config)
    found = shared.modulate(model, trajectory, halves(side), config)
    for name in ("plus", "minus", "unmodulated"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4
        )
    assert found.site_rms == expected.site_rms
    # The control: without injection the run is another one.
    other = literal.modulate(model, trajectory, halves(side), config.replace(injection=False))
    assert not torch.allclose(other.plus, expected.plus, atol=1e-3)


def test_guidance_halves_keep_their_own_attention():
    model = ep.load(tiny_playground())
    config = ep.EmerDiffConfig.playground().replace(**SETTINGS, condition="prompt", guidance=3.0)
    trajectory = observe(model, ep.Prompt("a red house"), config).trajectory
    expected = literal.modulate(model, trajectory, halves(16), config)
    found = shared.modulate(model, trajectory, halves(16), config)
    torch.testing.assert_close(found.plus, expected.plus, rtol=1e-4, atol=1e-4)


def test_segments_are_the_same():
    model = ep.load(tiny_playground())
    config = ep.EmerDiffConfig.playground().replace(**SETTINGS)
    one, other = (
        ep.segment(model, SUBJECT, masks=5, engine=engine, config=config, progress=False)
        for engine in ("literal", "shared")
    )
    clear = one["margin"].values > 1e-3
    assert clear.mean() > 0.9
    assert np.array_equal(one["labels"].values[clear], other["labels"].values[clear])


def test_without_injection_nothing_can_be_shared():
    model = ep.load(tiny_playground())
    config = ep.EmerDiffConfig.playground().replace(**SETTINGS, injection=False)
    with pytest.raises(ConfigError, match="engine='literal'"):
        ep.segment(model, SUBJECT, masks=2, engine="shared", config=config, progress=False)
