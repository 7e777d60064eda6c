"""Interventions: each does what it says, where it says, and nothing beyond."""

import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.errors import CaptureError, ConfigError, SiteError
from emerdiff_probe.interventions import (
    Ablate,
    InjectAttention,
    Noise,
    Replace,
    Scale,
    Shift,
    Steer,
    attention_kept,
    intervene,
)
from emerdiff_probe.sites import Site
from emerdiff_probe.taps import capture
from tests.checkpoints import tiny_playground

LAYER = "up_blocks.1.attentions.2.transformer_blocks.0"
OUT, MIX = f"{LAYER}.attn2:out", f"{LAYER}.attn2:mix"
MAP = "up_blocks.1.attentions.2:out"


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


def noisy(rows, seed=0):
    return torch.randn(rows, 4, 32, 32, generator=torch.Generator().manual_seed(seed))


def seen(model, site, interventions=(), rows=2, guidance=1.0, timestep=281):
    """A site's tensor in a call, after the interventions."""
    with (
        intervene(model, interventions),
        capture(model.unet, [Site.parse(site)]) as taps,
    ):
        model.predict(noisy(rows), timestep, model.condition("a house", guidance))
        return taps.take()[Site.parse(site)]


def corner():
    mask = torch.zeros(16, 16)
    mask[0, :2] = torch.tensor([1.0, 0.5])
    return mask


@pytest.mark.parametrize("site", [OUT, MIX, MAP])
def test_a_shift_goes_to_the_masks_locations_alone(model, site):
    change = seen(model, site, [Shift(site, 10.0, mask=corner())]) - seen(model, site)
    if change.ndim == 3:
        change = change.transpose(1, 2).unflatten(2, (16, 16))
    expected = (10 * corner()).expand_as(change)
    torch.testing.assert_close(change, expected, rtol=1e-5, atol=1e-4)


def test_before_the_projection_a_shift_is_projected(model):
    """f(a + c M) - f(a) = c M times the sum of f's columns, f being linear (figure 14)."""
    change = seen(model, OUT, [Shift(MIX, 3.0, mask=corner())]) - seen(model, OUT)
    projection = model.unet.get_submodule(f"{LAYER}.attn2.to_out.0").weight.sum(1)
    expected = 3 * corner().reshape(1, 256, 1) * projection
    torch.testing.assert_close(change, expected.expand_as(change), rtol=1e-4, atol=1e-5)
    assert expected.abs().max() > 0.1


def test_each_kind_does_what_it_says(model):
    plain = seen(model, OUT)
    torch.testing.assert_close(seen(model, OUT, [Scale(OUT, 0.5)]), plain / 2)
    assert not seen(model, OUT, [Ablate(OUT)]).any()
    mean = seen(model, OUT, [Ablate(OUT, "mean")])
    torch.testing.assert_close(mean, plain.mean(1, keepdim=True).expand_as(plain))
    other = torch.randn(plain.shape[1:])
    assert torch.equal(seen(model, OUT, [Replace(OUT, other)])[1], other)
    assert torch.equal(seen(model, OUT, [Replace(OUT, plain)]), plain)
    ones = seen(model, OUT, [Steer(OUT, torch.full((24,), 7.0), 2.0)])
    torch.testing.assert_close(ones, seen(model, OUT, [Shift(OUT, 2.0)]))
    noise = seen(model, OUT, [Noise(OUT, 0.1)]) - plain
    assert noise.std() == pytest.approx(0.1, rel=0.05)
    torch.testing.assert_close(noise[0], noise[1], rtol=0, atol=1e-5)
    again, another = seen(model, OUT, [Noise(OUT, 0.1)]), seen(model, OUT, [Noise(OUT, 0.1, 1)])
    assert torch.equal(again, plain + noise)
    assert not torch.allclose(another, again, atol=0.1)


def test_limits_to_samples_halves_heads_and_tokens(model):
    plain = seen(model, OUT, guidance=3.0)
    change = seen(model, OUT, [Shift(OUT, 1.0, samples=[1], guidance="cond")], guidance=3.0) - plain
    # Rows are (uncond, cond) x (sample 0, sample 1).
    assert [bool(row.any()) for row in change] == [False, False, False, True]
    change = seen(model, MIX, [Ablate(MIX, heads=[1])]) - seen(model, MIX)
    width = change.shape[2] // model.unet.get_submodule(f"{LAYER}.attn2").heads
    assert change[:, :, width : 2 * width].any()
    assert not change[:, :, :width].any()
    key = f"{LAYER}.attn2:key"
    change = seen(model, key, [Shift(key, 1.0, tokens=[2, 3])]) - seen(model, key)
    assert change.any(2).any(0).nonzero().flatten().tolist() == [2, 3]


def test_masks_may_differ_by_sample_and_serve_both_halves(model):
    masks = torch.stack([corner(), 0 * corner()])
    change = seen(model, OUT, [Shift(OUT, 1.0, mask=masks)], guidance=3.0) - seen(
        model, OUT, guidance=3.0
    )
    assert [bool(row.any()) for row in change] == [True, False, True, False]


def test_timesteps_limit_and_one_that_never_comes_is_an_error(model):
    at = [Shift(OUT, 1.0, timesteps=[281])]
    assert not torch.equal(seen(model, OUT, at), seen(model, OUT))
    both = [*at, Scale(OUT, 1.0)]
    with pytest.raises(CaptureError, match=r"never took effect.*\[261\]"):
        seen(model, OUT, both, timestep=261)


def test_later_ones_see_what_earlier_ones_leave_and_blocks_nest(model):
    plain = seen(model, OUT)
    shift, double = Shift(OUT, 1.0), Scale(OUT, 2.0)
    torch.testing.assert_close(seen(model, OUT, [shift, double]), 2 * (plain + 1))
    torch.testing.assert_close(seen(model, OUT, [double, shift]), 2 * plain + 1)
    with intervene(model, [shift]):
        torch.testing.assert_close(seen(model, OUT, [double]), 2 * (plain + 1))
        torch.testing.assert_close(seen(model, OUT), plain + 1)
    assert torch.equal(seen(model, OUT), plain)


def test_anothers_attention_changes_something_ones_own_nothing(model):
    """Control and effect; of self-attention alone it is less than of all."""
    condition = model.condition("")
    with attention_kept(model) as own:
        plain = model.predict(noisy(1), 281, condition)
    with attention_kept(model, timesteps=[281]) as foreign:
        model.predict(noisy(1, seed=1), 281, condition)
        model.predict(noisy(1, seed=1), 261, condition)
    assert set(foreign) == {281}
    with intervene(model, [InjectAttention(own)]):
        assert torch.equal(model.predict(noisy(1), 281, condition), plain)
    found = {}
    for pattern in ("*", "*attn1"):
        with intervene(model, [InjectAttention(foreign, pattern)]):
            found[pattern] = model.predict(noisy(1), 281, condition)
            assert torch.equal(
                model.predict(noisy(1), 261, condition), _plainly(model, noisy(1), 261)
            )
    assert not torch.allclose(found["*"], plain, atol=1e-4)
    assert not torch.equal(found["*"], found["*attn1"])


def _plainly(model, x, timestep):
    return ep.load(model.pipeline).predict(x, timestep, model.condition(""))


def test_ones_own_pipeline_call_is_changed_and_left_as_it_was(model):
    def picture():
        generator = torch.Generator().manual_seed(1)
        return model.pipeline(
            "a tree",
            num_inference_steps=3,
            generator=generator,
            output_type="np",
            guidance_scale=3.0,
        ).images

    before = picture()
    with intervene(model.pipeline, Shift(OUT, 20.0, guidance="cond")):
        during = picture()
    assert abs(during - before).max() > 0.01
    with intervene(model.pipeline, Shift(OUT, 0.0)):
        assert (picture() == before).all()
    assert (picture() == before).all()


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: Shift("up_blocks.7:out", 1.0), SiteError, "closest"),
        (lambda: Shift(OUT, 1.0, guidance="cond"), ConfigError, "guided=True"),
        (lambda: Shift(OUT, "1"), ConfigError, "strength is '1'"),
        (lambda: Scale(OUT, float("nan")), ConfigError, "factor is nan"),
        (lambda: Noise(OUT, 1.0, seed=-1), ConfigError, "seed is -1"),
        (lambda: Ablate(OUT, samples=0), ConfigError, r"samples=\[0\]"),
        (lambda: Ablate(OUT, timesteps=281), ConfigError, r"timesteps=\[281\]"),
        (lambda: Ablate(OUT, timesteps=["281"]), ConfigError, "timesteps is '281'"),
        (lambda: Shift(OUT, 1.0, guidance="left"), ConfigError, "uncond"),
        (lambda: Shift(OUT, 1.0, heads=[0]), SiteError, "mix"),
        (lambda: Shift(MIX, 1.0, heads=[9]), SiteError, "9"),
        (lambda: Shift(OUT, 1.0, samples=[5]), SiteError, "samples"),
        (lambda: Shift(OUT, 1.0, mask=torch.ones(8, 8)), SiteError, "8, 8"),
        (lambda: Shift(MAP, 1.0, mask=torch.ones(8, 32)), SiteError, "8, 32"),
        (lambda: Steer(OUT, torch.zeros(24), 1.0), SiteError, "24"),
        (lambda: Replace(OUT, torch.ones(3, 3)), SiteError, "the replacement"),
        (lambda: Ablate(OUT, "median"), ConfigError, "mean"),
        (lambda: InjectAttention({}, "*attn9"), SiteError, "attn9"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_stays(model, make, error, words):
    before = seen(model, OUT)
    with pytest.raises(error, match=words):
        seen(model, OUT, [Shift(OUT, 1.0), make()])
    hooks = sum(
        len(each._forward_hooks) + len(each._forward_pre_hooks) for each in model.unet.modules()
    )
    assert hooks == 0
    assert torch.equal(seen(model, OUT), before)
