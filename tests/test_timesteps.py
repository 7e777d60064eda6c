"""Timesteps are numbers, and calls at the same one are told apart by their step."""

import numpy as np
import pytest
import xarray as xr

from emerdiff_probe.errors import InputError
from emerdiff_probe.timesteps import labels, matching, one_position, positions

HEUN = xr.Dataset(
    coords={
        "timestep": [999.0, 946.4247436523438, 946.4247436523438, 0.0],
        "step": ("timestep", [0, 1, 2, 3]),
    }
)


def test_fractions_are_found_as_they_are_written_and_repeats_are_all_there():
    assert positions(HEUN, [946.42]) == [1, 2]
    assert positions(HEUN, np.array([0, 999], np.float32)) == [3, 0]
    assert positions(HEUN, HEUN["timestep"]) == [0, 1, 2, 3]
    for absent in ([946], [998], [946.5], [1]):
        with pytest.raises(InputError, match=r"were not recorded; choices: 999, 946.42 \(step 1\)"):
            positions(HEUN, absent)


def test_one_call_is_chosen_by_its_step():
    assert one_position(HEUN, 946.42, 2) == one_position(HEUN, step=np.int64(2)) == 2
    assert one_position(HEUN, 999) == 0
    with pytest.raises(InputError, match=r"visited at steps 1, 2; choose one, as in step=1"):
        one_position(HEUN, 946.42)
    with pytest.raises(InputError, match="no call at timestep 999, step 2"):
        one_position(HEUN, 999, 2)


def test_an_equal_timestep_is_meant_before_a_close_one():
    assert matching([100.0, 100.005], 100.005) == [1]
    assert matching([100.0, 100.005], 100.002) == [0, 1]


def test_names_are_never_equal():
    close = xr.Dataset(coords={"timestep": [100.001, 100.002, 0.5]})
    assert labels(close) == ["100 (step 0)", "100 (step 1)", "0.5"]
