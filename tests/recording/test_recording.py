"""Recordings hold what plain hooks see, labelled; streamed ones go on after any end."""

import shutil

import numpy as np
import pytest
import torch
import xarray as xr
from PIL import Image

import emerdiff_probe as ep
from emerdiff_probe.errors import CaptureError, ConfigError, InputError, SiteError, StoreError
from emerdiff_probe.runs import sample
from emerdiff_probe.scenes import scene
from emerdiff_probe.sites import Site
from emerdiff_probe.store import Streamed, info
from emerdiff_probe.store import plan as plans
from tests.checkpoints import stable_diffusion, stable_diffusion_xl, tiny_playground
from tests.store.recordings import equal

HOUSE, CAR = ep.Prompt("a red house", seed=1), ep.Prompt("a blue car", seed=2)
QUIET = {"steps": 5, "progress": False}
LAYER = "up_blocks.1.attentions.0.transformer_blocks.0"


@pytest.fixture(scope="module")
def model():
    return ep.load(tiny_playground())


@pytest.fixture(scope="module")
def recorded(model):
    return ep.record(model, [HOUSE, CAR], "*", guidance=3, dtype="float32", **QUIET)


@pytest.fixture
def small_blocks(monkeypatch):
    """Two timesteps in a block."""
    monkeypatch.setattr(plans, "_LONGEST_BLOCK", 2)


def test_values_are_those_of_plain_hooks_at_every_site(model, recorded):
    seen = {}
    sites = [Site.parse(name) for name in model.sites("*, !*:skip, !*:mix").index]
    handles = [
        model.unet.get_submodule(site.module).register_forward_hook(
            lambda _m, _i, output, site=site: seen.setdefault(site, []).append(
                output if isinstance(output, torch.Tensor) else output[0]
            )
        )
        for site in sites
    ]
    condition = model.condition(CAR.text, 3)
    run = list(sample(model, condition, steps=5, seed=CAR.seed, height=128, width=128))
    for handle in handles:
        handle.remove()
    for site in sites:
        values = ep.site(recorded, str(site))
        for step in run:
            for half, guidance in enumerate(("uncond", "cond")):
                tensor = seen[site][step.index][half]
                plain = tensor.movedim(0, -1) if tensor.ndim == 3 else tensor
                ours = values.isel(sample=1).sel(timestep=step.timestep, guidance=guidance)
                assert np.array_equal(ours.values.ravel(), plain.numpy().ravel()), site
    for step in run:
        latents = ep.site(recorded, "latents").isel(sample=1).sel(timestep=step.timestep)
        assert np.array_equal(latents.transpose("channel", "y", "x"), step.latents[0])


def test_a_recorded_run_draws_the_same_picture(model, recorded):
    for number, prompt in enumerate((HOUSE, CAR)):
        condition = model.condition(prompt.text, 3)
        *_, last = sample(model, condition, steps=5, seed=prompt.seed, height=128, width=128)
        picture = model.decode(last.next_latents).clamp(0, 1).mul(255).round()[0]
        image = ep.site(recorded, "image").isel(sample=number)
        assert np.array_equal(image.transpose("rgb", "y", "x"), picture)
    assert not any(module._forward_hooks for module in model.unet.modules())


def test_labels(model, recorded):
    values = ep.site(recorded, f"{LAYER}.attn2:query")
    assert values.dims == ("sample", "guidance", "timestep", "y", "x", "head", "channel")
    assert values["timestep"].values.tolist() == list(model.schedule.timesteps(5))
    assert values["prompt"].values.tolist() == [HOUSE.text, CAR.text]
    assert values["y"].values[:2].tolist() == [4, 12]
    keys = ep.site(recorded, f"{LAYER}.attn2:key")
    assert keys.dims == ("sample", "guidance", "timestep", "token", "head", "channel")
    assert keys["token_text"].values[1, 1, :4].tolist() == ["<|startoftext|>", "a", "blue", "car"]
    assert keys["token_text"].values[1, 0, 1] == "<|endoftext|>"
    # One place of the picture at every layer and timestep.
    point = recorded.sel(timestep=401).map_over_datasets(
        lambda leaf: leaf.sel(y=40, x=52, method="nearest") if "y" in leaf.dims else leaf
    )
    assert point["down_blocks/0/out"]["value"].dims == ("sample", "guidance", "channel")
    with pytest.raises(SiteError, match=r"no site 'mid:out' in .*'mid_block:out'"):
        ep.site(recorded, "mid")


def test_a_streamed_recording_is_that_in_memory(model, recorded, tmp_path, small_blocks):
    path = tmp_path / "run.zarr"
    streamed = ep.record(model, [HOUSE, CAR], "*", guidance=3, dtype="float32", store=path, **QUIET)
    assert all(leaf["value"].chunks for leaf in streamed.leaves)
    assert streamed["mid_block/out"]["value"].chunks[2] == (2, 2, 1)
    equal(streamed, recorded)
    # Recording it again finds nothing to do.
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    ep.record(model, [HOUSE, CAR], "*", guidance=3, dtype="float32", store=path, **QUIET)
    assert before == {file: file.stat().st_mtime_ns for file in path.rglob("*")}


def test_chosen_timesteps_are_those_of_the_whole_run(model, tmp_path, small_blocks):
    whole = ep.record(model, HOUSE, "mid_block", **QUIET)
    some = ep.record(
        model, HOUSE, "mid_block", timesteps=[201, 601, 1], store=tmp_path / "run.zarr", **QUIET
    )
    assert some["timestep"].values.tolist() == [601, 201, 1]
    assert some["step"].values.tolist() == [1, 3, 4]
    for name in ("mid_block", "latents"):
        xr.testing.assert_equal(
            ep.site(some, name).load(), ep.site(whole, name).sel(timestep=[601, 201, 1])
        )
    assert np.array_equal(ep.site(some, "image"), ep.site(whole, "image"))


def test_photographs_are_recorded_on_their_way_back(model, tmp_path, small_blocks):
    photos = [ep.Photo(scene(seed).image) for seed in (1, 2)]
    options = {"timesteps": (401, 201), "inversion": "edit_friendly", **QUIET}
    both = ep.record(model, photos, "semantic", batch=2, store=tmp_path / "run.zarr", **options)
    one = ep.record(model, photos[1], "semantic", **options)
    name = f"{LAYER}.attn1:query"
    assert "guidance" not in ep.site(one, name).dims
    np.testing.assert_allclose(
        ep.site(both, name).isel(sample=1), ep.site(one, name).isel(sample=0), atol=2e-3
    )
    assert not np.allclose(ep.site(both, name).isel(sample=0), ep.site(one, name).isel(sample=0))
    with pytest.raises(ConfigError, match="guidance changes nothing"):
        ep.record(model, photos, guidance=2, **QUIET)


def test_samples_are_selected_by_name(model, tmp_path):
    names = ["cat.png", "dog.png"]
    for seed, name in enumerate(names, start=1):
        Image.fromarray(scene(seed).image).save(tmp_path / name)
    paths = [tmp_path / name for name in (*names, names[0])]
    run = ep.record(model, paths, "mid_block", timesteps=[1], **QUIET)
    assert run["sample"].values.tolist() == ["cat.png", "dog.png", "cat.png (2)"]
    values = ep.site(run, "mid_block")
    assert np.array_equal(values.sel(sample="cat.png"), values.sel(sample="cat.png (2)"))
    assert not np.array_equal(values.sel(sample="cat.png"), values.sel(sample="dog.png"))
    one = run.sel(sample="dog.png")
    assert np.array_equal(one["image"]["value"], ep.site(run, "image").isel(sample=1))
    drawn = ep.record(model, [HOUSE, CAR], "mid_block", timesteps=[1], **QUIET)
    assert drawn.sel(sample="a blue car")["seed"] == 2
    streamed = ep.record(
        model, [HOUSE, CAR], "mid_block", timesteps=[1], store=tmp_path / "run.zarr", **QUIET
    )
    assert streamed["sample"].values.tolist() == ["a red house", "a blue car"]


def test_images_of_several_sizes_are_grouped_or_cropped(model, tmp_path):
    wide = np.asarray(Image.fromarray(scene(2).image).resize((300, 200)))
    images = [scene(1).image, wide, scene(3).image]
    options = {"timesteps": [201], "dtype": "float32", **QUIET}
    groups = ep.record(model, images, "mid_block", store=tmp_path / "runs", **options)
    assert list(groups.children) == ["128x128", "200x300"]
    assert groups["128x128"]["sample"].values.tolist() == ["picture", "picture (3)"]
    alone = ep.record(model, wide, "mid_block", **options)
    found = ep.site(ep.open(tmp_path / "runs" / "200x300"), "mid_block")
    assert np.array_equal(found, ep.site(alone, "mid_block"))
    assert float(found["y"][-1] + found["y"][0]) == 200
    xr.testing.assert_identical(ep.open(tmp_path / "runs").load(), groups.load())
    with pytest.raises(StoreError, match="several sizes, 128x128, 200x300; open one of them"):
        info(tmp_path / "runs")
    for function in (ep.views.layers, ep.site):
        with pytest.raises(InputError, match="several sizes, 128x128, 200x300; choose one"):
            function(groups, "mid_block")
    cropped = ep.record(model, images, "mid_block", crop=True, **options)
    values = ep.site(cropped, "mid_block")
    assert values.sizes["sample"] == 3
    assert float(values["x"][-1] + values["x"][0]) == 128
    # What has the common size already is left as it is.
    first = ep.site(groups["128x128"], "mid_block").isel(sample=0)
    np.testing.assert_allclose(values.isel(sample=0), first, atol=1e-5)
    with pytest.raises(InputError, match="crop is for images"):
        ep.record(model, HOUSE, "mid_block", crop=True, **options)


def test_only_what_is_recorded_is_computed_where_latents_are_known(model, tmp_path):
    """Edit-friendly inversion knows every x_t, so that the rest of the run needs no calls."""
    calls, predict = [], model.predict

    def counted(latents, timestep, condition):
        calls.append(timestep)
        return predict(latents, timestep, condition)

    photo = ep.Photo(scene(1).image)
    whole = ep.record(model, photo, "mid_block", **QUIET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "predict", counted)
        some = ep.record(model, photo, "mid_block", timesteps=[601, 201], **QUIET)
    assert calls == [601, 201, 1]  # the last one gives the image
    expected = ep.site(whole, "mid_block").sel(timestep=[601, 201])
    assert np.array_equal(ep.site(some, "mid_block"), expected)
    assert np.array_equal(ep.site(some, "image"), ep.site(whole, "image"))


def test_latents_are_recorded_as_the_photographs_that_they_are_of(model):
    photos = [ep.Photo(scene(seed).image) for seed in (1, 2)]
    pixels = [torch.from_numpy(each.rgb()).movedim(-1, 0)[None] / 255 for each in photos]
    given = [ep.Latents(model.encode(each)) for each in pixels]
    options = {"timesteps": (401, 1), "dtype": "float32", **QUIET}
    theirs = ep.record(model, photos, "mid_block", **options)
    ours = ep.record(model, given, "mid_block", **options)
    for name in ("mid_block", "latents"):
        np.testing.assert_allclose(ep.site(ours, name), ep.site(theirs, name), atol=1e-4)
    assert not np.allclose(ep.site(ours, "mid_block")[0], ep.site(ours, "mid_block")[1], atol=1e-2)
    labelled = xr.DataArray(given[1].values[0], dims=("channel", "y", "x"))
    again = ep.record(
        model,
        ep.Latents(labelled.transpose("y", "x", "channel"), name="car"),
        "mid_block",
        **options,
    )
    assert np.array_equal(ep.site(again, "mid_block")[0], ep.site(ours, "mid_block")[1])
    assert again["source"].item().startswith("latents 'car' ")
    with pytest.raises(InputError, match=r"\(3, 32, 32\); for this model give 4 channels"):
        ep.record(model, ep.Latents(np.zeros((3, 32, 32))), **QUIET)
    with pytest.raises(InputError, match="multiples of 4"):
        ep.record(model, ep.Latents(np.zeros((4, 30, 32))), **QUIET)


@pytest.mark.parametrize("layout", ["playground", "xl"])
def test_samples_in_one_call_are_those_alone(model, layout):
    model = model if layout == "playground" else ep.load(stable_diffusion_xl())
    options = {"dtype": "float32", "guidance": 2, **QUIET}
    together = ep.record(model, [HOUSE, CAR], "blocks", batch=2, **options)
    alone = ep.record(model, CAR, "blocks", **options)
    np.testing.assert_allclose(
        ep.site(together, "mid_block").isel(sample=1),
        ep.site(alone, "mid_block").isel(sample=0),
        atol=1e-4,
    )


def test_the_batch_is_halved_when_memory_runs_out(model, monkeypatch):
    alone = ep.record(model, [HOUSE, CAR], "mid_block", **QUIET)
    predict, sizes = model.predict, []

    def short_of_memory(latents, timestep, condition):
        sizes.append(len(latents))
        if len(latents) > 1 and timestep < 500:
            raise torch.OutOfMemoryError("out of memory")
        return predict(latents, timestep, condition)

    monkeypatch.setattr(model, "predict", short_of_memory)
    halved = ep.record(model, [HOUSE, CAR], "mid_block", batch=2, **QUIET)
    assert 2 in sizes
    assert sizes.count(1) == 10
    assert np.array_equal(ep.site(halved, "mid_block"), ep.site(alone, "mid_block"))


def test_a_plan_says_what_a_recording_holds(model, recorded):
    plan = ep.record(model, [HOUSE, CAR], "*", guidance=3, dtype="float32", plan=True, **QUIET)
    assert plan.nbytes == sum(leaf["value"].nbytes for leaf in recorded.leaves)
    table = plan.table()
    assert table["bytes"].sum() == plan.nbytes
    for leaf in recorded.leaves:
        row = table.loc[leaf.path.strip("/")]
        assert row["dims"] == " ".join(leaf["value"].dims)
        assert row["shape"] == " x ".join(map(str, leaf["value"].shape))
    assert "MiB" in repr(plan)
    assert "conv_in/out" in plan._repr_html_()


@pytest.mark.parametrize("version", ["v1", "v2", "xl"])
def test_stable_diffusions_layouts_are_recorded(version):
    pipeline = stable_diffusion_xl() if version == "xl" else stable_diffusion(version)
    model = ep.load(pipeline)
    run = ep.record(model, HOUSE, model.sites("*", level=4), steps=2, progress=False)
    block = "up_blocks.0" if version == "xl" else "up_blocks.1"
    name = f"{block}.attentions.0.transformer_blocks.0.attn2:query"
    assert ep.site(run, name).sizes["y"] == 4
    assert np.isfinite(ep.site(run, name)).all()


def test_wrong_calls_are_refused(model, tmp_path):
    with pytest.raises(InputError, match="all of one kind; not Photo, Prompt"):
        ep.record(model, [HOUSE, ep.Photo(scene(1).image)])
    with pytest.raises(InputError, match="not nothing"):
        ep.record(model, [])
    with pytest.raises(ConfigError, match=r"timesteps \[2\] are not on the grid"):
        ep.record(model, HOUSE, timesteps=[2])
    with pytest.raises(ConfigError, match="'float64'; choose one of"):
        ep.record(model, HOUSE, dtype="float64")
    for wrong in (
        {"batch": 0},
        {"steps": 4.0},
        {"steps": "4"},
        {"seed": -1},
        {"guidance": float("nan")},
        {"guidance": 0.5},
        {"timesteps": 281},
        {"timesteps": ["281"]},
    ):
        (name,) = wrong
        with pytest.raises(ConfigError, match=f"{name} is"):
            ep.record(model, HOUSE, **wrong)
    with pytest.raises(SiteError, match="no site matches 'mid'"):
        ep.record(model, HOUSE, "mid")


def test_numbers_of_numpy_are_taken_and_continue_the_same_store(model, recorded, tmp_path):
    wanted = recorded["timestep"][:2]
    settings = {"timesteps": [801, 601], "guidance": 1, "store": tmp_path / "run.zarr"}
    expected = ep.record(model, HOUSE, "mid_block", **settings, **QUIET)
    for timesteps in (wanted, wanted.values, wanted.values.astype(np.float32), set(wanted.values)):
        run = ep.record(
            model,
            ep.Prompt(HOUSE.text, np.int64(HOUSE.seed)),
            "mid_block",
            steps=np.int64(5),
            timesteps=timesteps,
            guidance=np.float32(1),
            seed=np.uint8(HOUSE.seed),
            batch=np.int32(1),
            store=tmp_path / "run.zarr",
            progress=False,
        )
        equal(run, expected)
        assert run["timestep"].values.tolist() == [801, 601]


def test_what_float16_cannot_hold_is_not_recorded(model, monkeypatch):
    bias = model.unet.conv_in.bias
    monkeypatch.setattr(bias, "data", bias.data + 1e5)
    with pytest.raises(CaptureError, match=r"'conv_in:out' has values beyond 65504.*float32"):
        ep.record(model, HOUSE, "conv_in", **QUIET)
    run = ep.record(model, HOUSE, "conv_in", dtype="float32", **QUIET)
    assert float(ep.site(run, "conv_in").max()) > 65504


def test_values_that_are_not_finite_name_the_timestep_and_the_cure(model, monkeypatch):
    bias = model.unet.conv_in.bias
    monkeypatch.setattr(bias, "data", bias.data + np.nan)
    with pytest.raises(
        CaptureError, match=r"'conv_in:out' .*not finite at timestep 801; .*dtype='float32'"
    ):
        ep.record(model, HOUSE, "conv_in", **QUIET)


def test_a_picture_that_is_not_finite_is_not_shown_black(model, monkeypatch):
    """As autoencoders give in float16, after all that is recorded was finite."""
    run = ep.generate(model, HOUSE, **QUIET)
    decode = type(model).decode

    def overflowing(self, latents):
        decoded = decode(self, latents)
        decoded[..., 0, 0] = np.nan
        return decoded

    # What a model is, is asked by decoding, too.
    monkeypatch.setattr("emerdiff_probe.runs.making.identity", lambda _: run.about)
    monkeypatch.setattr(type(model), "decode", overflowing)
    match = r"decoded image .*not finite.* after the last timestep.*float16; .*dtype='float32'"
    for ask in (
        lambda: ep.generate(model, HOUSE, **QUIET),
        lambda: ep.record(model, HOUSE, "mid_block", **QUIET),
    ):
        with pytest.raises(CaptureError, match=match):
            ask()


def test_other_settings_do_not_continue_a_store(model, tmp_path):
    path = tmp_path / "run.zarr"
    ep.record(model, HOUSE, "mid_block", store=path, **QUIET)
    with pytest.raises(ConfigError, match=r"seed: begun with 1, now 2.*or another folder"):
        ep.record(model, ep.Prompt(HOUSE.text, 2), "mid_block", store=path, **QUIET)


def test_foreign_folders_are_left_alone(model, tmp_path):
    mine = tmp_path / "thesis"
    mine.mkdir()
    (mine / "thesis.tex").write_text("text")
    with pytest.raises(StoreError, match="as a recording"):
        ep.record(model, HOUSE, "mid_block", store=mine, **QUIET)
    with pytest.raises(StoreError, match="as a recording"):
        ep.open(mine)
    with pytest.raises(StoreError, match="as a recording"):
        ep.open(tmp_path / "nothing")
    (tmp_path / "run.zip").write_text("text")
    with pytest.raises(StoreError, match="is a file, and stores are written to folders"):
        ep.record(model, HOUSE, "mid_block", store=tmp_path / "run.zip", **QUIET)
    with pytest.raises(StoreError, match="is not a folder on this machine"):
        ep.record(model, HOUSE, "mid_block", store="s3://bucket/run.zarr", **QUIET)
    assert sorted(entry.name for entry in tmp_path.rglob("*")) == [
        "run.zip",
        "thesis",
        "thesis.tex",
    ]


def test_a_disk_that_is_too_small_is_refused_first(model, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 100))
    with pytest.raises(StoreError, match=r"takes .* MiB and .* has 0 KiB free"):
        ep.record(model, HOUSE, "mid_block", store=tmp_path / "run.zarr", **QUIET)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_recording_is_readable_and_goes_on(model, tmp_path, small_blocks):
    path = tmp_path / "run.zarr"
    predict = model.predict

    def interrupted(latents, timestep, condition):
        if timestep < 300:
            raise KeyboardInterrupt
        return predict(latents, timestep, condition)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "predict", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ep.record(model, HOUSE, "mid_block", store=path, **QUIET)
    part = ep.site(ep.open(path), "mid_block")
    assert np.isfinite(part.sel(timestep=[801, 601]).values).all()
    assert np.isnan(part.sel(timestep=[401, 201, 1]).values).all()
    calls = []

    def counted(latents, timestep, condition):
        calls.append(timestep)
        return predict(latents, timestep, condition)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "predict", counted)
        whole = ep.record(model, HOUSE, "mid_block", store=path, **QUIET)
    assert calls == [401, 201, 1]
    equal(whole, ep.record(model, HOUSE, "mid_block", **QUIET))


def test_a_failure_of_the_disk_is_told_and_goes_on_later(model, tmp_path, small_blocks):
    path, commit, calls = tmp_path / "run.zarr", Streamed._commit, []

    def full(self, *item):
        calls.append(item)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        commit(self, *item)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Streamed, "_commit", full)
        with pytest.raises(StoreError, match=r"could not be written: .*No space left.*resumes"):
            ep.record(model, HOUSE, "mid_block", store=path, **QUIET)
    part = ep.site(ep.open(path), "mid_block")
    assert np.isfinite(part.sel(timestep=[801, 601]).values).all()
    whole = ep.record(model, HOUSE, "mid_block", store=path, **QUIET)
    equal(whole, ep.record(model, HOUSE, "mid_block", **QUIET))
