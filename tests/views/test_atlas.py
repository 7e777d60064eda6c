"""Tables of measures: every number where its labels say, and scales that do not lie."""

import numpy as np
import pytest
import xarray as xr

from emerdiff_probe import views
from emerdiff_probe.errors import InputError
from emerdiff_probe.views.panels import site_text
from tests.views.drawn import HOSTILE, assert_escaped

SITES = ["down_blocks.0:out", "up_blocks.1.attentions.0.transformer_blocks.0.attn1:query"]


def measure(values, other="timestep", name="accuracy"):
    coords = {"site": SITES, "timestep": [981, 1], "site2": SITES}
    dims = ("site", other)
    chosen = {dim: coords[dim] for dim in dims}
    return xr.DataArray(np.array(values, float), dims=dims, coords=chosen, name=name)


def test_sites_are_rows_and_timesteps_columns():
    figure = views.atlas(measure([[0.25, 0.5], [0.75, np.nan]]).transpose("timestep", "site"))
    table = figure.data[0]
    np.testing.assert_array_equal(table.z, [[0.25, 0.5], [0.75, np.nan]])
    assert list(table.y) == ["down 0", "up 1 attention 0.0 self query"]
    assert list(table.x) == ["981", "1"]
    assert [list(row) for row in table.text] == [["0.25", "0.50"], ["0.75", ""]]
    assert (table.zmin, table.zmax) == (0.25, 0.75)
    assert figure.layout.yaxis.autorange == "reversed"


def test_sites_by_sites_at_a_timestep():
    values = measure([[1, -0.5], [-0.5, 1]], "site2", "cka").assign_coords(timestep=281)
    figure = views.atlas(values)
    np.testing.assert_array_equal(figure.data[0].z, values)
    assert "t = 281" in figure.layout.title.text
    assert (figure.data[0].zmin, figure.data[0].zmax) == (-1, 1), "zero is in the middle"
    assert views.atlas(values, limits=(0, 1)).data[0].zmin == 0


def test_names_of_measures_are_escaped():
    assert_escaped(views.atlas(measure([[0, 1], [2, 3]], name=HOSTILE)))


@pytest.mark.parametrize(
    "values",
    [
        measure([[0, 1], [2, 3]]).expand_dims(fold=2),
        measure([[0, 1], [2, 3]]).isel(timestep=0),
        measure([[0, 1], [2, 3]]).expand_dims(site2=SITES),
    ],
)
def test_other_dims_are_refused(values):
    with pytest.raises(InputError, match="site and"):
        views.atlas(values)


def test_nothing_to_show_is_refused():
    with pytest.raises(InputError, match="no finite value"):
        views.atlas(measure(np.full((2, 2), np.nan)))


def test_no_two_sites_have_the_same_words():
    sites = [
        f"{block}.{layer}"
        for block in ("down_blocks.0", "down_blocks.1", "mid_block", "up_blocks.1")
        for layer in (
            *(f"resnets.{n}" for n in range(3)),
            *(f"attentions.{n}:out" for n in range(3)),
            *(
                f"attentions.{n}.transformer_blocks.{m}.{rest}"
                for n in range(3)
                for m in range(3)
                for rest in ("attn1:query", "attn1:out", "attn2:key", "attn2:value", "ff")
            ),
        )
    ]
    assert len({site_text(site) for site in sites}) == len(sites)
