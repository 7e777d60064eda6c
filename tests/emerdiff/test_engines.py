"""The faster engines: close to the literal one, equal to it where theory says so."""

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.emerdiff import ENGINES, jump, literal, short
from emerdiff_probe.emerdiff.asking import made_for
from emerdiff_probe.emerdiff.engines import decoded, prepared
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.runs import Trajectory
from emerdiff_probe.scenes import scene
from tests.checkpoints import stable_diffusion, tiny_playground

SUBJECT = ep.Photo(scene(1_000_000).image)
CONFIG = ep.EmerDiffConfig.playground().replace(
    feature_timestep=1, steps=10, modulation_timestep=401
)


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


@pytest.fixture(scope="module")
def trajectory(model):
    return made_for(model, SUBJECT, CONFIG)[0].trajectory


def halves(side=16):
    left = torch.zeros(side, side)
    left[:, : side // 2] = 1
    return torch.stack([left, 1 - left])


def assert_equal(found, expected, tolerance=1e-4):
    for name in ("plus", "minus", "unmodulated"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=tolerance, atol=tolerance
        )


@pytest.mark.parametrize("inversion", ["edit_friendly", "noising", "ddim"])
def test_short_with_all_steps_is_the_literal_run(model, inversion):
    config = CONFIG.replace(inversion=inversion, short_steps=99)
    trajectory = made_for(model, SUBJECT, config)[0].trajectory
    expected = literal.modulate(model, trajectory, halves(), config)
    # Noises found anew are the old ones divided and multiplied by sigma: rounding.
    assert_equal(short.modulate(model, trajectory, halves(), config), expected, 1e-3)


@pytest.mark.parametrize("inversion", ["edit_friendly", "noising"])
def test_a_coarse_run_passes_through_the_fine_ones_latents(model, inversion):
    config = CONFIG.replace(inversion=inversion, short_steps=3)
    trajectory = made_for(model, SUBJECT, config)[0].trajectory
    coarse = short.shortened(model, trajectory, config)
    assert coarse.timesteps == (401, 201, 1)
    fine = dict(zip(trajectory.timesteps, trajectory.latents, strict=False))
    steps = list(coarse.run(model))
    for step in steps:
        torch.testing.assert_close(step.latents, fine[step.timestep], rtol=1e-3, atol=1e-3)
    # Longer steps add more noise than the fine run's own would: another trajectory, not a subset.
    assert not torch.allclose(coarse.noises[0], trajectory.noises[0], atol=0.1)


def test_a_led_run_finds_the_noise_of_the_inversion(model, trajectory):
    led = Trajectory.led(trajectory.latents[:-1], trajectory.timesteps, trajectory.condition)
    again = led.completed(model)
    for one, other in zip(again.noises, trajectory.noises, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_jump_is_the_clean_picture_predicted_at_t_m(model, trajectory):
    found = jump.modulate(model, trajectory, halves(), CONFIG)
    step = next(iter(trajectory.run(model)))
    assert step.timestep == CONFIG.modulation_timestep
    expected = model.schedule.to_x0(step.eps, step.latents, step.timestep)
    torch.testing.assert_close(found.unmodulated, expected)
    # With a trajectory of t_m alone the literal engine does the same: its one step is the last.
    alone = Trajectory.led([step.latents], (401,), trajectory.condition).completed(model)
    assert_equal(found, literal.modulate(model, alone, halves(), CONFIG))


def test_fewer_steps_are_further_from_the_literal_run(model, trajectory):
    """In a small shift's response, where nothing else differs."""
    config = CONFIG.replace(strength=5.0)
    expected = literal.modulate(model, trajectory, halves(), config)
    wanted = (expected.plus - expected.minus).flatten()
    errors = []
    for engine, steps in (("shared", 5), ("short", 4), ("short", 2), ("jump", 5)):
        found = ENGINES[engine](model, trajectory, halves(), config.replace(short_steps=steps))
        errors.append(float(((found.plus - found.minus).flatten() - wanted).norm() / wanted.norm()))
    assert errors[0] < 1e-4 < errors[1] < errors[3]
    assert errors[1] < 0.5


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("layout", ["playground", "v2"])
def test_a_prepared_engine_gives_the_same_for_any_masks(name, layout):
    if layout == "playground":
        model, config, side = ep.load(tiny_playground()), CONFIG, 16
    else:
        model, side = ep.load(stable_diffusion("v2")), 4
        config = ep.EmerDiffConfig.closest_to_paper().replace(steps=10, modulation_timestep=201)
    trajectory = made_for(model, SUBJECT, config)[0].trajectory
    run = prepared(name, model, trajectory, config)
    for masks in (halves(side), halves(side)[1:]):
        expected = ENGINES[name](model, trajectory, masks, config)
        assert_equal(run(masks), expected)


def test_one_side_is_half_the_runs_and_linear_where_the_model_is(model, trajectory):
    small = CONFIG.replace(strength=0.02)
    both, one = (
        torch.cat(list(decoded(model, ENGINES["shared"](model, trajectory, halves(), each), each)))
        for each in (small, small.replace(sides="one"))
    )
    assert one.shape == both.shape == (2, 3, 128, 128)
    assert (one - both).norm() / both.norm() < 0.1
    # The control: a large shift is not linear.
    large = CONFIG.replace(strength=5.0)
    both, one = (
        torch.cat(list(decoded(model, ENGINES["shared"](model, trajectory, halves(), each), each)))
        for each in (large, large.replace(sides="one"))
    )
    assert (one - both).norm() / both.norm() > 0.5


def test_latent_differences_decode_nothing(model, monkeypatch):
    config = CONFIG.replace(modulation_timestep=101, space="latent", sigma=0)
    result = ep.segment(model, SUBJECT, masks=3, config=config, engine="shared", progress=False)
    assert result["labels"].shape == (128, 128)
    # Interpolated from 32 x 32 latents: between their centres it is straight.
    line = result["difference"].values[0, 2, 2:6]
    np.testing.assert_allclose(np.diff(line, 2), 0, atol=1e-5)
    picture = ep.segment(
        model,
        SUBJECT,
        masks=3,
        config=config.replace(space="picture"),
        engine="shared",
        progress=False,
    )
    assert np.mean(result["labels"].values == picture["labels"].values) > 0.3


@pytest.mark.parametrize("engine", ["short", "jump"])
def test_segments_come_from_every_engine(model, engine):
    config = CONFIG.replace(modulation_timestep=201, short_steps=2)
    result = ep.segment(model, SUBJECT, masks=3, config=config, engine=engine, progress=False)
    assert result.attrs["engine"] == engine
    assert np.isfinite(result["difference"]).all()


def test_engines_refuse_what_they_cannot_do(model, trajectory):
    with pytest.raises(ConfigError, match="sensitivity"):
        ep.segment(model, SUBJECT, masks=2, engine="adjoint", config=CONFIG, progress=False)
    for engine in ("shared", "short", "jump"):
        wrong = CONFIG.replace(modulation_timestep=405)
        with pytest.raises(ConfigError, match="t_m = 405"):
            ENGINES[engine](model, trajectory, halves(), wrong)
