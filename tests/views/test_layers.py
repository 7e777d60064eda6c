"""Layers by timesteps: the numbers of the maps, their common scales, and likeness by hand."""

import numpy as np
import pytest

import emerdiff_probe as ep
from emerdiff_probe import views
from emerdiff_probe.errors import InputError, SiteError
from tests.datasets import recording
from tests.views.drawn import HOSTILE, assert_escaped, extent, images, maps, texts

QUERY = "up_blocks.1.attentions.0.transformer_blocks.0.attn2:query"


@pytest.fixture(scope="module")
def run():
    return recording()


def test_maps_are_root_mean_squares_in_the_models_order(run):
    figure = views.layers(run, "*", [281, 1], show="magnitude", sample=1)
    values = [ep.site(run, name)[1].sel(timestep=[281, 1]) for name in (QUERY, "mid_block")]
    query, block = (each.astype(float).transpose("timestep", "y", "x", ...) for each in values)
    expected = [
        *np.sqrt((query.values.reshape(2, 2, 4, 6) ** 2).mean(-1)),
        *np.sqrt((block.values**2).mean(-1)),
    ]
    assert len(maps(figure)) == 4
    for found, wanted in zip(maps(figure), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3)
    scale = figure.layout.coloraxis
    assert scale.cmin == pytest.approx(min(map(np.min, expected)), rel=1e-3)
    assert scale.cmax == pytest.approx(max(map(np.max, expected)), rel=1e-3)
    for trace in figure.data:
        if trace.type == "heatmap":
            np.testing.assert_allclose(extent(trace, *np.shape(trace.z)), [0, 64, 0, 32])
            assert not trace.zsmooth
    # The picture that the run ended with begins each row.
    shown = images(figure)
    assert len(shown) == 2
    for each in shown:
        np.testing.assert_array_equal(each, ep.site(run, "image")[1])
    assert "t = 281" in texts(figure)
    assert any("up 1 attention 0.0<br>cross query" in each for each in texts(figure))


def test_a_channel_of_both_signs_has_zero_in_the_middle(run):
    figure = views.layers(run, "mid_block", [1], show=2, scale="site")
    expected = ep.site(run, "mid_block")[0].sel(timestep=1).isel(channel=2)
    np.testing.assert_allclose(maps(figure)[0], expected, rtol=1e-3)
    assert figure.layout.coloraxis.cmin == -figure.layout.coloraxis.cmax


def test_each_site_can_have_a_scale_of_its_own(run):
    figure = views.layers(run, [QUERY, "mid_block"], [1], show="magnitude", scale="site")
    drawn = [trace for trace in figure.data if trace.type == "heatmap"]
    assert [trace.coloraxis for trace in drawn] == ["coloraxis", "coloraxis2"]
    for trace, axis in zip(drawn, ("coloraxis", "coloraxis2"), strict=True):
        assert figure.layout[axis].cmax == pytest.approx(np.max(trace.z))


def test_one_head_and_one_half_can_be_chosen():
    run = recording(guided=True)
    figure = views.layers(run, QUERY, [1], show="magnitude", head=1, guidance="uncond")
    values = ep.site(run, QUERY).sel(guidance="uncond", timestep=1)[0].isel(head=1).astype(float)
    np.testing.assert_allclose(maps(figure)[0], np.sqrt((values**2).mean("channel")), rtol=1e-3)
    other = views.layers(run, QUERY, [1], show="magnitude", head=1)
    assert not np.allclose(maps(figure)[0], maps(other)[0])


def test_colours_share_one_basis_over_timesteps(run):
    steps = [981, 281, 1]
    figure = views.layers(run, "mid_block", steps)
    values = ep.site(run, "mid_block")[0].values.reshape(-1, 5).astype(float)
    centred = values - values.mean(0)
    # Another way to the same: the directions are right singular vectors.
    _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
    directions = directions[:3]
    directions *= np.sign(directions[np.arange(3), np.abs(directions).argmax(1)])[:, None]
    deviation = sizes[:3] / np.sqrt(len(values) - 1)
    expected = np.clip(0.5 + centred @ directions.T / (5 * deviation), 0, 1)
    found = np.stack(images(figure)[1:]).reshape(-1, 3)
    np.testing.assert_allclose(found / 255, expected, atol=0.005)
    # Colours cannot be read: an invisible map above them tells the magnitude.
    told = views.layers(run, "mid_block", steps, show="magnitude")
    for hidden, shown in zip(maps(figure), maps(told), strict=True):
        np.testing.assert_array_equal(hidden, shown)
    assert {trace.opacity for trace in figure.data if trace.type == "heatmap"} == {0}
    assert "magnitude %{z" in figure.data[2].hovertemplate
    skipped = [trace.hoverinfo for trace in figure.data if trace.type == "image"]
    assert skipped == [None, "skip", "skip", "skip"]


def test_features_without_differences_are_grey():
    run = recording()
    run["mid_block/out"]["value"][:] = 3
    grey = images(views.layers(run, "mid_block"))[1:]
    assert {int(value) for each in grey for value in each.ravel()} == {128}


def test_likeness_is_the_cosine_by_hand(run):
    figure = views.similarity(run, "*", 281, y=20, x=50)
    block = ep.site(run, "mid_block")[0].sel(timestep=281).astype(float)
    point = block.sel(y=20, x=50, method="nearest").values
    norms = np.linalg.norm(block, axis=-1) * np.linalg.norm(point)
    found = maps(figure)[1]
    np.testing.assert_allclose(found, block.values @ point / norms, atol=1e-3)
    assert found[2, 6] == pytest.approx(1)
    assert (found < 0.99).sum() == found.size - 1, "only the place itself is like itself"
    np.testing.assert_array_equal(images(figure)[0], ep.site(run, "image")[0])
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    assert {(mark.x[0], mark.y[0]) for mark in marks} == {(50, 20)}
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-1, 1)
    narrow = views.similarity(run, "mid_block", 281, y=20, x=50, limits=(0.5, 1))
    assert (narrow.layout.coloraxis.cmin, narrow.layout.coloraxis.cmax) == (0.5, 1)


def test_a_feature_of_zeros_is_like_nothing():
    run = recording()
    run["mid_block/out"]["value"][:, :, 0, 0] = 0
    (likeness,) = maps(views.similarity(run, "mid_block", 1, y=0, x=0))
    assert likeness.tolist() == np.zeros((4, 8)).tolist()
    (likeness,) = maps(views.similarity(run, "mid_block", 1, y=20, x=50))
    assert likeness[0, 0] == 0


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda run: views.layers(run, "up_blocks.9"), SiteError, "up_blocks.9"),
        (lambda run: views.layers(run, "*key"), SiteError, "key"),
        (lambda run: views.layers(run, "*", [7]), InputError, "choices: 981, 281, 1"),
        (lambda run: views.layers(run, "*", []), InputError, "timesteps is empty"),
        (lambda run: views.layers(run, "*", show="norm"), InputError, "'colours'"),
        (lambda run: views.layers(run, "*", scale="row"), InputError, "'site'"),
        (lambda run: views.layers(run, "mid_block", show=5), InputError, "0 to 4"),
        (lambda run: views.layers(run, "mid_block", head=0), InputError, "has no heads"),
        (lambda run: views.layers(run, QUERY, head=2), InputError, "0 to 1"),
        (lambda run: views.layers(run, "*", sample=2), InputError, "0 to 1"),
        (lambda run: views.layers(run, "*", guidance="cond"), InputError, "without"),
        (lambda run: views.similarity(run, "*", 1, y=33, x=0), InputError, "outside"),
    ],
)
def test_what_is_not_there_is_refused(run, call, error, says):
    with pytest.raises(error, match=says):
        call(run)


def test_prompts_and_models_are_escaped():
    run = recording(prompt=HOSTILE, model=HOSTILE)
    for figure in (
        views.layers(run, "*"),
        views.similarity(run, "*", 1, y=1, x=1),
        views.trajectory(run),
    ):
        assert "&lt;script&gt;" in figure.layout.title.text
        assert_escaped(figure)


def test_without_a_picture_there_are_maps_alone():
    run = recording()
    del run["image"]
    figure = views.layers(run, "mid_block", [1])
    assert len(images(figure)) == 1
    assert "picture" not in texts(figure)


def test_no_figure_is_wider_than_a_notebook(run):
    for figure in (
        views.layers(run, "*"),
        views.layers(run, "*", show="magnitude"),
        views.similarity(run, "*", 1, y=1, x=1),
        views.pictures({str(number): np.zeros((8, 8, 3)) for number in range(8)}, columns=8),
    ):
        assert 300 < figure.layout.width <= 860
