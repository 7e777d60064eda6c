import json

import numpy as np
import pytest
import xarray as xr

from emerdiff_probe.errors import StoreError
from emerdiff_probe.schema import SEGMENTATION, check, pixel_centres


@pytest.fixture
def segmentation():
    """The smallest dataset of the form: 6 x 8 pixels, 2 x 2 latent locations, 3 masks."""
    y, x, h, w, masks, channels = 6, 8, 2, 2, 3, 5
    zeros = np.zeros
    return xr.Dataset(
        {
            "labels": (("y", "x"), zeros((y, x), np.int16)),
            "strength": (("y", "x"), zeros((y, x), np.float32)),
            "margin": (("y", "x"), zeros((y, x), np.float32)),
            "low_res": (("source_y", "source_x"), zeros((h, w), np.int16)),
            "masks": (("mask", "source_y", "source_x"), zeros((masks, h, w), np.float32)),
            "difference": (("mask", "model_y", "model_x"), zeros((masks, 4, 4), np.float32)),
            "embeddings": (("mask", "channel"), zeros((masks, channels), np.float32)),
            "features": (("source_y", "source_x", "channel"), zeros((h, w, channels), np.float32)),
            "picture": (("y", "x", "rgb"), zeros((y, x, 3), np.uint8)),
            "reconstruction": (("model_y", "model_x", "rgb"), zeros((4, 4, 3), np.float32)),
        },
        coords={
            "y": pixel_centres(y, y),
            "x": pixel_centres(x, x),
            "source_y": pixel_centres(h, y),
            "source_x": pixel_centres(w, x),
            "model_y": pixel_centres(4, y),
            "model_x": pixel_centres(4, x),
            "mask": np.arange(masks),
            "rgb": ["r", "g", "b"],
        },
        attrs={
            "schema": SEGMENTATION,
            "model": "playground",
            "weights": "sha256:0",
            "engine": "literal",
            "source": "photo cat",
            "fit": "unchanged",
            "config": "{}",
            "versions": "{}",
            "inversion": json.dumps({"kind": "edit-friendly"}),
        },
    )


def test_pixel_centres_by_hand():
    np.testing.assert_array_equal(pixel_centres(4, 4), [0.5, 1.5, 2.5, 3.5])
    np.testing.assert_array_equal(pixel_centres(2, 128), [32, 96])


def test_a_whole_dataset_passes_also_after_storing(segmentation, tmp_path):
    check(segmentation)
    segmentation.to_zarr(tmp_path / "cat.zarr")
    check(xr.open_zarr(tmp_path / "cat.zarr"))


def test_more_than_the_schema_names_is_allowed(segmentation):
    check(segmentation.assign(uncertainty=("y", np.zeros(6))).assign_attrs(note="mine"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda ds: ds.assign_attrs(schema="segmentation/9"), "schema is 'segmentation/9'"),
        (lambda ds: ds.drop_attrs(), "schema is None"),
        (lambda ds: ds.assign_attrs(weights=None), "attribute weights is None"),
        (lambda ds: ds.assign_attrs(config="{"), "attribute config is not JSON"),
        (lambda ds: ds.drop_vars("margin"), "no variable 'margin'"),
        (lambda ds: ds.assign(labels=ds.labels.T), "labels has dims"),
        (lambda ds: ds.assign(labels=ds.labels.astype(int)), "labels is int64, not int16"),
        (lambda ds: ds.drop_vars("source_y"), "no coordinate 'source_y'"),
        (lambda ds: ds.assign_coords(source_y=[0.0, 1.0]), "coordinate 'source_y'"),
        (lambda ds: ds.assign_coords(mask=[1, 2, 3]), "coordinate 'mask'"),
        (lambda ds: ds.assign_coords(rgb=["b", "g", "r"]), "coordinate 'rgb'"),
        (lambda ds: ds.assign(labels=ds.labels + np.int16(3)), "labels runs from 3 to 3"),
        (lambda ds: ds.assign(margin=ds.margin + np.float32(1.5)), "margin runs from 1.5"),
        (lambda ds: ds.assign(strength=ds.strength - np.float32(1)), "strength runs from -1"),
        (lambda ds: ds.assign(features=ds.features * np.float32(np.nan)), "features has values"),
    ],
)
def test_what_is_wrong_is_named(segmentation, damage, message):
    with pytest.raises(StoreError, match=message):
        check(damage(segmentation))
