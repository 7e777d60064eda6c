"""Train the bundled model: pictures, autoencoder, text encoder, latents, then UNet.

Everything that took time is kept in a work folder, so the same call resumes where the last one was
interrupted.
"""

import copy
import dataclasses
import json
import math
import platform
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from torch import Tensor
from transformers import CLIPTokenizer

from emerdiff_probe import scenes
from emerdiff_probe.devices import usable
from emerdiff_probe.errors import ConfigError, check_unchanged
from emerdiff_probe.paths import local, made_at_once
from emerdiff_probe.playground import architecture, export
from emerdiff_probe.playground.data import (
    FolderPictures,
    PictureCache,
    Pictures,
    ScenePictures,
)
from emerdiff_probe.playground.loop import Budget, Trainer, saved
from emerdiff_probe.playground.settings import TrainingSettings
from emerdiff_probe.playground.tasks import (
    AutoencoderTask,
    DenoiserTask,
    TextTask,
    autocast,
    to_tensor,
)

__all__ = ["train"]

SAVE_EVERY = 300.0
PREVIEW_EVERY = 600.0


def train(
    out: Path,
    *,
    minutes: float = 105,
    images: Path | None = None,
    start: Path | None = None,
    seed: int = 0,
    work: Path | None = None,
    processes: int = 2,
    device: str | torch.device | None = None,
    settings: TrainingSettings | None = None,
    console: Console | None = None,
) -> Path:
    """Train a latent diffusion model on 128 x 128 pictures and write it as a pipeline folder.

    While it trains, ``work/preview`` holds the model with the best weights so far. Ctrl-C or
    SIGTERM saves the state and stops; the same call resumes.

    Args:
        out: Folder to write, which ``StableDiffusionPipeline.from_pretrained`` can read.
        minutes: Time for training, in minutes. Making and encoding the pictures comes on top.
        images: Folder of pictures, with captions in text files beside them; by default the scenes
            of the package.
        start: Folder that this function wrote. Its UNet is trained further, its autoencoder and
            text encoder stay as they are, and all time goes to the UNet; the sizes of the parts are
            those of that model. Without it, everything is trained from the beginning.
        seed: Seed of all random numbers.
        work: Folder for what is kept between runs; by default ``out`` with ``.work`` appended.
        processes: Number of processes that make pictures.
        device: Device to train on; by default CUDA if there is one, else the CPU. An interrupted
            training can resume on another device.
        settings: All other settings; ``minutes`` and ``seed`` given here replace those in it.
        console: Console to report to.

    Returns:
        Folder that was written.

    Raises:
        InputError: A number is out of range, or a folder has no usable pictures.
        ConfigError: ``out`` holds something else, or ``work`` was started with other settings.
        ModelError: The device does not exist, or the loss is no longer finite.
        KeyboardInterrupt: The training was interrupted; its state is saved.
    """
    settings = dataclasses.replace(settings or TrainingSettings(), minutes=minutes, seed=seed)
    console = console or Console()
    where = usable(device)
    out = local(out)
    work = local(work) if work is not None else out.with_name(out.name + ".work")
    export.check_free(out)
    pictures: Pictures = (
        ScenePictures(settings.pictures, settings.validation_pictures)
        if images is None
        else FolderPictures(local(images))
    )
    if start is not None:
        settings = dataclasses.replace(settings, autoencoder_share=0.0, text_share=0.0)
    start = local(start) if start is not None else None
    begun = export.read_record(start) if start is not None else None
    _claim(
        work,
        {
            # A longer or shorter training counts as the same one.
            "settings": {k: v for k, v in settings.as_json().items() if k != "minutes"},
            "pictures": pictures.identity(),
            "start": None if begun is None else begun["denoiser"],
        },
    )
    with _stopping() as stop, _progress(console) as progress:
        _Run(out, work, settings, pictures, start, processes, where, stop, progress).run()
    console.print(f"wrote '{out}'")
    return out


def _claim(work: Path, asked: dict[str, Any]) -> None:
    """Note what the work folder is for, or check that it is for this training."""
    begun = work / "settings.json"
    if begun.exists():
        try:
            before = dict(json.loads(begun.read_text()))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"'{begun}' is damaged ({error}), so it is unknown what the training was begun "
                "with; choose another work folder, or delete it if the settings are the same"
            ) from error
        check_unchanged(before, asked, f"the training in '{work}'", "another work folder")
    else:
        with made_at_once(begun, replace=True) as new:
            new.write_text(json.dumps(asked, indent=1) + "\n")


class _Stop:
    """Tell whether a signal has asked for an end."""

    requested = False

    def check(self, save: Callable[[], None] = lambda: None) -> None:
        if self.requested:
            save()
            raise KeyboardInterrupt("the training is saved; the same command resumes it")


@contextmanager
def _stopping() -> Iterator[_Stop]:
    """Let signals only set a flag, so that no update is cut in half; a second one ends at once."""
    stop = _Stop()
    held: dict[int, Any] = {}
    numbers: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM)

    def ask(number: int, frame: Any) -> None:
        stop.requested = True
        signal.signal(number, held[number])

    for number in numbers:
        try:
            held[number] = signal.signal(number, ask)
        except ValueError:  # not the main thread, where no handler can be set
            break
    try:
        yield stop
    finally:
        for number, handler in held.items():
            signal.signal(number, handler)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description:>12}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


class _Run:
    """Run one training from pictures to the folder, stage by stage."""

    def __init__(
        self,
        out: Path,
        work: Path,
        settings: TrainingSettings,
        pictures: Pictures,
        start: Path | None,
        processes: int,
        device: torch.device,
        stop: _Stop,
        progress: Progress,
    ) -> None:
        self.out, self.work, self.settings, self.pictures = out, work, settings, pictures
        self.start, self.processes, self.device = start, processes, device
        self.stop, self.progress = stop, progress
        self.cache = PictureCache(work, pictures)

    def run(self) -> None:
        self._make_pictures()
        torch.manual_seed(self.settings.seed)  # the first weights
        if self.start is None:
            parts, record = self._from_scratch()
        else:
            parts, record = export.read(self.start), export.read_record(self.start)
            record["earlier"] = [*record.get("earlier", []), record["denoiser"]]
            _put(parts, self.device)
        train = self.pictures.train
        latents = self._encode(parts.vae)
        spread = float(latents[:, :train].float().std())
        if self.start is None:
            parts.vae.register_to_config(scaling_factor=1 / spread)
        latents.mul_(parts.vae.config.scaling_factor)
        tokens = _tokens(parts.words, self.cache.captions)
        denoiser = Trainer(
            DenoiserTask(
                parts.unet,
                parts.text,
                latents[:, :train],
                tokens[:train],
                latents[0, train:],
                tokens[train:],
                _tokens(parts.words, [""])[0],
                self.settings,
            ),
            self.settings,
            Budget(self.settings.denoiser_seconds, self.settings.denoiser_steps),
            self.work / "denoiser.pt",
        )

        def write(folder: Path) -> None:
            with denoiser.best():
                export.write(folder, parts, {**record, **self._record(parts, denoiser)})

        self._train(denoiser, "denoiser", lambda: write(self.work / "preview"))
        write(self.out)

    def _from_scratch(self) -> tuple[export.Parts, dict[str, Any]]:
        """Return all parts, with the autoencoder and the text encoder trained, but not the UNet."""
        sizes = self.settings.sizes
        words = architecture.tokenizer([*scenes.CAPTION_WORDS, *self.cache.captions], sizes)
        parts = export.Parts(
            architecture.autoencoder(sizes),
            architecture.denoiser(sizes),
            architecture.text_encoder(words, sizes),
            words,
        )
        train = self.pictures.train
        _put(parts, self.device)
        trainer = Trainer(
            AutoencoderTask(
                parts.vae, self.cache.pixels[:train], self.cache.pixels[train:], self.settings
            ),
            self.settings,
            Budget(self.settings.autoencoder_seconds, self.settings.autoencoder_steps),
            self.work / "autoencoder.pt",
        )
        self._train(trainer, "autoencoder", lambda: None)
        trainer.adopt_best()
        psnr = -10 * math.log10(trainer.best_loss)
        record = {"autoencoder": _figures(trainer) | {"validation_psnr_db": psnr}}
        tokens = _tokens(words, self.cache.captions)
        if not (tokens == tokens[0]).all():
            record["text_encoder"] = self._train_text(parts, tokens)
        parts.text.eval().requires_grad_(False)
        architecture.standardise(parts.text, tokens[:2000].to(self.device))
        return parts, record

    def _train_text(self, parts: export.Parts, tokens: Tensor) -> dict[str, Any]:
        train = self.pictures.train
        trainer = Trainer(
            TextTask(
                parts.text,
                self.cache.pixels[:train],
                tokens[:train],
                self.cache.pixels[train:],
                tokens[train:],
                _tokens(parts.words, [" ".join(scenes.COLOURS)])[0, 1:-1],
                self.settings,
            ),
            self.settings,
            Budget(self.settings.text_seconds, self.settings.text_steps),
            self.work / "text_encoder.pt",
        )
        self._train(trainer, "text encoder", lambda: None)
        trainer.adopt_best()
        return _figures(trainer)

    def _make_pictures(self) -> None:
        task = self.progress.add_task("pictures", total=self.cache.count, note="")
        for done in self.cache.fill(self.processes):
            self.progress.update(task, completed=done, note=f"{done} of {self.cache.count}")
            self.stop.check()
        self.progress.update(task, completed=self.cache.count)

    def _train(self, trainer: Trainer, name: str, preview: Callable[[], None]) -> None:
        task = self.progress.add_task(name, total=1.0, note="")
        saved = shown = time.monotonic()
        for report in trainer.steps():
            rate = trainer.samples / report.seconds
            left = report.seconds * (1 / report.spent - 1)
            note = f"loss {report.loss:.4f}, {rate:.1f} samples/s, {left / 60:.1f} min left"
            self.progress.update(task, completed=report.spent, note=note)
            if report.validation:
                figure = report.validation.validation_loss
                self.progress.console.print(
                    f"{name}: {report.step} updates, validation {figure:.5f}, {note}"
                )
            self.stop.check(trainer.save)
            now = time.monotonic()
            if now - saved > SAVE_EVERY:
                trainer.save()
                saved = now
            if trainer.curve and now - shown > PREVIEW_EVERY:
                preview()
                shown = now
        trainer.save()
        self.progress.update(task, completed=1.0)

    def _encode(self, vae: AutoencoderKL) -> Tensor:
        """Return posterior means (versions, pictures, 4, 32, 32), the mirrored pictures second."""
        kept = self.work / "latents.pt"
        if kept.exists():
            return torch.load(kept, weights_only=True)
        versions = (1, -1) if self.pictures.mirrored else (1,)
        task = self.progress.add_task("latents", total=self.cache.count * len(versions), note="")
        latents = []
        vae = copy.deepcopy(vae).to(memory_format=torch.channels_last)  # 1.8 times as fast on CPUs
        for direction in versions:
            for start in range(0, self.cache.count, 32):
                pixels = self.cache.pixels[start : start + 32, :, ::direction]
                images = to_tensor(np.ascontiguousarray(pixels)).to(self.device)
                with torch.no_grad(), autocast(self.device):
                    mean = vae.encode(images).latent_dist.mean
                latents.append(mean.half().cpu())
                self.progress.advance(task, len(pixels))
                self.stop.check()
        whole = torch.cat(latents).unflatten(0, (len(versions), -1))
        saved(whole, kept)
        return whole

    def _record(self, parts: export.Parts, denoiser: Trainer) -> dict[str, Any]:
        packages = ("diffusers", "numpy", "torch", "transformers")
        return {
            "maker": "emerdiff_probe.playground.train",
            "settings": self.settings.as_json(),
            "pictures": self.pictures.identity(),
            "words": len(parts.words),
            "denoiser": _figures(denoiser),
            "device": self.device.type,
            "python": platform.python_version(),
            "versions": {name: metadata.version(name) for name in packages},
        }


def _put(parts: export.Parts, device: torch.device) -> None:
    """Move the parts; first weights are drawn on the CPU, so a seed means the same everywhere."""
    for part in (parts.vae, parts.unet, parts.text):
        part.to(device)


def _figures(trainer: Trainer) -> dict[str, Any]:
    return {
        "updates": trainer.step,
        "samples": trainer.samples,
        "seconds": round(trainer.seconds, 1),
        "parameters": sum(p.numel() for p in trainer.task.modules.parameters()),
        "best_validation_loss": trainer.best_loss,
        "curve": [dataclasses.asdict(point) for point in trainer.curve],
    }


def _tokens(words: CLIPTokenizer, captions: list[str]) -> Tensor:
    return words(
        captions,
        padding="max_length",
        max_length=words.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
