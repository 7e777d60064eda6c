"""The effect of an intervention: before, after, the difference, and numbers that are right."""

from types import SimpleNamespace

import numpy as np
import pytest

from emerdiff_probe.errors import InputError
from emerdiff_probe.views import effect


def ended(pixels, interventions=()):
    return SimpleNamespace(
        reconstruction=np.asarray(pixels, np.float32),
        size=(20, 40),
        interventions=interventions,
    )


def test_numbers_and_difference():
    before = np.full((10, 20, 3), 0.5)
    after = before.copy()
    after[:5, :, 0] += 0.2  # half of the pixels, one channel
    figure = effect(ended(before), ended(after, ("Ablate",)))
    title = figure.layout.title.text
    mean = 255 * 0.2 / 6
    decibels = 10 * np.log10(1 / (0.04 / 6))
    assert f"mean difference {mean:.1f} of 255" in title
    assert f"{decibels:.1f} dB" in title
    assert "50% of the pixels" in title
    assert "Ablate" in title
    shown = figure.data[-1]
    np.testing.assert_allclose(shown.z[:5], 0.2, atol=1e-6)
    assert not np.asarray(shown.z[5:]).any()
    # In pixels of the picture's own size, which is twice what the model sees.
    assert (shown.y0, shown.dy) == (1, 2)


def test_nothing_changed_is_infinitely_near():
    same = np.full((10, 20, 3), 0.5)
    title = effect(ended(same), ended(same)).layout.title.text
    assert "inf dB" in title
    assert "0% of the pixels" in title


def test_pictures_of_other_sizes_are_refused():
    with pytest.raises(InputError, match="compare a run with"):
        effect(ended(np.zeros((10, 20, 3))), ended(np.zeros((10, 10, 3))))
