"""A dataset's kind is told, with attributes and without, and functions refuse another one."""

import json

import pytest
import xarray as xr

import emerdiff_probe as ep
from emerdiff_probe import exports, schema
from emerdiff_probe.errors import InputError
from emerdiff_probe.kinds import described, expect, kind_of
from tests.datasets import bands, recording, responses

RUN, SEGMENTS, MOVED = recording(), bands(), responses()
SWEPT = bands().expand_dims(sigma=[1.0, 2.0]).assign_attrs(schema=schema.SWEEP)


@pytest.mark.parametrize("bare", [False, True])
def test_kinds_are_told_with_attributes_and_without(bare):
    expected = {"recording": RUN, "segmentation": SEGMENTS, "responses": MOVED, "sweep": SWEPT}
    for kind, data in expected.items():
        data = data.copy()
        if bare:
            data.attrs = {}
        assert kind_of(data) == kind
    assert kind_of(ep.responses.compress(MOVED, bits=8)) == "responses"
    assert kind_of(xr.Dataset({"a": 1})) is None
    assert kind_of(xr.DataTree()) is None
    assert described(None) == "a NoneType"
    expect(RUN, schema.RECORDING)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: ep.site(SEGMENTS, "mid_block"), "a segmentation, not a recording; ep.record"),
        (lambda: ep.gather(MOVED, y=1, x=1), "responses, not a recording"),
        (lambda: ep.attention(SEGMENTS, "mid_block"), "not a recording"),
        (lambda: ep.layers.atlas(SEGMENTS), "not a recording"),
        (lambda: ep.segments.diffseg_recorded(MOVED, 1), "not a recording"),
        (lambda: ep.views.layers(SEGMENTS, "*"), "not a recording"),
        (lambda: ep.views.trajectory(MOVED), "not a recording"),
        (lambda: ep.views.similarity(MOVED, "*", 1, y=0, x=0), "not a recording"),
        (lambda: ep.widgets.Inspector(SEGMENTS), "not a recording"),
        (lambda: ep.rechunk(SEGMENTS, "steps", "never"), "not a recording"),
        (lambda: ep.views.segments(RUN), "a recording, not a segmentation; ep.segment"),
        (lambda: ep.views.overview(SWEPT), "a sweep, not a segmentation"),
        (lambda: ep.views.low_resolution(MOVED), "not a segmentation"),
        (lambda: ep.views.overlay_image(RUN), "not a segmentation"),
        (lambda: ep.views.page(RUN), "not a segmentation"),
        (lambda: ep.views.dendrogram(RUN), "not a segmentation"),
        (lambda: exports.write(MOVED, "never"), "not a segmentation"),
        (lambda: exports.write_masks(RUN, "never.png"), "not a segmentation"),
        (lambda: ep.responses.movers(RUN, 1, 1), "a recording, not responses; ep.respond"),
        (lambda: ep.responses.pixels_moved(SEGMENTS, 1, 1), "not responses"),
        (lambda: ep.responses.segment_from(SEGMENTS, 2), "not responses"),
        (lambda: ep.responses.compress(RUN, bits=8), "not responses"),
        (lambda: ep.views.correspondence(SEGMENTS), "not responses"),
        (lambda: ep.widgets.CorrespondenceExplorer(SEGMENTS), "not responses"),
        (lambda: ep.widgets.SegmentationExplorer(RUN), "not a segmentation"),
        (lambda: ep.site({"a": 1}, "mid_block"), "this is a dict, not a recording"),
        (lambda: ep.layers.cluster(RUN, 3), r"a recording, .*take one site: ep\.site"),
        (lambda: ep.segments.diffcut(RUN), "a recording, .*take one site"),
        (lambda: ep.layers.effective_rank(RUN), "a recording, .*take one site"),
        (lambda: ep.layers.cka(RUN, RUN), "a recording, .*take one site"),
        (lambda: ep.layers.cluster(SEGMENTS, 3), r'a segmentation, .*result\["features"\]'),
        (lambda: ep.segments.silhouettes(SEGMENTS, [2, 3]), "a segmentation, .*take one array"),
        (lambda: ep.segments.as_masks(SEGMENTS, (4, 4)), r'a segmentation, .*result\["masks"\]'),
        (lambda: ep.views.effect(RUN, RUN), "a recording, not a run; ep.invert"),
        (lambda: ep.views.attention(RUN, "mid_block"), r"a recording, .*ep\.attention"),
        (lambda: ep.widgets.CorrespondenceExplorer(RUN), "a recording, not responses"),
        (lambda: ep.Replace("mid_block", RUN), "a recording, .*take one site"),
        (lambda: ep.Shift("mid_block", 1, mask=SEGMENTS), r'a segmentation, .*result\["masks"\]'),
    ],
)
def test_functions_say_which_kind_they_were_given(use, message):
    with pytest.raises(InputError, match=message):
        use()


CHOSEN = {
    "sample": RUN.isel(sample=1),
    "timestep": RUN.isel(timestep=-1),
    "both": RUN.isel(sample=1, timestep=-1),
    "half": recording(guided=True).sel(guidance="cond").isel(sample=1),
}


@pytest.mark.parametrize("kind", CHOSEN)
def test_a_sample_or_timestep_of_a_recording_is_one_too(kind, tmp_path):
    part, kept = CHOSEN[kind], ep.store.complete(CHOSEN[kind])
    number = {"timestep": 0}.get(kind, 1)
    whole = recording(guided=kind == "half")
    one = ep.site(kept, "mid_block").isel(sample=0)
    expected = ep.site(whole, "mid_block").isel(sample=number)
    if kind == "half":
        expected = expected.sel(guidance="cond")
    if kind in ("timestep", "both"):
        expected = expected.isel(timestep=[-1])
    xr.testing.assert_equal(one.drop_vars("guidance", errors="ignore"),
                            expected.drop_vars("guidance", errors="ignore"))  # fmt: skip
    assert kept.to_dataset()["prompt"].dims == ("sample",)
    assert kept["timestep"].dims == ("timestep",)
    assert part.ep.info()["samples"] == (2 if kind == "timestep" else 1)
    # Everywhere a recording goes.
    assert ep.views.layers(part, "*").data
    assert ep.views.trajectory(part).data
    assert ep.views.similarity(part, "*:out", 1, y=3, x=5).data
    assert ep.layers.atlas(part, ["effective_rank"], progress=False).sizes["site"]
    assert ep.widgets.Inspector(part).sites == ep.widgets.Inspector(RUN).sites
    assert ep.gather(part, y=3, x=5)
    copy = ep.open(ep.rechunk(part, "steps", tmp_path / "copy.zarr"))
    xr.testing.assert_equal(
        ep.site(copy, "mid_block").drop_vars("guidance", errors="ignore"),
        ep.site(kept, "mid_block").drop_vars("guidance", errors="ignore"),
    )


def batched(guidance=None):
    """Rows of a loop of somebody's own, of which nothing is known; no pictures."""
    run = recording(guided=guidance is not None).drop_nodes("image")
    root = run.to_dataset().drop_vars(["prompt", "seed", "source"])
    root = root.drop_vars(["token_text", "sample"], errors="ignore")
    leaves = {leaf.path: leaf.to_dataset(inherit=False) for leaf in run.leaves}
    leaves = {path: leaf.rename(sample="batch") for path, leaf in leaves.items()}
    root = root.assign_coords(batch=[0, 1])
    if guidance:
        root = root.assign_coords(guidance=guidance)
    root.attrs["model"] = json.dumps({"name": ""})
    return xr.DataTree.from_dict({"/": root, **leaves})


def test_rows_of_a_batch_are_drawn():
    run, known = batched(), RUN
    for row in (0, 1):
        ours, theirs = (
            ep.views.layers(each, "*", show="magnitude", sample=row) for each in (run, known)
        )
        # Of what has no pictures the maps stand alone.
        maps = [each for each in theirs.data if each.type == "heatmap"]
        for one, other in zip(ours.data, maps, strict=True):
            assert (one.z == other.z).all()
        assert f"row {row}" in ours.layout.title.text
    assert "no picture" in ep.views.trajectory(run).to_json()
    assert "no picture" in ep.views.similarity(run, "*:out", 1, y=3, x=5).to_json()
    assert ep.widgets.Inspector(run).sites
    xr.testing.assert_equal(
        ep.layers.features(run, "mid_block").drop_vars("sample"),
        ep.layers.features(known, "mid_block").drop_vars(
            ["prompt", "seed", "source", "sample"], errors="ignore"
        ),
    )


def test_of_parts_that_nobody_knows_one_is_chosen():
    run = batched(["call 1", "call 2"])
    with pytest.raises(InputError, match=r"choose one of call 1, call 2"):
        ep.views.layers(run, "*")
    with pytest.raises(InputError, match=r"\.sel\(guidance='call 2'\)"):
        ep.layers.features(run, "mid_block")
    assert ep.views.layers(run, "*", guidance="call 2").data
    assert ep.layers.features(run.sel(guidance="call 2"), "mid_block").sizes["sample"] == 2
