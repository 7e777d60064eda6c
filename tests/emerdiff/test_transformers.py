"""All engines in transformers: the same results as in UNets, by the same code."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe import taps
from emerdiff_probe.emerdiff import EmerDiffConfig, jump, literal, shared, short
from emerdiff_probe.emerdiff.sensitivities import gradients
from emerdiff_probe.errors import CaptureError
from emerdiff_probe.models.locks import around
from emerdiff_probe.runs import Trajectory
from tests.families import FAMILIES, attentive

STEPS = 5
ATTENTIONS = {
    "pixart": ["transformer_blocks.1.attn1", "transformer_blocks.1.attn2"],
    "stable-diffusion-3": ["transformer_blocks.0.attn2", "transformer_blocks.1.attn"],
    "flux": ["transformer_blocks.1.attn", "single_transformer_blocks.0.attn"],
    "auraflow": ["joint_transformer_blocks.1.attn", "single_transformer_blocks.0.attn"],
    "sana": ["transformer_blocks.1.attn2"],
}


@pytest.fixture(scope="module", params=FAMILIES)
def run(request):
    return made(request.param)


def made(family, **prompt):
    model = ep.load(attentive(FAMILIES[family]()))
    model.image_size = 64
    return ep.generate(
        model, "a red house", steps=STEPS, height=64, width=64, progress=False, **prompt
    )


def settings(run, **changes):
    """t_m has two steps after it, so that branches meet both kinds of calls."""
    config = EmerDiffConfig.for_model(run.model).replace(steps=STEPS, strength=30.0, batch=4)
    config = config.replace(guidance=run.settings.guidance)
    grid = run.trajectory.timesteps
    return config.replace(
        modulation_timestep=grid[2], feature_timestep=grid[-1], short_steps=2, **changes
    )


def places():
    """Two locations and a half of the grid."""
    masks = torch.zeros(3, 4, 4)
    masks[0, 1, 2] = masks[1, 3, 0] = 1
    masks[2, :, :2] = 1
    return masks


def assert_equal(found, expected, tolerance=1e-4):
    scale = float(expected.unmodulated.abs().max())
    for name in ("plus", "minus", "unmodulated"):
        one, other = getattr(found, name) / scale, getattr(expected, name) / scale
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def moved(modulated):
    return float((modulated.plus - modulated.minus).abs().max() / modulated.plus.abs().max())


@pytest.mark.parametrize("port", ["out", "mix"])
def test_shared_is_literal_at_every_site(run, port):
    for path in ATTENTIONS[run.model.family]:
        config = settings(run, modulation_site=f"{path}:{port}")
        expected = literal.modulate(run.model, run.trajectory, places(), config)
        found = shared.modulate(run.model, run.trajectory, places(), config)
        assert_equal(found, expected)
        assert found.site_rms == pytest.approx(expected.site_rms, rel=1e-5)
        if (path, port) == ("transformer_blocks.1.attn2", "out"):
            # It has no gate, so norms take the same shift of all channels off.
            assert moved(expected) < 1e-5
            continue
        assert moved(expected) > 1e-3, path
        # The control: without injection the run is another one.
        other = literal.modulate(
            run.model, run.trajectory, places(), config.replace(injection=False)
        )
        with pytest.raises(AssertionError):
            assert_equal(found, other)


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_is_literal_for_blocks_one_side_and_guided_halves(family):
    run = made(family, guidance=3.0)
    for site in (settings(run).feature_site, settings(run).modulation_site):
        config = settings(run, modulation_site=site, sides="one")
        expected = literal.modulate(run.model, run.trajectory, places(), config)
        assert_equal(shared.modulate(run.model, run.trajectory, places(), config), expected)


def test_defaults_move_something(run):
    """More than rounding: at a site without a gate a norm would take the shift off."""
    found = shared.modulate(run.model, run.trajectory, places(), settings(run, strength=1.0))
    assert moved(found) > 1e-4


def test_short_with_all_steps_is_literal_and_jump_its_only_step(run):
    config = settings(run)
    grid = run.trajectory.timesteps
    trajectory = run.trajectory.since(config.modulation_timestep)
    expected = literal.modulate(run.model, trajectory, places(), config)
    whole = short.modulate(run.model, trajectory, places(), config.replace(short_steps=9))
    assert_equal(whole, expected, 1e-3)
    found = jump.modulate(run.model, trajectory, places(), config)
    step = next(iter(trajectory.run(run.model)))
    assert step.timestep == grid[2]
    clean = run.model.schedule.to_x0(step.eps, step.latents, step.timestep)
    torch.testing.assert_close(found.unmodulated, clean, rtol=1e-4, atol=1e-4)
    alone = Trajectory.led([step.latents], (grid[2],), trajectory.condition).completed(run.model)
    assert_equal(found, literal.modulate(run.model, alone, places(), config))
    with pytest.raises(AssertionError):
        assert_equal(found, expected)


def test_branches_begin_at_the_shifted_site_and_project_no_queries(run):
    config, network = settings(run), run.model.unet
    first, last = "transformer_blocks.0", "transformer_blocks.2"
    if run.model.family == "auraflow":
        first = "joint_transformer_blocks.0"
    if run.model.family in ("flux", "auraflow"):
        last = "single_transformer_blocks.1"
    named = {"pixart": "attn1", "sana": "attn2"}
    attention = f"{last}.{named.get(run.model.family, 'attn')}"
    paths = [f"{first}.ff", f"{attention}.to_v", f"{attention}.to_q"]
    calls = dict.fromkeys(paths, 0)

    def counting(path):
        def wrap(original):
            def forward(*arguments, **named):
                calls[path] += 1
                return original(*arguments, **named)

            return forward

        return wrap

    with ExitStack() as stack:
        for path in paths:
            module = network.get_submodule(path)
            stack.enter_context(around(module, "forward", counting(path)))
        trajectory = run.trajectory.since(config.modulation_timestep)
        shared.modulate(run.model, trajectory, places(), config)
    # Three timesteps: unmodulated once each, and branches in two batches, which at t_m begin later.
    # Values of a text differ in no branch.
    assert list(calls.values()) == [7, 3 if run.model.family == "sana" else 9, 3]


def test_the_model_is_left_as_it_was_found(run):
    config = settings(run)
    before = run.model.weights
    shared.modulate(run.model, run.trajectory, places(), config)
    modules = run.model.unet.modules()
    assert not any("forward" in vars(each) or each._forward_hooks for each in modules)
    assert run.model.weights == before


def test_what_does_not_differ_between_rows_is_computed_again(run):
    """Angles of positions have a row for each token, and not for each picture."""
    path = settings(run).modulation_site.partition(":")[0]
    latents = run.trajectory.start
    call = run.trajectory.condition
    with taps.prefix(run.model.unet, path, through=True) as begun, torch.no_grad():
        whole = run.model.predict(latents, 281, call)
    assert path in begun
    assert ("pos_embed" in begun) == (run.model.family not in ("flux", "sana"))
    with taps.given(run.model.unet, begun, 3):
        several = run.model.predict(torch.zeros_like(latents).expand(3, -1, -1, -1), 281, call)
    if run.model.schedule.prediction == "epsilon":
        torch.testing.assert_close(several, whole.expand_as(several), rtol=1e-4, atol=1e-4)
    again = run.model.predict(latents, 281, call)
    assert torch.equal(again, whole)


def test_gradients_are_finite_differences_of_the_literal_engine(run):
    config, model = settings(run), run.model
    trajectory = run.trajectory.since(config.modulation_timestep)
    weights = torch.zeros(2, 3, 64, 64)
    weights[0, 1, 20:40, 30:50] = 1
    weights[1, 0, 10, 10] = 1
    found = gradients(model, trajectory, weights, config)
    assert found.shape == (2, 4, 4)
    some = [(0, 0), (2, 2), (1, 3)]
    masks = torch.zeros(len(some), 4, 4)
    for number, place in enumerate(some):
        masks[number][place] = 1
    small = config.replace(strength=0.5)
    runs = literal.modulate(model, trajectory, masks, small)
    response = (model.decode(runs.plus) - model.decode(runs.minus)) / (2 * small.strength)
    expected = torch.einsum("mcyx,tcyx->tm", response.double(), weights.double()).float()
    ours = torch.stack([found[:, y, x] for y, x in some], 1)
    scale = expected.abs().max(1, keepdim=True).values
    torch.testing.assert_close(ours / scale, expected / scale, rtol=0.03, atol=0.02)
    # The control: another location's derivative is another.
    assert ((ours.roll(1, 1) - expected) / scale).abs().max() > 0.1


def test_every_question_is_answered_with_the_settings_of_the_model(run):
    asked = {"config": settings(run), "progress": False}
    labels = run.segment(masks=3, engine="literal", **asked)
    same = run.segment(masks=3, engine="shared", **asked)
    clear = labels["margin"].values > 1e-2 * labels["margin"].values.max()
    assert clear.mean() > 0.9
    assert np.array_equal(labels["labels"].values[clear], same["labels"].values[clear])
    assert run.respond(masks=2, **asked).attrs["engine"] == "shared"
    swept = run.sweep(2, strength=[5.0, 30.0], **asked)
    assert swept.sizes["strength"] == 2
    assert swept["difference"].max() > 0
    assert run.sensitivity([(10.5, 20.5)], **asked).shape == (1, 4, 4)
    responder = run.responder(config=settings(run))
    assert responder.engines == ("literal", "shared", "short", "jump")
    assert responder.location(1, 2).shape == (3, 64, 64)


def test_masks_are_refused():
    run = made("pixart")
    attention = run.model.unet.get_submodule("transformer_blocks.1.attn1")

    def masking(original):
        def forward(hidden, **named):
            mask = torch.zeros(len(hidden), 1, hidden.shape[1])
            return original(hidden, **{**named, "attention_mask": mask})

        return forward

    with (
        around(attention, "forward", masking),
        pytest.raises(CaptureError, match=r"under a mask .*engine='literal'"),
    ):
        shared.modulate(run.model, run.trajectory, places(), settings(run))
