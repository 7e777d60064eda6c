"""Inversions lead back to the picture as far as each promises, and say how far."""

import dataclasses
from itertools import pairwise

import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.runs import inversion_trajectory, sample
from emerdiff_probe.runs.inversion import noise_diagnostics
from tests.checkpoints import tiny_playground

TIMESTEPS = tuple(range(281, 0, -20))


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


@pytest.fixture(scope="module")
def x0():
    return torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(5))


def inverted(model, x0, method, timesteps=TIMESTEPS, seed=0):
    return inversion_trajectory(
        model, x0, method=method, timesteps=timesteps, condition=model.condition(""), seed=seed
    )


def end_of(model, trajectory):
    *_, last = trajectory.run(model)
    return last.next_latents


def test_edit_friendly_passes_through_independent_draws(model, x0):
    trajectory = inverted(model, x0, "edit_friendly")
    steps = list(trajectory.run(model))
    assert [step.timestep for step in steps] == list(TIMESTEPS)
    residuals = []
    for step in steps:
        alpha_bar = model.schedule.signal(step.timestep)
        noise = (step.latents - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
        assert abs(noise.std() - 1) < 0.1
        residuals.append(noise.flatten())
    # Independent draws: what a true diffusion trajectory would correlate is uncorrelated here.
    correlations = torch.corrcoef(torch.stack(residuals))
    assert (correlations - torch.eye(len(steps))).abs().max() < 0.1


def test_edit_friendly_rebuilds_up_to_its_last_step(model, x0):
    trajectory = inverted(model, x0, "edit_friendly")
    error = (end_of(model, trajectory) - x0).square().mean().sqrt()
    assert error < 0.1
    found = trajectory.completed(model)
    assert not found.noises[-1].any()
    assert all(noise.any() for noise in found.noises[:-1])
    # Its noises lead where its latents are, from the start alone.
    alone = dataclasses.replace(found, latents=())
    torch.testing.assert_close(end_of(model, alone), found.latents[-1], rtol=1e-3, atol=1e-3)


def test_diagnostics_tell_true_noise_from_what_is_not(model):
    """The noise maps of a smooth picture are as correlated as the network's errors are."""
    smooth = torch.linspace(-3, 3, 32).expand(1, 4, 32, 32)
    trajectory = inverted(model, smooth, "edit_friendly")
    generated = list(sample(model, model.condition(""), steps=50, seed=1, height=128, width=128))
    own = inverted(model, generated[-1].next_latents, "edit_friendly")
    for led in (trajectory, own):
        diagnostics = noise_diagnostics(list(led.run(model)))
        assert len(diagnostics["noise_rms"]) == len(TIMESTEPS) - 1
        for value in diagnostics["noise_autocorrelation"]:
            assert -1 <= value <= 1
        assert all(value > 0 for value in diagnostics["noise_rms"])


def test_ddim_retraces_its_way_where_the_prediction_is_steady(model, x0):
    trajectory = inverted(model, x0, "ddim")
    assert trajectory.eta == 0
    error = (end_of(model, trajectory) - x0).square().mean().sqrt()
    assert error < 0.2
    assert not any(noise.any() for noise in trajectory.noises)


def test_noising_begins_near_and_ends_elsewhere(model, x0):
    trajectory = inverted(model, x0, "noising")
    alpha_bar = model.schedule.signal(281)
    noise = (trajectory.start - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
    assert abs(noise.std() - 1) < 0.1
    error = (end_of(model, trajectory) - x0).square().mean().sqrt()
    assert error > 0.1


@pytest.mark.parametrize("method", ["edit_friendly", "noising"])
def test_seeds_decide_the_draws(model, x0, method):
    first, same, other = (inverted(model, x0, method, seed=seed).start for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_an_unknown_method_names_the_known(model, x0):
    with pytest.raises(ConfigError, match="edit_friendly, ddim, noising"):
        inverted(model, x0, "null-text")


def test_sampling_yields_its_steps_and_is_seeded(model):
    condition = model.condition("a red house", guidance=2)
    runs = [
        list(sample(model, condition, steps=5, seed=seed, height=128, width=96))
        for seed in (0, 0, 1)
    ]
    assert [step.timestep for step in runs[0]] == [801, 601, 401, 201, 1]
    assert runs[0][-1].previous is None
    assert runs[0][0].latents.shape == (1, 4, 32, 24)
    for step, following in zip(runs[0], runs[0][1:], strict=False):
        assert torch.equal(step.next_latents, following.latents)
    assert torch.equal(runs[0][-1].next_latents, runs[1][-1].next_latents)
    assert not torch.equal(runs[0][-1].next_latents, runs[2][-1].next_latents)


def test_noise_maps_of_a_model_that_knows_the_picture(model, x0):
    """What independent draws cost by themselves, as `inversion_trajectory` has it."""

    class Oracle:
        schedule = model.schedule

        def predict(self, latents, timestep, condition):
            alpha_bar = self.schedule.signal(timestep)
            return (latents - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5

    found = inversion_trajectory(
        Oracle(), x0, method="edit_friendly", timesteps=TIMESTEPS, condition=model.condition("")
    )
    steps = list(found.run(Oracle()))
    noise_rms = noise_diagnostics(steps)["noise_rms"]
    for (now, then), rms in zip(pairwise(TIMESTEPS), noise_rms, strict=True):
        now, then = model.schedule.signal(now), model.schedule.signal(then)
        a = now / then
        assert rms == pytest.approx((1 + 2 * a * (1 - then) / (1 - a)) ** 0.5, rel=0.05)
    assert (steps[-1].next_latents - x0).abs().max() < 1e-4


def test_a_part_of_the_grid_draws_the_same(model, x0):
    """Edit-friendly draws are of their own timestep: a later start changes nothing below it."""
    whole = inverted(model, x0, "edit_friendly")
    later = whole.since(201)
    assert later.timesteps == TIMESTEPS[4:]
    assert torch.equal(later.start, whole.latents[4])
