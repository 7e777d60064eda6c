"""From noise to the picture: latents in one basis, predictions as they are."""

import numpy as np
import pytest
import xarray as xr

import emerdiff_probe as ep
from emerdiff_probe import views
from emerdiff_probe.errors import InputError
from tests.datasets import recording
from tests.views.drawn import images


def predictions(timesteps, dtype):
    values = np.arange(len(timesteps) * 4 * 8 * 3).reshape(-1, 4, 8, 3) % 256
    values = values.astype(np.uint8) if dtype == "uint8" else values / 255
    dims = ("timestep", "y", "x", "rgb")
    return xr.DataArray(values, dims=dims, coords={"timestep": timesteps})


def test_latents_are_followed_by_the_picture():
    run = recording()
    shown = images(views.trajectory(run, [981, 1], sample=1))
    assert [each.shape for each in shown] == [(8, 16, 3), (8, 16, 3), (32, 64, 3)]
    np.testing.assert_array_equal(shown[-1], ep.site(run, "image")[1])
    last = ep.site(run, "latents")[1].sel(timestep=1).values.reshape(-1, 4).astype(float)
    colours = shown[1].reshape(-1, 3) / 255
    # The basis is that of the last latents: their colours are uncorrelated, those of noise are not.
    inner = colours[((colours > 0) & (colours < 1)).all(1)]
    assert len(inner) > 100
    assert colours.mean() == pytest.approx(0.5, abs=0.02)
    correlation = np.corrcoef(colours.T)[np.triu_indices(3, 1)]
    other = np.corrcoef(shown[0].reshape(-1, 3).T)[np.triu_indices(3, 1)]
    assert np.abs(correlation).max() < 0.05 < np.abs(other).max()
    assert np.linalg.matrix_rank(last - last.mean(0)) == 4


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_predictions_stand_below_as_they_are(dtype):
    given = predictions([981, 281, 1], dtype)
    shown = images(views.trajectory(recording(), [281, 1], predicted=given))
    expected = predictions([981, 281, 1], "uint8")
    np.testing.assert_array_equal(shown[3], expected.sel(timestep=281))
    np.testing.assert_array_equal(shown[4], expected.sel(timestep=1))


def test_predictions_of_other_timesteps_are_refused():
    with pytest.raises(InputError, match="no timestep 281; it has 981, 1"):
        views.trajectory(recording(), [281, 1], predicted=predictions([981, 1], "uint8"))
