"""The shared engine gives what the literal one gives, up to rounding."""

import numpy as np
import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe import taps
from emerdiff_probe.emerdiff import literal, shared, sharing
from emerdiff_probe.emerdiff.asking import made_for
from emerdiff_probe.errors import ConfigError
from emerdiff_probe.scenes import scene
from emerdiff_probe.sites import Site
from tests.checkpoints import stable_diffusion, stable_diffusion_xl, tiny_playground

SUBJECT = ep.Photo(scene(1_000_000).image)
SETTINGS = {"feature_timestep": 1, "steps": 10, "modulation_timestep": 201}


def halves(side):
    left = torch.zeros(side, side)
    left[:, : side // 2] = 1
    return torch.stack([left, 1 - left, torch.eye(side)])


_BLOCK = "up_blocks.0.attentions.{}.transformer_blocks.0.attn2:{}"
XL = ep.EmerDiffConfig(
    feature_site=_BLOCK.format(0, "query"), modulation_site=_BLOCK.format(2, "out")
)
CASES = {
    "playground": (tiny_playground, ep.EmerDiffConfig.playground(), 16),
    "v1": (lambda: stable_diffusion("v1"), ep.EmerDiffConfig.closest_to_paper(), 4),
    "v2": (lambda: stable_diffusion("v2"), ep.EmerDiffConfig.closest_to_paper(), 4),
    "xl": (stable_diffusion_xl, XL, 4),
}


def assert_equal(found, expected):
    for name in ("plus", "minus", "unmodulated"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("case", CASES)
def test_both_engines_agree(case):
    checkpoint, config, side = CASES[case]
    model = ep.load(checkpoint())
    config = config.replace(**SETTINGS, batch=4)
    trajectory = made_for(model, SUBJECT, config)[0].trajectory
    expected = literal.modulate(model, trajectory, halves(side), config)
    found = shared.modulate(model, trajectory, halves(side), config)
    assert_equal(found, expected)
    assert found.site_rms == pytest.approx(expected.site_rms, rel=1e-5)
    # The control: without injection the run is another one.
    other = literal.modulate(model, trajectory, halves(side), config.replace(injection=False))
    assert not torch.allclose(other.plus, expected.plus, atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"modulation_site": "up_blocks.1.attentions.1.transformer_blocks.0.attn2:mix"},
        {"modulation_site": "up_blocks.1.attentions.0.transformer_blocks.0.attn1:mix"},
        {"modulation_site": "up_blocks.1.attentions.1.transformer_blocks.0.attn1:out"},
        {"modulation_site": "up_blocks.1.resnets.1:out"},
        {"sides": "one"},
        {"inversion": "ddim"},
        {"inversion": "noising"},
        {"feature_timestep": 401},
        {"feature_timestep": 401, "inversion": "noising"},
    ],
)
def test_both_engines_agree_with_other_settings(changes):
    model = ep.load(tiny_playground())
    config = ep.EmerDiffConfig.playground().replace(**SETTINGS).replace(**changes)
    trajectory = made_for(model, SUBJECT, config)[0].trajectory
    expected = literal.modulate(model, trajectory, halves(16), config)
    assert_equal(shared.modulate(model, trajectory, halves(16), config), expected)
    moved = expected.plus - expected.minus
    assert moved.abs().max() > 0.01


def test_guidance_halves_keep_their_own_attention():
    model = ep.load(tiny_playground())
    config = ep.EmerDiffConfig.playground().replace(**SETTINGS, condition="prompt", guidance=3.0)
    trajectory = made_for(model, ep.Prompt("a red house"), config)[0].trajectory
    expected = literal.modulate(model, trajectory, halves(16), config)
    found = shared.modulate(model, trajectory, halves(16), config)
    torch.testing.assert_close(found.plus, expected.plus, rtol=1e-4, atol=1e-4)


def test_what_was_watched_serves_again():
    model = ep.load(tiny_playground())
    config = ep.EmerDiffConfig.playground().replace(**SETTINGS)
    trajectory = made_for(model, SUBJECT, config)[0].trajectory
    watched = list(shared.watch(model, trajectory, config))
    calls = []
    handle = model.unet.conv_out.register_forward_hook(lambda *_: calls.append(1))
    for mask in halves(16):
        alone = shared.modulate(model, trajectory, mask[None], config, watched=watched)
        assert_equal(alone, shared.modulate(model, trajectory, mask[None], config))
    handle.remove()
    # Three timesteps: with what was watched one call each, without it two.
    assert len(calls) == 3 * (3 + 6)


def test_branches_begin_at_the_shifted_layer():
    model = ep.load(tiny_playground())
    config = ep.EmerDiffConfig.playground().replace(**SETTINGS)
    trajectory = made_for(model, SUBJECT, config)[0].trajectory
    calls = {name: 0 for name in ("down_blocks.0.resnets.0", "up_blocks.2.resnets.0")}

    def count(name):
        def hook(*_):
            calls[name] += 1

        return hook

    for name in calls:
        model.unet.get_submodule(name).register_forward_hook(count(name))
    shared.modulate(model, trajectory, halves(16), config)
    # Timesteps 201, 101 and 1: unmodulated and, in one batch, branches; these not at t_m before.
    assert calls == {"down_blocks.0.resnets.0": 5, "up_blocks.2.resnets.0": 6}


def test_a_call_begun_elsewhere_ends_as_a_whole_one():
    model = ep.load(tiny_playground())
    x = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))
    text = torch.cat([model.condition(each).embeddings for each in ("", "a house")])

    def call(latents):
        repeated = text.repeat_interleave(len(latents) // 2, 0)
        with torch.inference_mode():
            return model.unet(latents, 281, repeated, return_dict=False)[0]

    for path in ("mid_block", "up_blocks.1.attentions.2.transformer_blocks.0.attn2", "conv_out"):
        with taps.prefix(model.unet, path) as begun:
            whole = call(x)
        with taps.given(model.unet, begun, 2):
            twice = call(torch.zeros(4, 4, 32, 32))
        torch.testing.assert_close(twice, whole.repeat_interleave(2, 0), rtol=1e-5, atol=1e-5)
        assert torch.equal(call(x), whole)
    assert not any("forward" in vars(module) for module in model.unet.modules())


def test_the_batch_is_halved_where_memory_runs_out():
    model = ep.load(tiny_playground())
    config = ep.EmerDiffConfig.playground().replace(**SETTINGS, batch=8)
    trajectory = made_for(model, SUBJECT, config)[0].trajectory
    expected = shared.modulate(model, trajectory, halves(16), config)

    def limited(module, inputs):
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("no more")

    handle = model.unet.conv_out.register_forward_pre_hook(limited)
    assert_equal(shared.modulate(model, trajectory, halves(16), config), expected)
    handle.remove()
    handle = model.unet.conv_out.register_forward_pre_hook(
        lambda _m, inputs: limited(_m, [torch.zeros(3)])
    )
    with pytest.raises(torch.OutOfMemoryError):
        shared.modulate(model, trajectory, halves(16), config)
    handle.remove()


@pytest.mark.parametrize("places", [7, 256, 600])
def test_attention_in_blocks_is_attention(places):
    random = torch.Generator().manual_seed(0)
    query, key = (torch.randn(2, 3, places, 8, generator=random) for _ in range(2))
    values = torch.randn(2, 3, places, 40, generator=random)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, values)
    found = sharing.attended(query, key, values)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # The control: with the keys of another row it is another.
    assert not torch.allclose(sharing.attended(query, key.flip(0), values), expected, atol=0.1)


@pytest.mark.parametrize("case", CASES)
def test_segments_are_the_same(case):
    checkpoint, config, side = CASES[case]
    model = ep.load(checkpoint())
    config = config.replace(**SETTINGS)
    one, other = (
        ep.segment(
            model,
            SUBJECT,
            masks=halves(side)[:2].numpy() if side == 4 else 5,
            engine=engine,
            config=config,
            progress=False,
        )
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


def test_the_skipped_pass_reads_the_same_features():
    """Edit-friendly inversion knows its x_t, so features are read there in one call."""
    model = ep.load(tiny_playground())
    config = ep.EmerDiffConfig.playground().replace(**SETTINGS)
    run, config = made_for(model, SUBJECT, config)
    site = Site.parse(config.feature_site)
    with taps.capture(model.unet, [site]) as kept:
        steps = [(step, kept.take()[site]) for step in run.trajectory.run(model)]
    step, tensor = steps[-1]
    expected = tensor[0].numpy().reshape(16, 16, -1)
    np.testing.assert_allclose(
        run.features(site, config.feature_timestep), expected, rtol=1e-3, atol=1e-4
    )
    end = run.trajectory.latents[-1]
    torch.testing.assert_close(end, step.next_latents, rtol=1e-4, atol=1e-4)
