"""What a probe made is a recording like any other: guided, stored, copied and told of."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from diffusers import StableDiffusionPAGPipeline

import emerdiff_probe as ep
from emerdiff_probe.errors import CaptureError, ConfigError, StoreError
from emerdiff_probe.store import info
from emerdiff_probe.store import plan as plans
from tests.checkpoints import stable_diffusion_xl, tiny_playground
from tests.recording.test_probes import CAR, HOUSE, LAYER, MID, QUERY, draw, plain, quiet, same
from tests.store.recordings import equal


@pytest.fixture(scope="module")
def pipe():
    return quiet(tiny_playground())


def text(pipe, *prompts):
    return pipe.encode_prompt(list(prompts), "cpu", 1, False)[0]


def noise(rows=1, seed=0):
    return torch.randn(rows, 4, 32, 32, generator=torch.Generator().manual_seed(seed))


def loop(unet, x, *texts, timesteps=(801, 401)):
    """A call for each text at each timestep, as loops of one's own guide."""
    with torch.no_grad():
        for t in timesteps:
            for each in texts:
                unet(x, t, each)
            x = x * 0.9


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("rows", [1, 2])
def test_guidance_by_two_calls_is_two_halves_of_one_step(pipe, order, rows):
    texts = [text(pipe, *[""] * rows), text(pipe, *[HOUSE, CAR][:rows])]
    with plain(pipe.unet, MID) as seen, ep.probe(pipe, MID, dtype="float32") as recorder:
        loop(pipe.unet, noise(rows), *(texts[each] for each in order))
    values = ep.site(recorder.tree, MID)
    assert values.dims == ("batch", "guidance", "timestep", "y", "x", "channel")
    assert values["guidance"].values.tolist() == ["uncond", "cond"]
    assert values["timestep"].values.tolist() == [801, 401]
    assert values["step"].values.tolist() == [0, 1]
    for call, tensor in enumerate(seen):
        half = ("uncond", "cond")[order[call % 2]]
        assert same(values.sel(guidance=half).isel(timestep=call // 2), tensor)
    assert not same(values.sel(guidance="uncond").isel(timestep=0), seen[order.index(1)])


def test_of_a_bare_unet_nobody_knows_which_call_is_which(pipe):
    texts = [text(pipe, ""), text(pipe, HOUSE), text(pipe, CAR)]
    for count in (2, 3):
        with plain(pipe.unet, MID) as seen, ep.probe(pipe.unet, MID, dtype="float32") as recorder:
            loop(pipe.unet, noise(), *texts[:count])
        values = ep.site(recorder.tree, MID)
        assert values["guidance"].values.tolist() == [f"call {n + 1}" for n in range(count)]
        for call, tensor in enumerate(seen):
            assert same(values.isel(guidance=call % count, timestep=call // count), tensor)


def test_zeros_are_no_prompt():
    """As Stable Diffusion XL has it, so that a bare UNet tells them, too."""
    pipe = stable_diffusion_xl()
    more = {"text_embeds": torch.ones(1, 24), "time_ids": torch.ones(1, 6)}
    words = torch.ones(1, 7, 48)
    with ep.probe(pipe.unet, MID) as recorder, torch.no_grad():
        for each in (words, words * 0):
            pipe.unet(torch.ones(1, 4, 16, 16), 1, each, added_cond_kwargs=more)
    assert ep.site(recorder.tree, MID)["guidance"].values.tolist() == ["uncond", "cond"]


def test_where_two_calls_become_one_another_run_begins(pipe):
    with ep.probe(pipe, MID) as recorder:
        loop(pipe.unet, noise(), text(pipe, ""), text(pipe, HOUSE))
        loop(pipe.unet, noise(seed=1), text(pipe, HOUSE), timesteps=(201,))
    guided, last = recorder.runs
    assert guided.sizes["guidance"] == guided.sizes["timestep"] == 2
    assert "guidance" not in last.sizes
    assert last["step"].values.tolist() == [2]


def test_predictions_with_and_without_a_prompt_are_halves(pipe):
    model = ep.load(pipe)
    empty, house, car = (model.condition(each) for each in ("", HOUSE, CAR))
    for conditions in ((empty, house), (house, empty)):
        with ep.probe(model, MID) as recorder:
            for t in (801, 401):
                for condition in conditions:
                    model.predict(noise(), t, condition)
        tree = recorder.tree
        assert ep.site(tree, MID).dims[:3] == ("sample", "guidance", "timestep")
        assert tree["prompt"].values.tolist() == [HOUSE]
        assert tree["token_text"].sel(guidance="cond").values[0, 1:4].tolist() == HOUSE.split()
    # The control: two prompts are two runs.
    with ep.probe(model, MID) as recorder:
        for condition in (house, car):
            model.predict(noise(), 801, condition)
    assert [run["prompt"].values.item() for run in recorder.runs] == [HOUSE, CAR]


def test_a_pipeline_that_calls_twice_has_its_samples_named(pipe):
    class Twice(type(pipe)):
        def __call__(self, prompt, negative_prompt=None):
            texts = text(self, *prompt), text(self, *[negative_prompt or ""] * len(prompt))
            loop(self.unet, noise(len(prompt)), *texts)
            return (torch.full((len(prompt), 3, 128, 128), 0.5),)

    twice = Twice(**pipe.components, requires_safety_checker=False)
    for negative in ("", "a tree"):
        with ep.probe(twice, [MID, f"{LAYER}.attn2:key"]) as recorder:
            twice([HOUSE, CAR], negative_prompt=negative)
        tree = recorder.tree
        assert ep.site(tree, MID).dims[:3] == ("sample", "guidance", "timestep")
        assert tree["prompt"].values.tolist() == [HOUSE, CAR]
        assert tree["token_text"].sel(guidance="uncond").values[0, 1:3].tolist() == (
            negative.split() or ["<|endoftext|>"] * 2
        )
        assert (ep.site(tree, "image") == 128).all()


@pytest.mark.parametrize("kind", ["pt", "np", "pil"])
def test_pictures_of_any_kind_are_kept(pipe, kind):
    before = draw(pipe, output_type="np")
    with ep.probe(pipe, MID) as recorder:
        draw(pipe, output_type=kind)
    assert np.abs(ep.site(recorder.tree, "image") - np.rint(before * 255)).max() <= (kind == "pil")
    with ep.probe(pipe, MID) as recorder:
        draw(pipe, output_type="latent")
    assert "image" not in recorder.tree.children


def test_it_is_written_as_it_comes(pipe, tmp_path, monkeypatch):
    monkeypatch.setattr(plans, "_LONGEST_BLOCK", 2)
    for steps in (1, 2, 5):
        path = tmp_path / f"{steps}.zarr"
        with ep.probe(pipe, [QUERY, MID]) as expected:
            draw(pipe, [HOUSE, CAR], num_inference_steps=steps)
        with ep.probe(pipe, [QUERY, MID], store=path) as recorder:
            draw(pipe, [HOUSE, CAR], num_inference_steps=steps)
            assert path.is_dir()  # when its run has ended
        equal(recorder.tree, expected.tree)
        equal(ep.open(path), expected.tree)
        assert len(list((path / "mid_block/out/value").glob("c.0.*"))) == -(-steps // 2)
        assert ep.site(ep.open(path), MID).chunks[2][0] == min(steps, 2)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["1.zarr", "2.zarr", "5.zarr"]


def test_each_run_has_a_folder(pipe, tmp_path):
    with ep.probe(pipe, MID, store=tmp_path / "run.zarr") as recorder:
        draw(pipe, HOUSE)
        draw(pipe, CAR)
        loop(pipe.unet, noise(), text(pipe, HOUSE))
        with pytest.raises(CaptureError, match=r"run-3\.zarr'; it can be opened once it has ended"):
            _ = recorder.runs
    assert [run.sizes.get("sample") for run in recorder.runs] == [1, 1, None]
    assert ep.open(tmp_path / "run-2.zarr")["prompt"].values.tolist() == [CAR]
    assert ep.open(tmp_path / "run-3.zarr")["timestep"].values.tolist() == [801, 401]
    with (
        pytest.raises(StoreError, match="already exists"),
        ep.probe(pipe, MID, store=tmp_path / "run.zarr"),
    ):
        pass


def test_what_a_call_wrote_before_an_error_stays(pipe, tmp_path):
    def stopping(pipe, step, timestep, tensors):
        if step == 1:
            raise KeyboardInterrupt
        return tensors

    path = tmp_path / "run.zarr"
    with pytest.raises(KeyboardInterrupt), ep.probe(pipe, MID, store=path):
        draw(pipe, callback_on_step_end=stopping)
    assert np.isfinite(ep.site(ep.open(path), MID)).all()
    assert ep.open(path).sizes["timestep"] == 2
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("stored", [True, False])
def test_it_takes_no_more_than_is_allowed(pipe, tmp_path, stored):
    store = tmp_path / "run.zarr" if stored else None
    with ep.probe(pipe, MID) as recorder:
        draw(pipe, num_inference_steps=1)
    step = sum(recorder.tree[path]["value"].nbytes for path in ("mid_block/out", "latents"))
    with (
        ep.probe(pipe, MID, store=store, max_bytes=np.int64(2 * step)) as recorder,
        pytest.raises(CaptureError, match=rf"max_bytes is {2 * step} .*reduce="),
    ):
        draw(pipe)
    assert recorder.tree.sizes["timestep"] == 2
    with ep.probe(pipe, MID, max_bytes=3 * step) as recorder:
        draw(pipe)
    assert recorder.tree.sizes["timestep"] == 3
    for wrong in ("1GB", 1.5, True):
        with pytest.raises(ConfigError, match="choose an integer"):
            ep.probe(pipe, MID, max_bytes=wrong).__enter__()
    with pytest.raises(ConfigError, match="max_bytes is 0"), ep.probe(pipe, MID, max_bytes=0):
        pass


@pytest.mark.parametrize("kind", ["pipeline", "own loop", "three parts", "two calls"])
def test_it_is_copied_and_told_of(pipe, tmp_path, kind):
    probed, run = pipe, lambda: draw(pipe, HOUSE)
    if kind == "own loop":
        probed, run = pipe.unet, lambda: loop(pipe.unet, noise(2), text(pipe, HOUSE, CAR))
    if kind == "three parts":
        probed = quiet(StableDiffusionPAGPipeline(**pipe.components, pag_applied_layers=["mid"]))
        run = lambda: draw(probed, pag_scale=3.0, guidance_scale=5)  # noqa: E731
    if kind == "two calls":
        run = lambda: loop(pipe.unet, noise(), text(pipe, ""), text(pipe, HOUSE))  # noqa: E731
    with ep.probe(probed, [MID, QUERY]) as recorder:
        run()
    tree = recorder.tree
    steps = ep.rechunk(tree, "steps", tmp_path / "steps.zarr")
    points = ep.rechunk(steps, "points", tmp_path / "points.zarr")
    for path, layout in ((steps, "steps"), (points, "points")):
        equal(ep.open(path), tree)
        found = info(path)
        assert (found.committed, found.finished, found.lost) == (1, True, ())
        assert found.layout == layout
        assert found.sites == (MID + ":out", QUERY)
        assert list(found.timesteps) == tree["timestep"].values.tolist()
        assert (
            found.samples
            == {
                "pipeline": (f"'{HOUSE}', StableDiffusionPipeline",),
                "own loop": ("row 0", "row 1"),
                "three parts": ("row 0", "row 1", "row 2"),
                "two calls": ("row 0",),
            }[kind]
        )
    xr.testing.assert_equal(ep.open(points).to_dataset(), tree.to_dataset())
    assert json.loads(ep.open(points).attrs["config"])["sites"] == list(found.sites)
