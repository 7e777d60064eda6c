"""A responder gives what `respond` gives, at once or behind, whoever asks."""

import threading

import numpy as np
import pytest

import emerdiff_probe as ep
from emerdiff_probe import schema, widgets
from emerdiff_probe.emerdiff import respond
from emerdiff_probe.emerdiff.asking import made_for
from emerdiff_probe.errors import ConfigError, InputError
from emerdiff_probe.scenes import scene
from tests.checkpoints import stable_diffusion

CONFIG = ep.EmerDiffConfig.closest_to_paper().replace(
    steps=10, feature_timestep=1, modulation_timestep=101, batch=4
)
PHOTO = ep.Photo(scene(1_000_002).image)


@pytest.fixture(scope="module")
def model():
    return ep.load(stable_diffusion("v1"))


@pytest.fixture(scope="module")
def expected(model):
    return respond(model, PHOTO, config=CONFIG, progress=False)


@pytest.fixture
def responder(model):
    return made_for(model, PHOTO, CONFIG)[0].responder(config=CONFIG)


def test_an_explorer_takes_it(responder, expected, monkeypatch):
    """What the widget asks for is what a responder has, and it shows what `respond` gives."""
    explorer = widgets.CorrespondenceExplorer(responder)
    # Else the rest is computed behind, on the model that other tests use.
    monkeypatch.setattr(explorer.answers, "fill", lambda *_: None)
    explorer.selection = ((1, 2), (0, 3))
    stored = widgets.CorrespondenceExplorer(expected, selection=((1, 2), (0, 3)))
    assert explorer.error == ""
    assert np.allclose(explorer.response(), stored.response(), atol=1e-3)
    assert explorer.pictures[0].caption == stored.pictures[0].caption
    explorer.choose(pixel=(20.0, 30.0))
    assert np.isfinite(explorer.movers()).sum() == 2


def test_a_location_is_there_at_once_and_computed_once(responder, expected, model):
    calls = []
    handle = model.unet.conv_out.register_forward_hook(lambda *_: calls.append(1))
    first = responder.location(1, 2)
    # t_m and the last step: one call each, the unmodulated run being done.
    assert len(calls) == 2
    assert responder.location(1, 2).equals(first)
    assert len(calls) == 2
    handle.remove()
    assert first.dims == ("rgb", "y", "x")
    np.testing.assert_allclose(first, expected["response"][1, 2], atol=2e-3)
    assert len(responder) == 1


def test_what_moves_a_pixel_is_told_of_what_is_there(responder, expected):
    responder.location(1, 2)
    moved = responder.movers(5.2, 9.9)
    assert np.isfinite(moved.values).sum() == 1
    true = np.linalg.norm(expected["response"][1, 2, :, 5, 9].astype(float))
    assert float(moved[1, 2]) == pytest.approx(true, abs=4e-3)


def test_the_rest_comes_nearest_first_and_stops_when_told(responder, expected):
    stop, counts = threading.Event(), []

    def told(done, total):
        counts.append((done, total))
        if len(counts) == 2:
            stop.set()

    responder.fill(near=(0, 0), stop=stop, progress=told)
    assert counts == [(2, 16), (4, 16)]
    there = np.isfinite(responder.responses()["response"].isel(rgb=0, y=0, x=0).values)
    assert {tuple(map(int, place)) for place in np.argwhere(there)} == {
        (0, 0),
        (0, 1),
        (1, 0),
        (1, 1),
    }
    responder.fill()
    assert len(responder) == 16
    found = responder.responses()
    schema.check(found)
    np.testing.assert_allclose(found["response"], expected["response"], atol=2e-3)


def test_clicks_come_before_filling(responder):
    """Several threads ask while another fills: all get theirs, and the model runs for one."""
    order = []
    compute, inside = responder._compute, threading.Lock()

    def watched(places):
        assert inside.acquire(blocking=False)
        order.append([place for place in places if place not in responder._kept])
        if len(order) == 1:
            for click in clicks:
                click.start()
            # Both wait by now; else they would come later still, which the last assertion sees.
            while responder._urgent < len(clicks):
                pass
        compute(places)
        inside.release()

    responder._compute = watched
    clicks = [threading.Thread(target=responder.location, args=place) for place in ((3, 3), (3, 0))]
    responder.fill(near=(0, 0))
    for click in clicks:
        click.join()
    assert len(responder) == 16
    assert sorted(place for places in order[1:3] for place in places) == [(3, 0), (3, 3)]


def test_the_model_can_be_used_while_the_rest_is_computed(responder, model, expected):
    record = ep.record(model, ep.Prompt("a red house"), "*attn1:query", steps=4, progress=False)
    filling = threading.Thread(target=responder.fill)
    filling.start()
    again = []
    while filling.is_alive() or not again:
        again.append(
            ep.record(model, ep.Prompt("a red house"), "*attn1:query", steps=4, progress=False)
        )
    filling.join()
    assert all(each.identical(record) for each in again)
    assert np.allclose(responder.responses()["response"], expected["response"], atol=1e-3)


def test_who_holds_the_model_is_answered_while_the_rest_is_computed(responder, model, expected):
    filling = threading.Thread(target=responder.fill, daemon=True)
    filling.start()
    answers = []

    def ask():
        with ep.intervene(model, []):  # the model is this thread's own meanwhile
            answers.append(responder.location(3, 3))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(60)
    filling.join(120)
    assert not filling.is_alive()
    (answer,) = answers
    assert np.allclose(answer, expected["response"][3, 3], atol=1e-3)


def test_another_engine_can_answer_and_answers_are_kept(responder, model, expected):
    first = responder.location(1, 2)
    responder.use("jump")
    assert len(responder) == 0
    jumped = responder.location(1, 2)
    assert responder.responses().attrs["engine"] == responder.engine == "jump"
    alone = made_for(model, PHOTO, CONFIG)[0].responder(engine="jump", config=CONFIG)
    alone = alone.location(1, 2)
    np.testing.assert_allclose(jumped, alone, atol=2e-3)
    assert not np.allclose(jumped, first, atol=2e-3)
    responder.use("shared")
    assert len(responder) == 1
    assert responder.location(1, 2).equals(first)
    with pytest.raises(ConfigError, match="choose one of literal"):
        responder.use("leap")
    assert responder.engine == "shared"


def test_an_error_leaves_the_responder_usable(responder):
    compute = responder._compute

    def fails(_places):
        raise RuntimeError("no")

    responder._compute = fails
    with pytest.raises(RuntimeError, match="no"):
        responder.location(0, 0)
    responder._compute = compute
    assert np.isfinite(responder.location(0, 0)).all()


def test_locations_that_are_not_there_are_refused(responder):
    for row, column in ((-1, 0), (4, 0), (0, 4)):
        with pytest.raises(InputError, match="4 x 4"):
            responder.location(row, column)
