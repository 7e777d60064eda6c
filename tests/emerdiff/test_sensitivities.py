"""The adjoint engine against finite differences of the literal one."""

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.emerdiff import literal
from emerdiff_probe.emerdiff.asking import made_for
from emerdiff_probe.emerdiff.sensitivities import gradients
from emerdiff_probe.errors import ConfigError, InputError
from emerdiff_probe.scenes import scene
from tests.checkpoints import stable_diffusion, tiny_playground

SUBJECT = ep.Photo(scene(1_000_000).image)
CONFIG = ep.EmerDiffConfig.playground().replace(
    feature_timestep=1, steps=10, modulation_timestep=201
)
LAYOUTS = {
    "playground": (tiny_playground, CONFIG, 16),
    "v2": (
        lambda: stable_diffusion("v2"),
        ep.EmerDiffConfig.closest_to_paper().replace(steps=10, modulation_timestep=201),
        4,
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_are_finite_differences_of_the_literal_engine(layout):
    checkpoint, config, side = LAYOUTS[layout]
    model = ep.load(checkpoint())
    trajectory = made_for(model, SUBJECT, config)[0].trajectory
    weights = torch.zeros(2, 3, 128, 128)
    weights[0, 1, 40:60, 70:90] = 1  # a patch's green
    weights[1, 0, 10, 10] = 1  # one pixel's red
    found = gradients(model, trajectory, weights, config)
    assert found.shape == (2, side, side)
    places = [(0, 0), (side // 2, side // 2), (1, 1), (side // 3, 2 * side // 3)]
    masks = torch.zeros(len(places), side, side)
    for number, place in enumerate(places):
        masks[number][place] = 1
    small = config.replace(strength=0.01)
    runs = literal.modulate(model, trajectory, masks, small)
    response = (model.decode(runs.plus) - model.decode(runs.minus)) / (2 * small.strength)
    expected = torch.einsum("mcyx,tcyx->tm", response, weights)
    ours = torch.stack([found[:, y, x] for y, x in places], 1)
    scale = expected.abs().max(1, keepdim=True).values
    torch.testing.assert_close(ours / scale, expected / scale, rtol=0.03, atol=0.01)
    # The control: another location's derivative is another.
    assert ((ours.roll(1, 1) - expected) / scale).abs().max() > 0.1


def test_the_model_keeps_no_gradients():
    model = ep.load(tiny_playground())
    before = model.weights
    trajectory = made_for(model, SUBJECT, CONFIG)[0].trajectory
    gradients(model, trajectory, torch.ones(1, 3, 128, 128), CONFIG)
    assert all(parameter.grad is None for parameter in model.unet.parameters())
    assert model.weights == before
    assert not model.predict(trajectory.start, 201, trajectory.condition).requires_grad


def test_pixels_and_weights_are_labelled_and_move_what_lies_over_them():
    model = ep.load(tiny_playground())
    run, config = made_for(model, SUBJECT, CONFIG)
    pixels = run.sensitivity([(20.5, 100.5)], config=config, progress=False)
    assert pixels.dims == ("target", "source_y", "source_x")
    weights = np.zeros((1, 3, 128, 128))
    weights[0, :, 20, 100] = 1 / 3
    same = run.sensitivity(weights, config=config, progress=False)
    np.testing.assert_allclose(pixels, same, rtol=1e-5)
    size = abs(pixels[0])
    near = size.sel(source_y=slice(4, 36), source_x=slice(84, 116)).mean()
    assert near > 5 * size.sel(source_y=slice(80, 128), source_x=slice(0, 40)).mean()


def test_what_does_not_fit_is_refused():
    run, _ = made_for(ep.load(tiny_playground()), SUBJECT, CONFIG)
    for wrong in ([(128.0, 3.0)], np.ones((3, 128, 128)), np.ones((1, 3, 64, 64))):
        with pytest.raises(InputError):
            run.sensitivity(wrong, config=CONFIG, progress=False)
    config = CONFIG.replace(injection=False)
    with pytest.raises(ConfigError, match="injection"):
        run.sensitivity([(1.0, 1.0)], config=config, progress=False)
