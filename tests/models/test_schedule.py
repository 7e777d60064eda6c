"""The schedule's arithmetic against diffusers' schedulers."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, FlowMatchHeunDiscreteScheduler

from emerdiff_probe.errors import ConfigError, ModelError
from emerdiff_probe.models import Schedule
from emerdiff_probe.runs.sampling import transitions

SETTINGS = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}


def tensors(count):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 4, 8, 8, generator=generator) for _ in range(count)]


@pytest.mark.parametrize("steps", [10, 25, 50])
def test_the_grid_is_diffusers_leading_grid(steps):
    scheduler = DDPMScheduler(**SETTINGS)
    scheduler.set_timesteps(steps)
    assert Schedule.from_scheduler(scheduler).timesteps(steps) == tuple(
        scheduler.timesteps.tolist()
    )


def test_the_papers_timesteps_are_on_the_grid():
    grid = Schedule.from_scheduler(DDPMScheduler(**SETTINGS)).timesteps(50)
    assert {1, 281, 481} <= set(grid)
    assert sum(timestep <= 281 for timestep in grid) == 15


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_ddpm_steps_agree(prediction):
    scheduler = DDPMScheduler(**SETTINGS, prediction_type=prediction)
    scheduler.set_timesteps(50)
    schedule = Schedule.from_scheduler(scheduler)
    x, output = tensors(2)
    for timestep, previous in transitions(schedule.timesteps(50)):
        theirs = scheduler.step(output, timestep, x, generator=torch.Generator().manual_seed(7))
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(7))
        eps = schedule.to_noise(output, x, timestep)
        ours = schedule.step(x, eps, noise, timestep, previous)
        if previous is not None:
            torch.testing.assert_close(ours, theirs.prev_sample, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            schedule.to_x0(eps, x, timestep), theirs.pred_original_sample, rtol=1e-4, atol=1e-4
        )
    # The last step adds nothing and gives the predicted picture itself.
    torch.testing.assert_close(ours, schedule.to_x0(eps, x, 1), rtol=1e-5, atol=1e-6)


def test_ddim_steps_agree_and_are_undone():
    scheduler = DDIMScheduler(**SETTINGS)
    scheduler.set_timesteps(50)
    schedule = Schedule.from_scheduler(scheduler)
    x, eps, noise = tensors(3)
    for timestep, previous in transitions(schedule.timesteps(50))[:-1]:
        ours = schedule.step(x, eps, noise, timestep, previous, eta=0)
        torch.testing.assert_close(
            ours, scheduler.step(eps, timestep, x).prev_sample, rtol=1e-4, atol=1e-4
        )
        back = schedule.ddim_forward(ours, eps, previous, timestep)
        torch.testing.assert_close(back, x, rtol=1e-4, atol=1e-4)


def test_noising_agrees():
    scheduler = DDPMScheduler(**SETTINGS)
    x0, eps = tensors(2)
    ours = Schedule.from_scheduler(scheduler).add_noise(x0, eps, 281)
    torch.testing.assert_close(ours, scheduler.add_noise(x0, eps, torch.tensor([281])))


def test_what_is_no_such_schedule_is_refused():
    with pytest.raises(ModelError, match="no alphas_cumprod"):
        Schedule.from_scheduler(FlowMatchHeunDiscreteScheduler())
    schedule = Schedule.from_scheduler(DDPMScheduler(**SETTINGS))
    with pytest.raises(ConfigError, match="steps is 501"):
        schedule.timesteps(501)
