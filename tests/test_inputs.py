import io
import os
import struct
import zlib

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from emerdiff_probe.errors import InputError
from emerdiff_probe.inputs import Latents, Photo, Prompt, as_input, fit, unique_names

RED, GREEN, WHITE = (255, 0, 0), (0, 255, 0), (255, 255, 255)


@pytest.fixture
def gradient():
    """(20, 24, 3): every pixel another colour, so that any mix-up of axes shows."""
    y, x = np.mgrid[:20, :24]
    return np.stack([y * 12, x * 10, (y + x) * 5], axis=-1).astype(np.uint8)


def png_header(width, height):
    """A PNG that claims a size and holds nothing."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"")


class TestPrompt:
    def test_the_empty_text_is_a_prompt(self):
        assert Prompt("") == Prompt("", seed=0)

    @pytest.mark.parametrize("text", [None, 3, b"bytes", ["a"]])
    def test_refuses_what_is_no_text(self, text):
        with pytest.raises(InputError, match="a prompt is a text"):
            Prompt(text)

    @pytest.mark.parametrize("seed", [-1, 1.5, True, "0", None, 2**63])
    def test_refuses_what_is_no_seed(self, seed):
        with pytest.raises(InputError, match=r"seed is .*; choose an integer from 0"):
            Prompt("a cat", seed=seed)

    def test_a_seed_of_numpy_is_pythons_own(self):
        prompt = Prompt("a cat", seed=np.int64(3))
        assert prompt == Prompt("a cat", seed=3)
        assert type(prompt.seed) is int

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"negative_prompt": None}, "a prompt is a text, not None"),
            ({"height": 0}, "height is 0; choose an integer"),
            ({"width": 128.0}, "width is 128.0; choose an integer"),
            ({"clip_skip": -1}, "clip_skip is -1; choose an integer"),
            ({"prompt_embeds": np.zeros((2, 7, 24))}, r"prompt_embeds has shape \(2, 7, 24\)"),
            ({"prompt_embeds": np.full((7, 24), np.nan)}, "give finite values"),
            ({"pooled_prompt_embeds": np.zeros(24)}, "come with prompt_embeds"),
            ({"prompt_embeds": np.zeros((7, 24)), "clip_skip": 1}, "give one of the two"),
        ],
    )
    def test_refuses_what_it_cannot_draw_from(self, options, message):
        with pytest.raises(InputError, match=message):
            Prompt("a cat", **options)

    def test_says_all_that_tells_it_from_others(self):
        plain, embeddings = Prompt("a cat"), np.arange(6.0).reshape(1, 2, 3)
        assert plain.described == "prompt"
        one, other = (Prompt("a cat", prompt_embeds=each) for each in (embeddings, embeddings + 1))
        assert one == Prompt("a cat", prompt_embeds=embeddings[0])
        assert len({plain, one, other, Prompt("a cat", clip_skip=1)}) == 4
        assert one.described == f"prompt, embeddings {one.embedded}"
        sized = Prompt("a cat", width=np.int64(192), clip_skip=2)
        assert sized.described == "prompt, usual x 192 (height x width), clip_skip 2"


class TestPhoto:
    def test_path_image_and_array_are_the_same_picture(self, gradient, tmp_path):
        path = tmp_path / "cat.png"
        Image.fromarray(gradient).save(path)
        for image in (path, str(path), Image.fromarray(gradient), gradient):
            rgb = Photo(image).rgb()
            assert rgb.dtype == np.uint8
            np.testing.assert_array_equal(rgb, gradient)

    def test_name(self, gradient):
        assert Photo("holiday/cat.small.png").name == "cat.small"
        assert Photo(gradient).name == "picture"

    def test_the_result_is_the_callers_own(self, gradient):
        Photo(gradient).rgb()[:] = 0
        assert gradient.any()

    def test_the_orientation_tag_is_obeyed(self, gradient, tmp_path):
        image = Image.fromarray(gradient)
        exif = image.getexif()
        exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
        image.save(tmp_path / "turned.png", exif=exif)
        rgb = Photo(tmp_path / "turned.png").rgb()
        np.testing.assert_array_equal(rgb, np.rot90(gradient, k=-1))

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
    def test_what_is_transparent_shows_white(self, mode):
        rgba = np.zeros((16, 16, 4), np.uint8)
        rgba[8:, :, 3] = 255
        rgb = Photo(Image.fromarray(rgba).convert(mode)).rgb()
        assert (rgb[:8] == 255).all()
        assert (rgb[8:] == 0).all()

    def test_half_transparent_black_is_grey(self):
        rgba = np.zeros((16, 16, 4), np.uint8)
        rgba[..., 3] = 128
        assert (Photo(rgba).rgb() == 127).all()

    @pytest.mark.parametrize("mode", ["La", "RGBa"])
    def test_premultiplied_opacity(self, mode):
        straight = Image.new("LA" if mode == "La" else "RGBA", (16, 16), 0)
        assert (Photo(straight.convert(mode)).rgb() == 255).all()

    def test_a_palette_and_its_transparent_entry(self, tmp_path):
        image = Image.new("P", (16, 16), 0)
        image.putpalette([*RED, *GREEN])
        image.paste(1, (0, 0, 16, 8))
        image.save(tmp_path / "opaque.png")
        image.save(tmp_path / "see_through.png", transparency=1)
        opaque = Photo(tmp_path / "opaque.png").rgb()
        assert tuple(opaque[0, 0]) == GREEN
        assert tuple(opaque[15, 0]) == RED
        see_through = Photo(tmp_path / "see_through.png").rgb()
        assert tuple(see_through[0, 0]) == WHITE
        assert tuple(see_through[15, 0]) == RED

    def test_greyscale_black_and_white_and_arrays_without_channels(self):
        grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
        for image in (grey, Image.fromarray(grey)):
            np.testing.assert_array_equal(Photo(image).rgb(), np.dstack([grey] * 3))
        assert tuple(Photo(Image.new("1", (16, 16), 1)).rgb()[0, 0]) == WHITE

    def test_16_bit_greys_are_scaled_not_clipped(self, tmp_path):
        deep = (np.arange(256) * 257).astype(np.uint16).reshape(16, 16)
        for ending in ("png", "tiff"):
            Image.fromarray(deep).save(tmp_path / f"deep.{ending}")
            rgb = Photo(tmp_path / f"deep.{ending}").rgb()
            np.testing.assert_array_equal(rgb[..., 0].ravel(), np.arange(256))
        with pytest.raises(InputError, match="70000"):
            Photo(Image.fromarray(np.full((16, 16), 70000, np.int32))).rgb()

    def test_cmyk(self, tmp_path):
        Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
        np.testing.assert_allclose(Photo(tmp_path / "red.jpg").rgb()[0, 0], RED, atol=8)

    def test_floats(self):
        floats = np.linspace(0, 1, 256, dtype=np.float32).reshape(16, 16)
        np.testing.assert_array_equal(Photo(floats).rgb()[..., 0].ravel(), np.arange(256))
        np.testing.assert_array_equal(Photo(Image.fromarray(floats)).rgb(), Photo(floats).rgb())

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.full((16, 16, 3), np.nan), "from nan to nan"),
            (np.full((16, 16, 3), 255.0), "from 255.0 to 255.0"),
            (np.full((16, 16, 3), -0.1), "from -0.1"),
            (np.full((16, 16, 3), np.inf), "from inf"),
            (np.zeros((16, 16, 3), np.int64), "an image of int64; choose uint8"),
            (np.zeros((16, 16, 3), bool), "an image of bool"),
            (np.zeros((3, 16, 16), np.uint8), r"shape \(3, 16, 16\) is not an image"),
            (np.zeros(16, np.uint8), r"shape \(16,\)"),
            (np.zeros((1, 1, 3), np.uint8), "the array has 1 x 1 pixels"),
            (np.zeros((16, 15), np.uint8), "15 x 16 pixels"),
            (np.zeros((0, 16), np.uint8), "16 x 0 pixels"),
        ],
    )
    def test_refuses_arrays_that_are_no_picture(self, array, message):
        with pytest.raises(InputError, match=message):
            Photo(array).rgb()

    def test_refuses_other_types(self):
        with pytest.raises(InputError, match="a path, a Pillow image or a NumPy array"):
            Photo([[0]]).rgb()

    def test_a_missing_file_names_its_neighbours(self, gradient, tmp_path):
        Image.fromarray(gradient).save(tmp_path / "cat.png")
        with pytest.raises(InputError, match=r"no file '.*cot.png'.*closest: 'cat.png'"):
            Photo(tmp_path / "cot.png").rgb()
        with pytest.raises(InputError, match="there are none"):
            Photo(tmp_path / "nowhere" / "cat.png").rgb()

    def test_a_folder(self, gradient, tmp_path):
        Image.fromarray(gradient).save(tmp_path / "cat.png")
        with pytest.raises(InputError, match=r"is a folder.*'cat.png'"):
            Photo(tmp_path).rgb()

    @pytest.mark.parametrize("error", [ValueError, SyntaxError, RuntimeError, MemoryError, OSError])
    def test_whatever_pillow_raises_is_an_input_error(self, tmp_path, monkeypatch, error):
        Image.new("RGB", (32, 32)).save(tmp_path / "cat.png")
        broken = lambda *_, **__: (_ for _ in ()).throw(error("broken"))  # noqa: E731
        monkeypatch.setattr(Image, "open", broken)
        with pytest.raises(InputError, match=r"cat\.png' cannot be (read|decoded)"):
            Photo(tmp_path / "cat.png").rgb()

    @pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800", "~nobody-of-this-name/a"])
    def test_paths_that_no_file_can_have(self, name):
        with pytest.raises(InputError, match="cannot be used as a path"):
            Photo(f"{name}.png").rgb()
        assert as_input(name) == Prompt(name)  # but for a text it is as good as any

    def test_a_pipe_is_not_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(InputError, match="is not a file"):
            Photo(tmp_path / "pipe.png").rgb()

    def test_sixteen_bits_round_to_the_nearest(self):
        values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
        rgb = Photo(Image.fromarray(values)).rgb()
        np.testing.assert_array_equal(rgb[..., 0], np.rint(values / 257))

    @pytest.mark.parametrize("content", [b"", b"I am no picture\n" * 20])
    def test_a_text_named_png(self, tmp_path, content):
        (tmp_path / "text.png").write_bytes(content)
        with pytest.raises(InputError, match="not an image that Pillow can read"):
            Photo(tmp_path / "text.png").rgb()

    @pytest.mark.parametrize("form", ["png", "jpeg", "gif", "webp", "tiff"])
    def test_a_file_cut_short(self, tmp_path, form):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, form)
        path = tmp_path / f"cut.{form}"
        path.write_bytes(buffer.getvalue())
        assert Photo(path).rgb().shape == (64, 64, 3)  # whole, it can be read
        path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        with pytest.raises(InputError, match=r"cut\."):
            Photo(path).rgb()

    @pytest.mark.parametrize(
        ("width", "height"), [(20_000, 20_000), (8_001, 8_000), (10_000, 9_000)]
    )
    def test_a_huge_picture_is_refused_by_its_header(self, tmp_path, width, height):
        (tmp_path / "huge.png").write_bytes(png_header(width, height))
        with pytest.raises(InputError, match=r"at most 64 million. Resize it first"):
            Photo(tmp_path / "huge.png").rgb()

    def test_the_largest_picture_gets_past_the_limit(self, tmp_path):
        (tmp_path / "large.png").write_bytes(png_header(8_000, 8_000))
        with pytest.raises(InputError, match="cannot be decoded"):  # for it holds nothing
            Photo(tmp_path / "large.png").rgb()

    def test_a_single_pixel(self, tmp_path):
        Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
        with pytest.raises(InputError, match=r"1 x 1 pixels.*at least 16"):
            Photo(tmp_path / "dot.png").rgb()


class TestFit:
    def test_the_right_size_keeps_its_exact_pixels(self):
        rgb = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
        fitted = fit(rgb, side=128, multiple=16)
        np.testing.assert_array_equal(fitted.pixels, rgb / np.float32(255))
        assert fitted.pixels.dtype == np.float32
        assert fitted.method == "unchanged, 128 x 128 (height x width)"

    def test_a_result_is_unchanged_by_a_second_time(self):
        pixels = fit(np.zeros((300, 400, 3), np.uint8), side=512, multiple=64).pixels
        again = fit((pixels * 255).astype(np.uint8), side=512, multiple=64)
        assert again.method.startswith("unchanged")

    @pytest.mark.parametrize(
        ("height", "width", "expected"),
        [
            (64, 64, (128, 128)),
            (1000, 1000, (128, 128)),
            (300, 400, (96, 128)),  # exactly 3 to 4; rounding each side alone gives 96 x 160
            (400, 300, (128, 96)),
            (16, 1600, (64, 256)),  # 100 to 1 is stretched to 4 to 1
            (1600, 16, (256, 64)),
        ],
    )
    def test_sizes_by_hand(self, height, width, expected):
        fitted = fit(np.zeros((height, width, 3), np.uint8), side=128, multiple=32)
        assert fitted.pixels.shape == (*expected, 3)
        assert (fitted.height, fitted.width) == (height, width)

    @given(
        height=st.integers(16, 5000),
        width=st.integers(16, 5000),
        side=st.sampled_from([128, 512, 1024]),
        multiple=st.sampled_from([8, 16, 64]),
    )
    def test_sizes_in_general(self, height, width, side, multiple):
        from emerdiff_probe.inputs import _fitted_size

        new_height, new_width = _fitted_size(height, width, side, multiple)
        assert new_height % multiple == new_width % multiple == 0
        assert min(new_height, new_width) >= side // 2
        assert max(new_height, new_width) <= 2 * side
        assert side**2 / 2 <= new_height * new_width <= side**2 * 2
        if 1 / 3.5 < width / height < 3.5:
            stretch = (new_width / new_height) / (width / height)
            assert 1 / (1 + multiple / side * 2) < stretch < 1 + multiple / side * 2

    def test_shrinking_averages(self):
        rgb = np.zeros((256, 256, 3), np.uint8)
        rgb[::2] = 255  # without antialiasing: all black or all white
        pixels = fit(rgb, side=128, multiple=8).pixels
        np.testing.assert_allclose(pixels[2:-2], 0.5, atol=0.05)
        assert "Lanczos from 256 x 256 to 128 x 128" in fit(rgb, side=128, multiple=8).method

    def test_the_picture_stays_upright(self):
        rgb = np.zeros((100, 200, 3), np.uint8)
        rgb[:50, :100] = RED
        pixels = fit(rgb, side=64, multiple=16).pixels
        height, width = pixels.shape[:2]
        np.testing.assert_allclose(pixels[height // 4, width // 4], (1, 0, 0), atol=0.01)
        np.testing.assert_allclose(pixels[height * 3 // 4, width // 4], 0, atol=0.01)


def test_latents_of_any_kind_are_channel_y_x():
    array = np.arange(24, dtype=np.float64).reshape(2, 3, 4)
    labelled = xr.DataArray(array, dims=("channel", "y", "x")).expand_dims("sample")
    for values in (array, array[None], labelled, labelled.transpose("x", "sample", "y", "channel")):
        given = Latents(values).array()
        assert given.dtype == np.float32
        assert np.array_equal(given, array)
    for values, message in (
        (array[0], r"\(3, 4\); choose"),
        (np.stack([array, array]), "choose"),
        (xr.concat([labelled, labelled], "sample"), r"\.isel\(\)"),
        (np.full((2, 3, 4), np.nan), "not finite"),
    ):
        with pytest.raises(InputError, match=message):
            Latents(values).array()


def test_what_is_given_is_taken_where_no_confusion_is_possible(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("a red house", "PNG")  # a picture without an ending
    assert as_input("a red house").file == "a red house"
    assert as_input("a blue house") == Prompt("a blue house")
    assert as_input("a blue house", seed=3).seed == 3
    assert as_input("CAT.JPG").file == "CAT.JPG"
    assert as_input("x" * 5000).text == "x" * 5000
    photo = Photo("cat.jpg")
    assert as_input(photo) is photo
    assert isinstance(as_input(np.zeros((20, 20, 3), np.uint8)), Photo)
    for strange in (np.zeros((20, 20, 3)), None, 3, ["a"]):
        with pytest.raises(InputError, match=r"ep\.Latents\(values\)"):
            as_input(strange)


def test_names_are_made_unique():
    names = ["a", "a (2)", "a", "b", "a"]
    found = unique_names(names)
    assert found == ["a", "a (2)", "a (3)", "b", "a (4)"]
    assert len(set(found)) == len(names)


def test_several_inputs_where_one_is_asked_for_are_told_where_they_go():
    with pytest.raises(InputError, match=r"not a list of 2; .*ep\.record"):
        as_input(["a red house", "a blue car"])
