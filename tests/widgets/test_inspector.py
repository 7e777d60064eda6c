"""The inspector without a browser: traits in, pictures out."""

import base64
import io

import numpy as np
import pytest
import xarray as xr
from PIL import Image

import emerdiff_probe as ep
from emerdiff_probe.errors import InputError, SiteError
from emerdiff_probe.views.colours import SEQUENTIAL, shaded
from emerdiff_probe.views.maps import magnitude, places
from emerdiff_probe.views.panels import as_bytes
from emerdiff_probe.widgets import Inspector
from emerdiff_probe.widgets.recordings import most_telling
from tests.datasets import recording

QUERY = "up_blocks.1.attentions.0.transformer_blocks.0.attn2:query"


def pixels(picture):
    return picture.pixels()


@pytest.fixture
def inspector():
    return Inspector(recording())


def test_it_begins_in_colours_where_features_are_read_at_the_least_noise(inspector):
    assert (inspector.site, inspector.timestep, inspector.show) == (QUERY, 1, "colours")
    picture, shown = inspector.pictures
    np.testing.assert_array_equal(pixels(picture), ep.site(recording(), "image")[0])
    assert pixels(shown).shape == (2, 4, 3), "one pixel a place, no more is sent"
    values = places(ep.site(recording(), QUERY)).sel(timestep=1)
    colours = ep.layers.principal_colours(values)[0].transpose("y", "x", "rgb")
    np.testing.assert_array_equal(pixels(shown), as_bytes(colours.values))
    assert "principal colours" in shown.caption


def test_fewer_than_three_channels_have_no_colours():
    run = recording()
    run["mid_block/out"] = xr.DataTree(run["mid_block/out"].to_dataset().isel(channel=[0, 1]))
    inspector = Inspector(run, site="mid_block")
    assert inspector.error == ""
    assert "magnitude" in inspector.pictures[1].caption


@pytest.mark.parametrize(
    ("sites", "chosen"),
    [
        ({"up_blocks.1:out": 256, "up_blocks.1.attn1:query": 256}, "up_blocks.1:out"),
        ({"up_blocks.0.attn2:query": 64, "up_blocks.1.attn2:key": 256,
          "up_blocks.1.attn1:query": 256}, "up_blocks.1.attn1:query"),
        ({"up_blocks.0.attn2:query": 64, "mid_block:out": 16}, "up_blocks.0.attn2:query"),
        ({f"transformer_blocks.{number}:out": 256 for number in range(5)},
         "transformer_blocks.2:out"),
    ],
)  # fmt: skip
def test_the_first_site_is_close_to_where_the_method_reads(sites, chosen):
    assert most_telling(sites) == chosen


def test_values_are_read_by_pointing(inspector):
    inspector.set(site="mid_block", point=(3, 4))
    values = places(ep.site(recording(), "mid_block")).sel(timestep=1)
    _, shown, alike, _ = inspector.pictures
    numbers = np.frombuffer(shown.values, "<f4").reshape(shown.value_grid)
    np.testing.assert_allclose(numbers, magnitude(values).values, rtol=1e-6)
    assert (shown.value_name, alike.value_name) == ("magnitude", "similarity")
    assert np.frombuffer(alike.values, "<f4").max() == pytest.approx(1)


def test_the_map_follows_site_and_timestep(inspector):
    before = pixels(inspector.pictures[1])
    inspector.set(site="mid_block", show="magnitude")
    inspector.timestep = 281
    values = ep.site(recording(), "mid_block")[0].sel(timestep=281).astype(np.float32)
    lengths = np.sqrt((values**2).mean("channel")).values
    expected = shaded(lengths, lengths.min(), lengths.max(), SEQUENTIAL)
    np.testing.assert_array_equal(pixels(inspector.pictures[1]), expected)
    assert before.shape != expected.shape
    assert "mid, t = 281: magnitude" in inspector.pictures[1].caption


def test_a_click_asks_for_likeness_in_this_layer_and_its_neighbours(inspector):
    inspector.pictures[1].clicked = {"y": 20.0, "x": 50.0, "shift": False, "count": 1}
    assert inspector.point == (20, 50)
    own, neighbour = inspector.pictures[2:]
    values = places(ep.site(recording(), QUERY)).sel(timestep=1)
    alike = ep.layers.similarity_to_point(values, 20, 50)[0].values
    np.testing.assert_array_equal(pixels(own), shaded(alike, alike.min(), 1))
    assert "mid: cosine" in neighbour.caption
    assert own.marks == [[20, 50]]


def test_shift_pins_places_and_each_has_its_likeness(inspector):
    for number, y in enumerate((4.0, 20.0)):
        inspector.pictures[0].clicked = {"y": y, "x": 5.0, "shift": True, "count": number}
    assert inspector.pins == ((4, 5), (20, 5))
    assert inspector.point == ()
    first, second = inspector.pictures[2:]
    assert "to place 1" in first.caption
    assert "to place 2" in second.caption
    assert not np.array_equal(pixels(first), pixels(second))
    inspector.pins = [(1, 1)] * 5
    assert len(inspector.pictures[2:]) == 5
    assert inspector._row.children == inspector.pictures
    inspector.set(pins=(), point=())
    assert len(inspector.pictures) == 2


def test_points_do_not_paint_the_map_anew(inspector, monkeypatch):
    painted = []
    paint = Inspector._painted
    monkeypatch.setattr(Inspector, "_painted", lambda *of: painted.append(of) or paint(*of))
    inspector.timestep = 281
    for number in range(3):
        inspector.point = (number, 1)
    assert len(painted) == 1
    inspector.set(show="channel", channel=3)
    assert len(painted) == 2
    values = ep.site(recording(), QUERY)[0].sel(timestep=281).isel(head=1, channel=0)
    most = np.abs(values.values).max()
    expected = shaded(values.transpose("y", "x").values, -most, most, "balance")
    np.testing.assert_array_equal(pixels(inspector.pictures[1]), expected)


def test_menus_and_traits_are_one(inspector):
    inspector._menus["step"].value = 1
    assert inspector.timestep == 281
    inspector.timestep = 981
    assert inspector._menus["step"].index == 0
    inspector._play.value = 1
    assert inspector.timestep == 281


def test_calls_at_one_timestep_are_told_apart():
    run = recording((981, 946.4247, 946.4247, 1))
    inspector = Inspector(run, site="mid_block", show="magnitude")
    labels = [label for label, _ in inspector._menus["step"].options]
    assert labels == ["981", "946.42 (step 1)", "946.42 (step 2)", "1"]
    values = places(ep.site(run, "mid_block")).astype(np.float32)
    maps = [magnitude(values.isel(timestep=number)).values for number in range(4)]

    def shown(number):
        expected = shaded(maps[number], maps[number].min(), maps[number].max(), SEQUENTIAL)
        return np.array_equal(pixels(inspector.pictures[1]), expected)

    inspector.timestep = np.float32(946.42)
    assert (inspector.timestep, inspector.step) == (946.4247, 1)
    assert shown(1)
    inspector._menus["step"].index = 2
    assert (inspector.timestep, inspector.step) == (946.4247, 2)
    assert shown(2)
    assert not shown(1), "the maps differ"
    assert "t = 946.42 (step 2)" in inspector.pictures[1].caption
    again = eval(inspector.code(), {"ep": ep, "run": run})
    assert again.pictures[1].image == inspector.pictures[1].image
    assert len(inspector.figure().data) >= 1
    inspector.step = np.int64(3)
    assert (inspector.timestep, inspector.step) == (1, 3)
    inspector.point = (3, 4)
    assert len(inspector.figure().data) > 1
    with pytest.raises(InputError, match=r"step 7; there are 981, 946.42 \(step 1\)"):
        inspector.step = 7


def test_heads_and_channels_are_those_of_the_site():
    inspector = Inspector(recording(), site=QUERY, head=1, show="channel", channel=2)
    assert [value for _, value in inspector._menus["head"].options] == [-1, 0, 1]
    values = ep.site(recording(), QUERY)[0].sel(timestep=1).isel(head=1, channel=2)
    most = np.abs(values.values).max()
    expected = shaded(values.transpose("y", "x").values, -most, most, "balance")
    np.testing.assert_array_equal(pixels(inspector.pictures[1]), expected)
    inspector.set(head=-1, channel=5)
    assert inspector.channel == 5, "all heads' channels together are 6"
    inspector.site = "mid_block"
    assert (inspector.head, inspector.channel) == (-1, 4)
    assert inspector.error == ""


def test_both_halves_of_a_guided_recording():
    inspector = Inspector(recording(guided=True))
    assert inspector.guidance == "cond"
    before = pixels(inspector.pictures[1])
    inspector.guidance = "uncond"
    assert not np.array_equal(before, pixels(inspector.pictures[1]))


@pytest.mark.parametrize(
    ("state", "error", "says"),
    [
        ({"site": "mid_blok"}, SiteError, "closest: 'mid_block:out'"),
        ({"timestep": 7}, InputError, "choices: 981"),
        ({"point": (1, 65)}, InputError, "32 x 64"),
        ({"sample": 2}, InputError, "0 to 1"),
        ({"guidance": "cond"}, InputError, "guidance"),
        ({"cite": "x"}, InputError, "closest: 'site'"),
    ],
)
def test_wrong_states_are_refused_and_change_nothing(inspector, state, error, says):
    with pytest.raises(error, match=says):
        Inspector(recording(), **state)
    if "cite" not in state:
        before = getattr(inspector, next(iter(state)))
        with pytest.raises(error, match=says):
            inspector.set(**state)
        assert getattr(inspector, next(iter(state))) == before


def test_what_goes_wrong_while_drawing_is_shown(inspector, monkeypatch):
    def broken(*_):
        raise OSError("<b>chunk lost")

    monkeypatch.setattr("emerdiff_probe.store.site", broken)
    inspector.timestep = 281
    assert inspector.error == "OSError: <b>chunk lost"
    assert "&lt;b&gt;chunk lost" in inspector._said.value
    monkeypatch.undo()
    inspector.timestep = 981
    assert inspector.error == ""
    assert "chunk" not in inspector._said.value


def test_the_code_makes_the_same_view_again(inspector):
    inspector.set(site="mid_block", timestep=281, point=(3, 4), pins=[(1, 2)], show="colours")
    again = eval(inspector.code(), {"ep": ep, "run": recording()})
    assert again.state() == inspector.state()
    for one, other in zip(inspector.pictures, again.pictures, strict=True):
        assert one.image == other.image


def test_a_view_without_a_kernel(inspector):
    bundle = inspector._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert "application/vnd.jupyter.widget-view+json" in data
    assert data["image/png"]
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data["image/png"]))))
    assert shown.shape == (18 + 128, 2 * 264 + 8, 3)
    np.testing.assert_array_equal(shown, inspector.snapshot())
    # Captions stand above, and what is chosen is marked, in black and white.
    assert all((shown[:18, left : left + 256] < 128).any() for left in (8, 272))
    inspector.point = (3, 4)
    y, x = (
        18 + round(3 * 128 / inspector.pictures[0].extent[0]),
        8 + round(4 * 256 / inspector.pictures[0].extent[1]),
    )
    assert (inspector.snapshot()[y, x - 3 : x + 4] == 255).all()


def test_saving_writes_a_page_that_needs_no_network(inspector, tmp_path):
    inspector.point = (3, 4)
    page = inspector.save(tmp_path / "view.html").read_text()
    assert "plotly.js v" in page
    assert "cosine similarity to y 3, x 4 at t = 1" in page
    with pytest.raises(InputError, match=r"\.svg"):
        inspector.save(tmp_path / "view.jpeg")
