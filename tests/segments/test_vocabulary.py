import numpy as np
import pytest
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.segments import mask_pool, name_by_attention, name_segments

RNG = np.random.default_rng(0)

LABELS = np.kron([[0, 0, 2], [3, 3, 2]], np.ones((4, 4), int))  # no pixel is of segment 1
TEXTS = np.linalg.qr(RNG.normal(size=(6, 6))).Q[:3]
NAMES = ["sky", "house", "tree"]


def pixels(noise=0.5):
    """Segments 0, 2 and 3 are a tree, the sky and a house."""
    classes = np.array([2, -1, 0, 1])[LABELS]
    return 3 * TEXTS[classes] + noise * RNG.normal(size=(*LABELS.shape, 6))


class TestMaskPool:
    def test_is_the_mean_over_each_segment(self):
        values = pixels()
        pooled = mask_pool(LABELS, values)
        for segment in (0, 2, 3):
            assert pooled[segment].values == pytest.approx(values[segment == LABELS].mean(0))
        assert np.isnan(pooled[1]).all()
        named = xr.DataArray(values, dims=("y", "x", "channel")).transpose("channel", "x", "y")
        xr.testing.assert_identical(mask_pool(LABELS, named), pooled)

    def test_coarser_embeddings_are_interpolated(self):
        coarse = np.zeros((1, 2, 1))
        coarse[0, 1] = 1
        labels = np.array([[0, 1, 2, 3]])
        assert mask_pool(labels, coarse)[:, 0].values.tolist() == [0, 0.25, 0.75, 1]

    def test_refusals(self):
        with pytest.raises(InputError, match="number them from 0 up"):
            mask_pool(LABELS - 1, pixels())
        with pytest.raises(InputError, match="not finite; give finite"):
            mask_pool(LABELS, pixels()[0])
        with pytest.raises(InputError, match="expected integers"):
            mask_pool(LABELS * 1.0, pixels())


class TestNameSegments:
    def test_names_what_is_there(self):
        found = name_segments(LABELS, pixels(), TEXTS, NAMES)
        assert found["name"].values.tolist() == ["tree", "", "sky", "house"]
        assert found["classes"].values.tolist() == [2, -1, 0, 1]
        assert float(found["similarity"].sel(segment=0, word="tree")) > 0.9
        assert np.abs(found["similarity"].sel(segment=0, word="sky")) < 0.3

    def test_segments_sharpen_noisy_pixels(self):
        noisy = pixels(4)
        truth = np.array([2, -1, 0, 1])[LABELS]
        alone = (noisy @ TEXTS.T).argmax(-1)
        together = name_segments(LABELS, noisy, TEXTS, NAMES)["classes"].values[LABELS]
        assert (together == truth).mean() == 1 > 0.8 > (alone == truth).mean()

    def test_lengths_do_not_matter_and_exchanged_texts_do(self):
        values = pixels()
        plain = name_segments(LABELS, values, TEXTS, NAMES)
        scaled = name_segments(LABELS, values * 7, TEXTS * [[1], [5], [0.1]], NAMES)
        xr.testing.assert_allclose(plain, scaled)
        exchanged = name_segments(LABELS, values, TEXTS[[1, 0, 2]], NAMES)
        assert exchanged["name"].values.tolist() == ["tree", "", "house", "sky"]

    def test_a_function_is_given_the_picture(self):
        picture = RNG.integers(0, 256, (8, 12, 3), dtype=np.uint8)

        def embed(given):
            return given[::2, ::2] / 255.0

        found = name_segments(LABELS, embed, np.eye(3), ["r", "g", "b"], picture=picture)
        again = name_segments(LABELS, picture[::2, ::2] / 255.0, np.eye(3), ["r", "g", "b"])
        xr.testing.assert_identical(found, again)
        with pytest.raises(InputError, match="picture is missing"):
            name_segments(LABELS, embed, np.eye(3), ["r", "g", "b"])

    def test_refuses_texts_of_another_space(self):
        with pytest.raises(InputError, match="pixels of 6 channels"):
            name_segments(LABELS, pixels(), TEXTS[:, :5], NAMES)
        with pytest.raises(InputError, match="for 2 names"):
            name_segments(LABELS, pixels(), TEXTS, NAMES[:2])


class TestNameByAttention:
    def maps(self):
        """Token 0 is the begin of the text, 1 "tree", 2 and 3 "light house"."""
        maps = np.full((4, 4, 6), 0.05)
        maps[0] = 0.7
        maps[1, :2, :4] = 0.2
        maps[2, 2:, :4] = 0.15
        maps[3, 2:, :4] = 0.1
        return maps / maps.sum(0)

    def test_words_of_one_or_several_tokens(self):
        found = name_by_attention(
            LABELS, self.maps(), ["tree", "light house"], tokens=[[1], [2, 3]]
        )
        assert found["name"].values[[0, 3]].tolist() == ["tree", "light house"]
        assert found["classes"].values[1] == -1
        assert found["attention"].dims == ("segment", "word")

    def test_balance_decides_between_strong_words_and_places(self):
        words = {"words": ["begin", "tree", "house"], "tokens": [[0], [1], [2]]}
        plain = name_by_attention(LABELS, self.maps(), balance=False, **words)
        assert plain["name"].values[[0, 3]].tolist() == ["begin", "begin"]
        fair = name_by_attention(LABELS, self.maps(), **words)
        assert fair["name"].values[[0, 3]].tolist() == ["tree", "house"]
        flat = name_by_attention(LABELS, np.full((2, 4, 6), 0.5), ["a", "b"])
        assert flat["attention"].values[0].tolist() == [1, 1]

    def test_refusals(self):
        with pytest.raises(InputError, match="give each word its tokens"):
            name_by_attention(LABELS, self.maps(), ["tree"])
        with pytest.raises(InputError, match=r"tokens \[9\]; choose from 0 to 3"):
            name_by_attention(LABELS, self.maps(), ["tree"], tokens=[[9]])
