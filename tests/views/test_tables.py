"""Tables: the numbers that are written, and which of them share a scale."""

import numpy as np
import pandas as pd
import pytest

from emerdiff_probe import views
from emerdiff_probe.errors import InputError
from tests.views.drawn import HOSTILE, texts

SCORES = pd.DataFrame({"miou": [0.25, 0.5, 0.75], "pixels": [100.0, np.nan, 300.0]}, list("abc"))


def test_numbers_are_written_as_they_are():
    figure = views.table(SCORES, heading="scores", digits=1)
    (drawn,) = figure.data
    assert np.asarray(drawn.text).tolist() == [["0.2", "100.0"], ["0.5", ""], ["0.8", "300.0"]]
    np.testing.assert_array_equal(drawn.customdata, SCORES)
    assert list(drawn.x) == ["miou", "pixels"]
    assert list(drawn.y) == ["a", "b", "c"]
    assert "scores" in figure.layout.title.text


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ("all", [[0, 99.75 / 299.75], [0.25 / 299.75, np.nan], [0.5 / 299.75, 1]]),
        ("column", [[0, 0], [0.5, np.nan], [1, 1]]),
        ("row", [[0, 1], [0.5, np.nan], [0, 1]]),
    ],
)
def test_shades_are_shared_by_what_is_compared(scale, expected):
    np.testing.assert_allclose(views.table(SCORES, scale=scale).data[0].z, expected)


def test_a_series_is_one_column_and_names_are_no_markup():
    series = pd.Series({HOSTILE: 1.0, "b": 2.0}, name=("one", 2))
    figure = views.table(series, heading=HOSTILE)
    assert list(figure.data[0].x) == ["one, 2"]
    assert "<script>" not in "".join([*texts(figure), *figure.data[0].y])


def test_wide_tables_fit_a_notebook():
    many = pd.DataFrame(np.random.default_rng(0).random((2, 30)), columns=["a long name"] * 30)
    many.columns = [f"column {number}" for number in range(30)]
    assert views.table(many).layout.width <= 860


def test_what_has_no_number_is_refused():
    with pytest.raises(InputError, match="no number"):
        views.table(pd.DataFrame({"a": ["x", "y"]}))
    with pytest.raises(InputError, match="'column' or 'row'"):
        views.table(SCORES, scale="both")
