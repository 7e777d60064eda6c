"""Nulls and rivals: networks that know nothing, and what colour alone finds."""

import numpy as np
import pytest
import torch
import xarray as xr

import emerdiff_probe as ep
from emerdiff_probe.evaluation import rivals
from emerdiff_probe.scenes import scene
from tests.checkpoints import tiny_playground


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


def test_an_untrained_network_has_other_weights_and_spares_the_model(model):
    before = model.weights
    first, second = rivals.untrained(model, seed=1), rivals.untrained(model, seed=1)
    assert first.weights == second.weights != before
    assert model.pipeline.unet is model.unet
    assert ep.load(model.pipeline).weights == before


def test_a_shuffled_network_has_the_same_values_elsewhere(model):
    shuffled = rivals.shuffled(model)
    name, parameter = next(iter(model.unet.named_parameters()))
    other = dict(shuffled.unet.named_parameters())[name]
    assert not torch.equal(other, parameter)
    assert torch.equal(other.flatten().sort().values, parameter.flatten().sort().values)
    assert shuffled.weights == rivals.shuffled(model).weights != model.weights


def test_the_decoder_alone_moves_what_is_shifted(model):
    masks = xr.DataArray(np.zeros((2, 16, 16), np.float32), dims=("mask", "source_y", "source_x"))
    masks[0, :, :8] = 1
    masks[1, :, 8:] = 1
    maps = rivals.decoder_alone(model, scene(1).image, masks).values
    assert maps.shape == (2, 128, 128)
    assert maps[0, :, :40].mean() > maps[1, :, :40].mean()
    assert maps[0, :, 88:].mean() < maps[1, :, 88:].mean()


def test_colours_alone_find_colours():
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, 16:] = (200, 30, 30)
    labels = rivals.colour_and_position(picture, 2, weight=0.1)
    assert len(np.unique(labels[:, :16])) == len(np.unique(labels[:, 16:])) == 1
    assert len(np.unique(rivals.superpixels(picture, 8, compactness=10))) <= 8


def test_other_methods_segment_in_the_same_model(model):
    config = ep.EmerDiffConfig.playground().replace(steps=4)
    picture = scene(1).image
    found = rivals.other_methods(model, picture, 5, config)
    assert list(found) == ["DiffSeg", "TRACE, regions", "DiffCut", "Falcon"]
    for each in found.values():
        assert each.labels.shape == picture.shape[:2]
        assert each.labels.min() == 0
    assert 2 <= len(np.unique(found["Falcon"].labels)) <= 5
    again = rivals.other_methods(model, picture, 5, config)
    assert all(np.array_equal(again[name].labels, found[name].labels) for name in found)
