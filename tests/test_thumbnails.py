"""Photographs, scenes and runs as notebooks show them."""

import base64
import io
import re

import numpy as np
from PIL import Image

import emerdiff_probe as ep
from emerdiff_probe.thumbnails import thumbnail


def shown(text):
    data = re.search(r"data:image/png;base64,([^']+)", text)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_small_images_are_enlarged_on_the_screen_alone():
    pixels = np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3)
    text = thumbnail(pixels, "<b>a cat's")
    np.testing.assert_array_equal(shown(text), pixels)
    assert "width='256' height='128'" in text
    assert "&lt;b&gt;a cat&#x27;s" in text
    assert "<b>" not in text


def test_large_images_are_made_smaller():
    text = thumbnail(np.zeros((1200, 600, 3), np.uint8), "tall")
    assert shown(text).shape == (512, 256, 3)
    assert "width='128' height='256'" in text


def test_a_photo_shows_itself(tmp_path):
    pixels = np.full((20, 40, 3), 7, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    text = ep.Photo(tmp_path / "cat.png")._repr_html_()
    np.testing.assert_array_equal(shown(text), pixels)
    assert "cat.png, 20 x 40" in text
    assert "image, 20 x 40" in ep.Photo(pixels)._repr_html_()
    assert ep.Photo(tmp_path / "none.png")._repr_html_() is None


def test_a_scene_shows_its_caption():
    scene = ep.scenes.scene(5)
    text = scene._repr_html_()
    np.testing.assert_array_equal(shown(text), scene.image)
    assert scene.caption in text
    assert "scene 5 (train)" in text
