"""The literal engine: exact where theory says so, with controls that it could fail."""

import pytest
import torch

import emerdiff_probe as ep
from emerdiff_probe.emerdiff import modulate
from emerdiff_probe.emerdiff.asking import made_for
from emerdiff_probe.errors import ConfigError, SiteError
from emerdiff_probe.interventions import InjectAttention, Shift, intervene, products_captured
from emerdiff_probe.scenes import scene
from emerdiff_probe.sites import Site
from tests.checkpoints import stable_diffusion, tiny_playground

CONFIG = ep.EmerDiffConfig.playground().replace(
    steps=10, feature_timestep=1, modulation_timestep=201
)
SITE = Site.parse(CONFIG.modulation_site)


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


@pytest.fixture(scope="module")
def run(model):
    return made_for(model, ep.Photo(scene(1_000_000).image), CONFIG)[0]


@pytest.fixture(scope="module")
def masks():
    """The left and the right half of the 16 x 16 locations."""
    left = torch.zeros(16, 16)
    left[:, :8] = 1
    return torch.stack([left, 1 - left])


def noisy(seed):
    return torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(seed))


def test_own_attention_changes_nothing_and_anothers_does(model):
    condition = model.condition("a house", guidance=3)
    x, other = noisy(0), noisy(1)
    with products_captured(model.unet) as taps:
        plain = model.predict(x, 281, condition)
        own = taps.take()
        model.predict(other, 281, condition)
        foreign = taps.take()
    with intervene(model, [InjectAttention({281: [own]})]):
        assert torch.equal(model.predict(x, 281, condition), plain)
    with intervene(model, [InjectAttention({281: [foreign]})]):
        assert not torch.allclose(model.predict(x, 281, condition), plain, atol=1e-4)


def test_injection_serves_each_row_of_a_batch(model):
    """Rows of guidance halves meet the products of their own half."""
    condition = model.condition("a house", guidance=3)
    x = noisy(0)
    with products_captured(model.unet) as taps:
        plain = model.predict(x, 281, condition)
        own = taps.take()
    with intervene(model, [InjectAttention({281: [own]})]):
        many = model.predict(x.expand(3, -1, -1, -1), 281, condition)
    torch.testing.assert_close(many, plain.expand(3, -1, -1, -1), rtol=1e-4, atol=1e-5)


def test_a_shift_adds_to_all_channels_of_its_locations(model):
    seen = []
    module = model.unet.get_submodule(SITE.path)
    mask = torch.zeros(2, 16, 16)
    mask[0, 1, 1] = 1
    x = noisy(0).expand(2, -1, -1, -1)
    condition = model.condition("")
    handle = module.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    model.predict(x, 281, condition)
    handle.remove()
    with intervene(model, [Shift(str(SITE), 10.0, mask=mask)]):
        # Registered after the shift's hook, so it sees what the shift leaves.
        handle = module.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
        model.predict(x, 281, condition)
        handle.remove()
    change = seen[1] - seen[0]
    torch.testing.assert_close(change[0, 17], torch.full_like(change[0, 17], 10.0))
    change[0, 17] = 0
    assert not change.any()


def test_masks_that_do_not_fit_the_site_are_refused(model):
    wrong = Shift("up_blocks.0.attentions.0.transformer_blocks.0.attn2", 1, mask=torch.ones(16, 16))
    with pytest.raises(SiteError, match="16, 16"), intervene(model, [wrong]):
        model.predict(noisy(0), 281, model.condition(""))


def test_the_unmodulated_run_is_the_trajectory(model, run, masks):
    result = modulate(model, run.trajectory, masks, CONFIG)
    *_, last = run.trajectory.run(model)
    torch.testing.assert_close(result.unmodulated, last.next_latents, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("injection", [True, False])
def test_a_tiny_strength_gives_a_tiny_response_and_the_papers_a_large_one(
    model, run, masks, injection
):
    responses = []
    for strength in (1e-6, 10.0):
        config = CONFIG.replace(strength=strength, injection=injection)
        result = modulate(model, run.trajectory, masks, config)
        responses.append((result.plus - result.minus).abs().max())
    assert responses[0] < 1e-4
    assert responses[1] > 0.05


def test_empty_masks_change_nothing(model, run):
    result = modulate(model, run.trajectory, torch.zeros(1, 16, 16), CONFIG)
    torch.testing.assert_close(result.plus, result.unmodulated, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(result.minus, result.unmodulated, rtol=1e-4, atol=1e-5)


def test_the_order_and_the_batches_do_not_matter(model, run, masks):
    together = modulate(model, run.trajectory, masks, CONFIG)
    alone = modulate(model, run.trajectory, masks.flip(0), CONFIG.replace(batch=1))
    torch.testing.assert_close(together.plus, alone.plus.flip(0), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(together.minus, alone.minus.flip(0), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(together.plus[0], together.plus[1], atol=1e-2)


def test_a_location_moves_what_lies_over_it_most(model, run):
    mask = torch.zeros(1, 16, 16)
    mask[0, 3, 12] = 1
    result = modulate(model, run.trajectory, mask, CONFIG)
    moved = (result.plus - result.minus)[0].norm(dim=0)
    near = moved[4:10, 22:28].mean()
    far = moved[20:, :12].mean()
    assert near > 3 * far


def test_injection_matters(model, run, masks):
    with_products = modulate(model, run.trajectory, masks, CONFIG)
    without = modulate(model, run.trajectory, masks, CONFIG.replace(injection=False))
    assert not torch.allclose(with_products.plus, without.plus, atol=1e-4)
    assert torch.equal(with_products.unmodulated, without.unmodulated)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_stable_diffusion_layouts_run_with_the_papers_sites(version):
    model = ep.load(stable_diffusion(version))
    config = ep.EmerDiffConfig.closest_to_paper().replace(steps=10, modulation_timestep=201)
    run = made_for(model, ep.Photo(scene(1_000_001).image), config)[0]
    assert run.features(config.feature_site, 1).shape == (4, 4, 64)
    masks = torch.zeros(2, 4, 4)
    masks[0, :, :2], masks[1, :, 2:] = 1, 1
    result = modulate(model, run.trajectory, masks, config)
    assert (result.plus - result.minus).abs().max() > 1e-3
    assert torch.isfinite(result.plus).all()


def test_a_timestep_off_the_trajectory_is_refused(model, run, masks):
    with pytest.raises(ConfigError, match="t_m = 205"):
        modulate(model, run.trajectory, masks, CONFIG.replace(modulation_timestep=205))


def test_a_model_is_left_as_found_when_interrupted(model, run, masks, monkeypatch):
    before = model.predict(noisy(2), 281, model.condition(""))
    calls = iter(range(100))

    def interrupt(*_):
        if next(calls) == 3:
            raise KeyboardInterrupt

    handle = model.unet.conv_in.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        modulate(model, run.trajectory, masks, CONFIG)
    handle.remove()
    hooks = [len(module._forward_hooks) for module in model.unet.modules()]
    assert sum(hooks) == 0
    assert torch.equal(model.predict(noisy(2), 281, model.condition("")), before)
