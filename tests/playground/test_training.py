"""The training of the bundled model, with parts and pictures so few that it takes seconds."""

import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from rich.console import Console
from torch import nn
from torch.nn import functional as F

from emerdiff_probe import models, playground, scenes
from emerdiff_probe.errors import ConfigError, InputError, ModelError, StoreError
from emerdiff_probe.playground import architecture, tasks
from emerdiff_probe.playground.data import FolderPictures, PictureCache, ScenePictures
from emerdiff_probe.playground.loop import Budget, Trainer, saved
from emerdiff_probe.playground.optimizers import Optimizers
from emerdiff_probe.playground.padding import pad_as_configured
from emerdiff_probe.playground.settings import Sizes, TrainingSettings
from emerdiff_probe.playground.train import train

SIZES = Sizes(
    autoencoder_channels=(8, 8, 8),
    denoiser_channels=(12, 24, 24),
    head_width=12,
    text_width=32,
    text_layers=1,
)
TINY = TrainingSettings(
    autoencoder_steps=3,
    text_steps=2,
    denoiser_steps=4,
    pictures=6,
    validation_pictures=3,
    autoencoder_batch=2,
    text_batch=4,
    crop=16,
    batch=2,
    warmup=2,
    validate_every=3,
    sizes=SIZES,
)


def start(out, **changes):
    """A tiny training, in this process and without output."""
    options = {
        "processes": 1,
        "device": "cpu",
        "settings": TINY,
        "console": Console(quiet=True),
    } | changes
    return train(out, **options)


def weights(folder):
    """All weights of a pipeline folder by part and name."""
    pipeline = load(folder)
    return {
        f"{part}.{name}": tensor
        for part in ("vae", "unet", "text_encoder")
        for name, tensor in getattr(pipeline, part).state_dict().items()
    }


def load(folder):
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return start(tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="module")
def words():
    return architecture.tokenizer(scenes.CAPTION_WORDS, SIZES)


def test_the_folder_is_a_pipeline_that_needs_no_options(trained):
    pipeline = load(trained)
    parts = (pipeline.vae, pipeline.unet, pipeline.text_encoder)
    assert {p.dtype for part in parts for p in part.parameters()} == {torch.float32}
    picture = pipeline("a red house", num_inference_steps=2).images[0]
    assert picture.size == (128, 128)
    pipeline.scheduler.set_timesteps(50)
    assert pipeline.scheduler.timesteps.tolist() == list(range(981, 0, -20))


def test_the_trained_weights_are_what_is_written(trained):
    state = torch.load(trained.with_name("model.work") / "denoiser.pt", weights_only=True)
    stored = weights(trained)
    best = state["best"]["unet.conv_in.weight"]
    assert torch.equal(stored["unet.conv_in.weight"], best.half().float())
    assert not torch.equal(best, state["weights"]["unet.conv_in.weight"])


def test_the_latents_have_unit_variance_after_scaling(trained):
    latents = torch.load(trained.with_name("model.work") / "latents.pt", weights_only=True)
    factor = load(trained).vae.config.scaling_factor
    assert latents.shape == (1, 9, 4, 32, 32)
    assert (latents[0, :6].float() * factor).std().item() == pytest.approx(1, abs=1e-3)


def test_the_record_tells_how_it_came_to_be(trained):
    record = json.loads((trained / "training.json").read_text())
    assert record["settings"]["denoiser_steps"] == 4
    assert record["denoiser"]["samples"] == 8
    assert record["device"] == "cpu"
    assert [point["step"] for point in record["denoiser"]["curve"]] == [3, 4]
    psnr = record["autoencoder"]["validation_psnr_db"]
    assert 10 ** (-psnr / 10) == pytest.approx(record["autoencoder"]["best_validation_loss"])


@pytest.mark.parametrize(
    ("task", "number"),
    [
        (tasks.AutoencoderTask, signal.SIGINT),
        (tasks.TextTask, signal.SIGTERM),
        (tasks.DenoiserTask, signal.SIGTERM),
    ],
)
def test_interrupted_and_continued_gives_identical_weights(
    trained, tmp_path, monkeypatch, task, number
):
    calls = 0
    loss = task.loss

    def interrupt(self, generator):
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(number)
        return loss(self, generator)

    held = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(task, "loss", interrupt)
        with pytest.raises(KeyboardInterrupt, match="resumes"):
            start(tmp_path / "model")
    assert signal.getsignal(number) == held
    assert calls == 2
    assert not (tmp_path / "model").exists()
    assert same(weights(start(tmp_path / "model")), weights(trained))


def test_a_longer_budget_is_the_same_training(trained):
    """It is finished by its updates, so that nothing changes."""
    before = weights(trained)
    assert same(weights(start(trained, minutes=900)), before)


def test_the_unet_pads_by_reflection_and_its_folder_says_so(trained, tmp_path):
    stock, ours = load(trained).unet, models.load(trained).unet
    padded = [m for m in ours.modules() if isinstance(m, nn.Conv2d) and any(m.padding)]
    assert padded
    assert {m.padding_mode for m in padded} == {"reflect"}
    sample, states = torch.randn(1, 4, 32, 32), torch.randn(1, 24, 32)
    with torch.no_grad():
        plain, reflected = (unet(sample, 500, states).sample for unet in (stock, ours))
    # At the border the two differ; padding by hand is what the module does.
    assert not torch.allclose(plain, reflected, atol=1e-3)
    conv, x = ours.conv_in, torch.randn(1, 4, 8, 8)
    by_hand = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), conv.weight, conv.bias)
    torch.testing.assert_close(conv(x), by_hand)
    stock.save_pretrained(tmp_path / "again")
    assert type(stock).from_pretrained(tmp_path / "again").config["_padding_mode"] == "reflect"


def test_a_unet_that_says_nothing_of_padding_is_left_as_it_is(trained):
    unet = load(trained).unet
    unet.register_to_config(_padding_mode=None)
    pad_as_configured(unet)
    assert {m.padding_mode for m in unet.modules() if isinstance(m, nn.Conv2d)} == {"zeros"}


def test_plain_attention_is_the_fused_one():
    unet = architecture.denoiser(SIZES).eval()
    sample, states = torch.randn(2, 4, 32, 32), torch.randn(2, 24, 32)
    with torch.no_grad():
        fused = unet(sample, torch.tensor([3, 900]), states).sample
        unet.set_attn_processor(tasks._PlainAttention())
        plain = unet(sample, torch.tensor([3, 900]), states).sample
    torch.testing.assert_close(plain, fused, atol=1e-5, rtol=1e-4)


def test_shuffled_captions_have_the_same_words_with_colours_elsewhere(words):
    captions = ["a red house with a blue roof , green grass", "a red house", "an empty landscape"]
    tokens = words(captions, padding="max_length", max_length=24, return_tensors="pt").input_ids
    colours = words(" ".join(scenes.COLOURS)).input_ids[1:-1]
    among = torch.tensor(colours)
    generator = torch.Generator().manual_seed(0)
    many = [tasks._shuffled(tokens, among, generator) for _ in range(20)]
    for shuffled in many:
        kept = ~torch.isin(tokens, among)
        assert torch.equal(shuffled[kept], tokens[kept])
        assert torch.equal(shuffled.sort().values, tokens.sort().values)
        assert torch.equal(shuffled[1:], tokens[1:])  # one colour or none can't be shuffled
    assert len({tuple(shuffled[0].tolist()) for shuffled in many}) == 6


def test_a_text_encoder_learns_which_caption_belongs_to_a_picture(words):
    """Over sixteen scenes the loss falls far below chance, which is the logarithm of 32 and 16."""
    torch.manual_seed(0)
    made = [scenes.scene(seed) for seed in range(16)]
    pixels = np.stack([scene.image for scene in made])
    tokens = words(
        [scene.caption for scene in made], padding="max_length", max_length=64, return_tensors="pt"
    ).input_ids
    colours = torch.tensor(words(" ".join(scenes.COLOURS)).input_ids[1:-1])
    settings = dataclasses.replace(TINY, text_batch=16)
    text = architecture.text_encoder(words, SIZES)
    task = tasks.TextTask(text, pixels, tokens, pixels, tokens, colours, settings)
    chance = task.validate()
    optimizer = torch.optim.AdamW(task.modules.parameters(), 3e-3)
    for seed in range(40):
        task.loss(torch.Generator().manual_seed(seed)).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert chance > 2.5
    assert task.validate() < 1


def test_a_training_of_another_kind_of_device_is_continued(trained, tmp_path):
    """Its random numbers can't be, so they begin from the number of updates."""
    shutil.copytree(trained.parent, tmp_path / "copy")
    checkpoint = tmp_path / "copy" / "model.work" / "denoiser.pt"
    state = torch.load(checkpoint, weights_only=True)
    torch.save({**state, "device": "cuda", "generator": torch.zeros(16)}, checkpoint)
    longer = dataclasses.replace(TINY, denoiser_steps=5)
    begun = tmp_path / "copy" / "model.work" / "settings.json"
    begun.write_text(begun.read_text().replace('"denoiser_steps": 4', '"denoiser_steps": 5'))
    out = start(tmp_path / "copy" / "model", settings=longer)
    assert json.loads((out / "training.json").read_text())["denoiser"]["updates"] == 5


def test_a_device_that_is_not_there_is_refused_before_anything_is_made(tmp_path):
    with pytest.raises(ModelError, match="cannot run on device 'nonsense'"):
        start(tmp_path / "model", device="nonsense")
    assert not list(tmp_path.iterdir())


def test_another_seed_gives_other_weights(trained, tmp_path):
    assert not same(weights(start(tmp_path / "model", seed=1)), weights(trained))


def test_a_model_is_trained_further_with_its_own_autoencoder(trained, tmp_path):
    further = start(tmp_path / "further", start=trained)
    before, after = weights(trained), weights(further)
    changed = {name.partition(".")[0] for name in before if not before[name].equal(after[name])}
    assert changed == {"unet"}
    record, earlier = (json.loads((m / "training.json").read_text()) for m in (further, trained))
    assert record["earlier"] == [earlier["denoiser"]]
    assert record["autoencoder"] == earlier["autoencoder"]
    for part in ("unet", "vae"):
        assert str(tmp_path.parent) not in (further / part / "config.json").read_text()
    assert not (tmp_path / "further.work" / "autoencoder.pt").exists()
    with pytest.raises(ConfigError, match="start"):
        start(tmp_path / "further")


def test_what_was_not_trained_here_is_not_trained_further(tmp_path):
    with pytest.raises(InputError, match=r"no readable training\.json"):
        start(tmp_path / "model", start=tmp_path)


def test_matrices_are_updated_orthogonally_and_the_rest_by_adam():
    torch.manual_seed(0)
    net = nn.ModuleDict({"conv_in": nn.Conv2d(2, 3, 3), "inner": nn.Conv2d(3, 3, 1, bias=True)})
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizers = Optimizers(dict(net.named_parameters()), rate=0.01, matrix_rate=0.5)
    for parameter in net.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizers.step(0.5)
    step = {name: p.detach() - before[name] for name, p in net.named_parameters()}
    singular = torch.linalg.svdvals(step["inner.weight"].flatten(1)) / 0.25
    assert ((singular > 0.6) & (singular < 1.3)).all()
    for name in ("conv_in.weight", "conv_in.bias", "inner.bias"):
        # Adam's first step is the rate, in the direction of the gradient's sign.
        torch.testing.assert_close(
            step[name].abs(), torch.full_like(step[name], 0.005), rtol=0.01, atol=0
        )
    assert all(parameter.grad is None for parameter in net.parameters())


def test_without_a_rate_for_matrices_adam_updates_them_too():
    torch.manual_seed(0)
    net = nn.Linear(3, 4)
    before = net.weight.detach().clone()
    optimizers = Optimizers(dict(net.named_parameters()), rate=0.01, matrix_rate=None)
    net.weight.grad, net.bias.grad = torch.randn(4, 3), torch.randn(4)
    optimizers.step(0.5)
    step = (net.weight.detach() - before).abs()
    torch.testing.assert_close(step, torch.full_like(step, 0.005), rtol=0.01, atol=0)


def test_other_settings_do_not_continue_a_training(trained):
    with pytest.raises(ConfigError, match=r"settings\.rate: begun with 0\.001, now 0\.5"):
        start(trained, settings=dataclasses.replace(TINY, rate=0.5))


def test_a_note_that_was_cut_off_is_told(tmp_path):
    work = tmp_path / "out.work"
    work.mkdir()
    (work / "settings.json").write_text('{"settings": {')
    with pytest.raises(ConfigError, match=r"settings\.json' is damaged .*another work folder"):
        train(tmp_path / "out", work=work)


def test_a_state_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    path = tmp_path / "denoiser.pt"
    saved({"step": 1}, path)

    def full(state, file):
        file.write_bytes(b"half")
        raise RuntimeError("PytorchStreamWriter failed writing file\nand more")

    with monkeypatch.context() as disk:
        disk.setattr(torch, "save", full)
        with pytest.raises(StoreError, match=r"denoiser\.pt' could not be written: Pytorch.*space"):
            saved({"step": 2}, path)
    assert torch.load(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_of_someone_else_is_not_replaced(tmp_path):
    mine = tmp_path / "model" / "thesis.tex"
    mine.parent.mkdir()
    mine.write_text("text")
    with pytest.raises(ConfigError, match=r"no training\.json"):
        start(tmp_path / "model")
    assert mine.read_text() == "text"
    assert not (tmp_path / "model.work").exists()


@pytest.mark.parametrize("change", [{"minutes": 0}, {"batch": 0}, {"crop": 20}, {"crop": 256}])
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(InputError, match=next(iter(change))):
        dataclasses.replace(TINY, **change)


def test_each_word_of_the_captions_is_one_token(words):
    for word in scenes.CAPTION_WORDS:
        begin, token, end = words(word).input_ids
        assert (begin, end) == (words.bos_token_id, words.eos_token_id)
        assert token not in (begin, end)
    ids = {words(word).input_ids[1] for word in scenes.CAPTION_WORDS}
    assert len(ids) == len(set(scenes.CAPTION_WORDS))


def test_unknown_words_are_spelt_and_not_dropped(words):
    for text in ("zebra", "größe", "42 %"):
        tokens = words(text).input_ids[1:-1]
        assert len(tokens) > 1
        assert words.eos_token_id not in tokens
        assert words.decode(tokens).replace(" ", "") == text.replace(" ", "")


def test_captions_differ_by_more_than_they_share(words):
    torch.manual_seed(0)
    sizes = dataclasses.replace(SIZES, text_width=128, text_layers=2)
    text = architecture.text_encoder(words, sizes)
    tokens = words(
        [scenes.scene(seed).caption for seed in range(100)],
        padding="max_length",
        max_length=words.model_max_length,
        return_tensors="pt",
    ).input_ids

    def means():
        with torch.no_grad():
            return text(input_ids=tokens).last_hidden_state.mean(1)

    shared = means().mean(0).norm()
    apart = means().std(0).norm()
    assert shared > apart
    architecture.standardise(text, tokens)
    assert means().mean(0).norm() < 1e-3
    assert means().std(0, correction=0).mean() == pytest.approx(0.5, abs=1e-3)
    before = means()
    architecture.standardise(text, tokens[:1].expand(100, -1))
    assert torch.equal(means(), before)


def test_longer_captions_fit_into_a_prompt(words):
    longest = max((scenes.scene(seed).caption for seed in range(50)), key=len)
    assert len(words(longest).input_ids) <= words.model_max_length


@pytest.fixture
def folder(tmp_path):
    """Four pictures in two folders, three of them with a caption."""
    place = tmp_path / "pictures"
    (place / "more").mkdir(parents=True)
    dice = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "more/c.webp", "more/d.PNG"):
        pixels = dice.integers(0, 256, (150, 200, 3), np.uint8)
        Image.fromarray(pixels).save(place / name)
        if name != "b.jpg":
            (place / name).with_suffix(".txt").write_text("a striped\n zebra ")
    return place


def test_pictures_of_ones_own_train_a_model(folder, tmp_path):
    out = start(tmp_path / "model", images=folder)
    words = load(out).tokenizer
    assert words.tokenize("striped zebra") == ["striped</w>", "zebra</w>"]
    latents = torch.load(tmp_path / "model.work" / "latents.pt", weights_only=True)
    assert latents.shape == (2, 4, 4, 32, 32)
    assert not torch.equal(latents[0], latents[1])


def test_pictures_of_ones_own_are_cropped_and_captioned(folder):
    pictures = FolderPictures(folder)
    assert (pictures.train, pictures.validation) == (3, 1)
    assert pictures.captions == ["a striped zebra", "", "a striped zebra", "a striped zebra"]
    picture = pictures.picture(3)
    assert picture.pixels.shape == (128, 128, 3)
    whole = Image.open(folder / "more" / "d.PNG")
    centre = whole.crop((25, 0, 175, 150)).resize((128, 128), Image.Resampling.LANCZOS)
    inner = slice(4, -4)  # at the rim the resampling sees what lies beyond the crop, rightly
    assert np.array_equal(picture.pixels[:, inner], np.asarray(centre)[:, inner])


def test_a_changed_picture_is_another_collection(folder):
    before = FolderPictures(folder).identity()
    assert FolderPictures(folder).identity() == before
    (folder / "b.txt").write_text("a caption")
    assert FolderPictures(folder).identity() != before


def test_folders_without_usable_pictures_are_refused(folder, tmp_path):
    with pytest.raises(InputError, match="no folder"):
        FolderPictures(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"0 pictures in .*empty"):
        FolderPictures(tmp_path / "empty")
    (folder / "a.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\.png"):
        start(tmp_path / "model", images=folder)
    (folder / "a.txt").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(InputError, match=r"a\.txt"):
        FolderPictures(folder)


def test_the_cache_carries_on_after_a_cut_short_line(tmp_path):
    pictures = ScenePictures(3, 2)
    assert list(PictureCache(tmp_path, pictures).fill(1)) == [5]
    journal = tmp_path / "captions.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:4])
    np.load(tmp_path / "pictures.npy", mmap_mode="r+")[2:] = 0

    cache = PictureCache(tmp_path, pictures)
    assert len(cache.captions) == 2
    assert list(cache.fill(1)) == [5]
    assert list(PictureCache(tmp_path, pictures).fill(1)) == []
    expected = [scenes.scene(seed) for seed in (*scenes.TRAIN[:3], *scenes.VALIDATION[:2])]
    assert np.array_equal(cache.pixels, [scene.image for scene in expected])
    assert cache.captions == [scene.caption for scene in expected]


def test_several_processes_make_the_same_pictures(tmp_path):
    caches = []
    for processes in (1, 2):
        place = tmp_path / str(processes)
        place.mkdir()
        caches.append(PictureCache(place, ScenePictures(70, 1)))
        assert list(caches[-1].fill(processes)) == [64, 71]
    assert np.array_equal(caches[0].pixels, caches[1].pixels)
    assert caches[0].captions == caches[1].captions


class Silent(nn.Module):
    """A UNet that predicts a velocity of zero, and remembers the timesteps it was asked about."""

    device = torch.device("cpu")

    def set_attn_processor(self, processor):
        pass

    def forward(self, noisy, timesteps, states):
        self.timesteps = timesteps
        return type("Output", (), {"sample": torch.zeros_like(noisy)})


@pytest.mark.parametrize("gamma", [1.0, 20.0, 1e9])
def test_noise_levels_are_weighted_by_the_cut_off_signal_to_noise_ratio(words, gamma):
    settings = dataclasses.replace(TINY, batch=500, gamma=gamma)
    tokens = torch.zeros(1, 24, dtype=torch.int64)
    latents = torch.zeros(1, 1, 4, 32, 32, dtype=torch.float16)
    unet, text = Silent(), architecture.text_encoder(words, SIZES)
    task = tasks.DenoiserTask(unet, text, latents, tokens, latents[0], tokens, tokens[0], settings)
    with torch.no_grad():
        loss = task.loss(torch.Generator().manual_seed(0)).item()
    # Spread evenly: two noise levels out of a thousand for each of five hundred pictures.
    assert unet.timesteps.sort().values.diff().unique().tolist() == [2]
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    # Rescaled so that nothing is left at the end: Lin et al. 2024 (arXiv 2305.08891), algorithm 1.
    root = np.sqrt(np.cumprod(1 - betas))
    alpha_bar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    # The latents are 0, so the velocity is sqrt(alpha_bar) noise.
    ratio = alpha_bar / (1 - alpha_bar)
    weight = np.minimum(ratio + 1, gamma) / (ratio + 1)
    assert loss == pytest.approx(np.mean(weight * alpha_bar), rel=0.01)


def test_a_perfect_velocity_has_no_loss(words):
    tokens = torch.zeros(1, 24, dtype=torch.int64)
    latents = torch.randn(1, 1, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    unet, text = Silent(), architecture.text_encoder(words, SIZES)
    task = tasks.DenoiserTask(unet, text, latents, tokens, latents[0], tokens, tokens[0], TINY)

    def perfect(noisy, timesteps, states):
        alpha_bar = task.alpha_bar[timesteps][:, None, None, None]
        noise = (noisy - alpha_bar.sqrt() * latents[0]) / (1 - alpha_bar).sqrt()
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * latents[0]
        return type("Output", (), {"sample": velocity})

    unet.forward = perfect
    assert task.loss(torch.Generator().manual_seed(0)).item() < 1e-6


class Line:
    """A task of one number that wants to be large, with validations told in advance."""

    rate, matrix_rate, batch = 0.1, 0.1, 1

    def __init__(self, figures=()):
        self.modules = nn.ModuleDict({"line": nn.Linear(1, 1)})
        self.figures, self.seen = list(figures), []

    def loss(self, generator):
        return -self.modules["line"].weight.sum()

    def validate(self):
        self.seen.append(self.modules["line"].weight.item())
        return self.figures.pop(0)


def test_the_averaged_weights_that_validated_best_are_kept(tmp_path):
    task = Line([3.0, 1.0, 2.0])
    settings = dataclasses.replace(TINY, validate_every=1)
    trainer = Trainer(task, settings, Budget(1, 3), tmp_path / "line.pt")
    assert [report.validation.validation_loss for report in trainer.steps()] == [3, 1, 2]
    last = task.modules["line"].weight.item()
    with trainer.best():
        assert task.modules["line"].weight.item() == task.seen[1]
    assert task.modules["line"].weight.item() == last != task.seen[1]
    assert task.seen[2] != last  # validated was the average, not the last weights


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path, monkeypatch):
    task = Line()
    monkeypatch.setattr(task, "loss", lambda generator: task.modules["line"].weight.sum() * np.nan)
    with pytest.raises(ModelError, match="nan after 0 updates"):
        next(Trainer(task, TINY, Budget(1, 3), tmp_path / "line.pt").steps())


def test_a_budget_is_time_unless_it_is_updates():
    assert Budget(10, None).spent(5, 1) == 0.5
    assert Budget(10, 4).spent(5, 1) == 0.25
    assert Budget(10, None).spent(50, 1) == 1


def test_absent_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(playground, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ModelError, match="train"):
        playground.folder()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model_index.json").write_text("{}")
    assert playground.folder() == tmp_path / "weights"
