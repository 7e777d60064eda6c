"""Layouts: what is known of network classes, and what is refused, by name and with a reason."""

import inspect
from types import SimpleNamespace

import diffusers
import pytest
import torch
from torch import nn

from emerdiff_probe.errors import ModelError
from emerdiff_probe.models.arguments import given
from emerdiff_probe.models.layouts import LAYOUTS, layout_of, network_of
from tests.families import FAMILIES, flux


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_arguments_are_those_of_the_classes(layout):
    for name in layout.classes:
        known = inspect.signature(getattr(diffusers, name).forward).parameters
        asked = [layout.latents, "timestep", *layout.masks, *[layout.text] * bool(layout.text)]
        assert set(asked) <= set(known)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layout_is_found_by_class_compiled_or_not(family):
    pipeline = FAMILIES[family]()
    network = network_of(pipeline)
    assert layout_of(network).name == family
    assert network is getattr(pipeline, layout_of(network).attribute)
    assert layout_of(torch.compile(network)).name == family


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("WanTransformer3DModel", "films"),
        ("CogVideoXTransformer3DModel", "films"),
        ("UNet3DConditionModel", "films"),
        ("UNetSpatioTemporalConditionModel", "films"),
        ("HunyuanVideoTransformer3DModel", "films"),
        ("StableCascadeUNet", "Cascade"),
        ("StableAudioDiTModel", "sound"),
        ("PriorTransformer", "embeddings of images"),
        ("ControlNetModel", "adds to what another"),
        ("SomethingNew", "no layout describes"),
    ],
)
def test_others_are_refused_by_name_with_the_reason(name, reason):
    network = type(name, (nn.Module,), {})()
    with pytest.raises(ModelError, match=rf"(?s){name}.*{reason}"):
        layout_of(network)
    with pytest.raises(ModelError, match=name):
        layout_of(network_of(SimpleNamespace(transformer=network)))


def test_no_known_class_is_refused_by_a_pattern_too():
    for layout in LAYOUTS:
        for name in layout.classes:
            assert layout_of(type(name, (nn.Module,), {})()) is layout


def test_what_has_no_network_is_refused():
    with pytest.raises(ModelError, match="no denoising network"):
        network_of(SimpleNamespace(vae=nn.Linear(1, 1)))


def test_fractions_of_a_flow_are_timesteps_of_the_scheduler():
    network = flux().transformer
    for fraction, timestep in (
        (1.0, 1000),
        (0.75, 750),
        (0.5, 500),
        (0.25, 250),
        (0.87342, 873.42),
    ):
        call = {
            "hidden_states": torch.zeros(1, 6, 64),
            "timestep": torch.tensor([fraction]),
            "img_ids": torch.tensor([[0, y, x] for y in range(2) for x in range(3)]),
            "encoder_hidden_states": torch.zeros(1, 5, 32),
        }
        assert given(network, (), call).timestep == timestep


def test_packed_latents_are_unpacked_as_the_pipeline_does():
    pipeline = flux()
    latents = torch.randn(2, 16, 4, 6)
    packed = pipeline._pack_latents(latents, 2, 16, 4, 6)
    places = pipeline._prepare_latent_image_ids(2, 2, 3, "cpu", torch.float32)
    call = {"timestep": torch.ones(2), "img_ids": places}
    found = given(pipeline.transformer, (packed,), call).latents
    assert torch.equal(found, latents)
