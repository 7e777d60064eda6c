"""Identities of models are compared exactly by name, and up to rounding by answer."""

import numpy as np
import pytest

from emerdiff_probe.errors import ConfigError
from emerdiff_probe.store import check_model, model_differences

STORED = {
    "name": "playground",
    "device": "cpu",
    "dtype": "float32",
    "weights": {"unet": "1e5", "vae": "bb"},
    "schedule": {"prediction": "epsilon", "alpha_bar": [0.99, 0.5, 0.01]},
    "interventions": [],
    "answers": {"predict": [1.0, -2.0, 0.5], "decode": [0.1, 0.2, 0.3]},
}


def present(**changes):
    return STORED | changes


def scaled(factor):
    numbers = [each * factor for each in STORED["answers"]["predict"]]
    return present(answers=STORED["answers"] | {"predict": numbers})


def test_the_same_model_elsewhere_is_the_same():
    elsewhere = present(name="/models/mine", device="cuda:0")
    assert model_differences(STORED, elsewhere) == []
    check_model(STORED, elsewhere, "'a'", "stop")
    rounded = {"prediction": "epsilon", "alpha_bar": [0.99, 0.500001, 0.01]}
    assert model_differences(STORED, present(schedule=rounded)) == []


@pytest.mark.parametrize(
    ("dtype", "within", "beyond"),
    [("float32", 1e-3, 1e-2), ("float16", 1e-2, 4e-2), ("bfloat16", 5e-2, 0.2)],
)
def test_answers_may_differ_by_rounding_which_depends_on_the_dtype(dtype, within, beyond):
    stored, elsewhere = STORED | {"dtype": dtype}, {"dtype": dtype, "device": "cuda:0"}
    assert model_differences(stored, scaled(1 + within) | elsewhere) == []
    (line,) = model_differences(stored, scaled(1 + beyond) | elsewhere)
    assert line.startswith("answers.predict: stored [1, -2, 0.5, ...], now [")
    assert f"{beyond:.2g} apart" in line
    # On one machine an answer repeats itself.
    here = {"dtype": dtype}
    assert len(model_differences(stored, scaled(1 + within) | here)) == 1
    assert model_differences(stored, scaled(1 + within / 1000) | here) == []
    newer = here | {"versions": {"torch": "99"}}
    assert model_differences(stored, scaled(1 + within) | newer) == []


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"dtype": "float16"}, "dtype: stored 'float32', now 'float16'"),
        ({"weights": {"unet": "1e5", "vae": "cc"}}, "weights.vae: stored 'bb', now 'cc'"),
        ({"weights": {"unet": "1.0e5", "vae": "bb"}}, "weights.unet: stored '1e5', now '1.0e5'"),
        ({"interventions": ["Ablate()"]}, "interventions: stored [], now ['Ablate()']"),
        ({"freeu": {"s1": 0.9}}, "freeu.s1: stored None, now 0.9"),
        (
            {"schedule": {"prediction": "epsilon", "alpha_bar": [0.99, 0.51, 0.01]}},
            "schedule.alpha_bar: stored [0.99, 0.5, 0.01], now [0.99, 0.51, 0.01]",
        ),
        (
            {"answers": {"predict": [1.0, -2.0, 0.5]}},
            "answers.decode: stored [0.1, 0.2, 0.3, ...], now None",
        ),
    ],
)
def test_what_differs_is_named_with_both_values(changes, line):
    (found,) = model_differences(STORED, present(**changes))
    assert found.startswith(line)
    with pytest.raises(ConfigError) as raised:
        check_model(STORED, present(**changes), "the store 'a'", "choose another")
    text = str(raised.value)
    assert text.startswith(f"the store 'a' was begun with another model:\n  {line}")
    assert text.endswith("Restore that model to continue, or choose another")


def test_answers_that_are_not_finite_equal_only_themselves():
    def infinite(*numbers):
        return present(answers=STORED["answers"] | {"predict": list(numbers)})

    stored = infinite(1.0, np.nan, np.inf)
    assert model_differences(stored, infinite(1.0, np.nan, np.inf)) == []
    assert len(model_differences(stored, infinite(1.0, np.nan, 2.0))) == 1
    assert len(model_differences(STORED, stored)) == 1
