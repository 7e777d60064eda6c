"""Supply training pictures: the scenes of the package, or a folder of your own."""

import hashlib
import json
import multiprocessing
import signal
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from emerdiff_probe import scenes
from emerdiff_probe.errors import InputError, StoreError
from emerdiff_probe.inputs import Photo
from emerdiff_probe.scenes import SIZE

__all__ = ["FolderPictures", "Picture", "PictureCache", "Pictures", "ScenePictures"]

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")
CHUNK = 64


class Picture(NamedTuple):
    """Pair a uint8 picture (128, 128, 3) with its caption, which can be empty."""

    pixels: NDArray[np.uint8]
    caption: str


class Pictures(Protocol):
    """Describe a numbered collection of pictures, the last of which are kept for validation."""

    @property
    def train(self) -> int:
        """Return the number of pictures to train on."""

    @property
    def validation(self) -> int:
        """Return the number of pictures to validate on; they come after those to train on."""

    @property
    def mirrored(self) -> bool:
        """Return whether to show each picture mirrored, too."""

    def picture(self, index: int) -> Picture:
        """Return one of the train + validation pictures."""

    def identity(self) -> dict[str, Any]:
        """Return what tells this collection from another, as JSON values."""


class ScenePictures:
    """Supply scenes of :mod:`emerdiff_probe.scenes`, by their training and validation seeds.

    They are not mirrored: another scene costs no more than a mirrored one and teaches more.
    """

    mirrored = False

    def __init__(self, train: int, validation: int) -> None:
        self.train, self.validation = train, validation

    def picture(self, index: int) -> Picture:
        """Render one scene."""
        seed = scenes.TRAIN[index] if index < self.train else scenes.VALIDATION[index - self.train]
        scene = scenes.scene(seed)
        return Picture(scene.image, scene.caption)

    def identity(self) -> dict[str, Any]:
        """Return the numbers of scenes, and a fingerprint that changes with the generator."""
        digest = hashlib.sha256()
        for index in (0, self.train):
            digest.update(self.picture(index).pixels.tobytes())
        return {
            "kind": "scenes",
            "train": self.train,
            "validation": self.validation,
            "fingerprint": digest.hexdigest()[:16],
        }


class FolderPictures:
    """Supply the PNG, JPEG and WebP files of a folder and its subfolders, sorted by name.

    The caption of ``NAME.png`` is in ``NAME.txt`` beside it; without that file it is empty. Each
    picture is cropped around its centre to a square and resized to 128 x 128. The last 5 %, at
    least one, are for validation.

    Raises:
        InputError: The folder does not exist or has fewer than two pictures, or a caption is not
            UTF-8.
    """

    mirrored = True

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise InputError(
                f"no folder '{folder}'; give a folder of pictures ({', '.join(ENDINGS)})"
            )
        self.folder = folder
        self.files = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and path.is_file()
        )
        if len(self.files) < 2:
            raise InputError(
                f"{len(self.files)} pictures in '{folder}' and its subfolders; give 2 or more with "
                f"the endings {', '.join(ENDINGS)}, as one is for validation"
            )
        self.captions = [_caption(path) for path in self.files]
        self.validation = max(1, round(len(self.files) * 0.05))
        self.train = len(self.files) - self.validation

    def picture(self, index: int) -> Picture:
        """Read one picture.

        Raises:
            InputError: The picture cannot be read.
        """
        image = Image.fromarray(Photo(self.files[index]).rgb())
        square = ImageOps.fit(image, (SIZE, SIZE), Image.Resampling.LANCZOS)
        return Picture(np.asarray(square), self.captions[index])

    def identity(self) -> dict[str, Any]:
        """Return the number of pictures, and a fingerprint of names, sizes, times and captions."""
        digest = hashlib.sha256()
        for path, caption in zip(self.files, self.captions, strict=True):
            status = path.stat()
            name = path.relative_to(self.folder).as_posix()
            digest.update(repr((name, status.st_size, status.st_mtime_ns, caption)).encode())
        return {
            "kind": "images",
            "train": self.train,
            "validation": self.validation,
            "fingerprint": digest.hexdigest()[:16],
        }


def _caption(picture: Path) -> str:
    path = picture.with_suffix(".txt")
    if not path.is_file():
        return ""
    try:
        return " ".join(path.read_text(encoding="utf-8").split())
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is not UTF-8 ({error}); save it as UTF-8") from error


class PictureCache:
    """Make all pictures of a collection once, in one file that is mapped into memory.

    Args:
        folder: Folder for ``pictures.npy``, uint8 (pictures, 128, 128, 3), and ``captions.jsonl``.
            A picture counts as made once its caption is written.
        pictures: Collection of pictures.
    """

    def __init__(self, folder: Path, pictures: Pictures) -> None:
        self.pictures = pictures
        self.count = pictures.train + pictures.validation
        self._pixels_file, self._captions_file = folder / "pictures.npy", folder / "captions.jsonl"
        self._done = _complete_lines(self._captions_file)
        if not self._pixels_file.exists():
            self._done = []
        shape = (self.count, SIZE, SIZE, 3)
        mode = "r+" if self._done else "w+"
        self.pixels: NDArray[np.uint8] = np.lib.format.open_memmap(
            self._pixels_file,
            mode=mode,
            dtype=np.uint8,
            shape=None if self._done else shape,
        )
        if self.pixels.shape != shape:
            raise StoreError(
                f"'{self._pixels_file}' has shape {self.pixels.shape}, not {shape}; "
                "delete it, and it is made again"
            )

    @property
    def captions(self) -> list[str]:
        """Return the captions of the pictures made so far, one for each."""
        return self._done

    def fill(self, processes: int) -> Iterator[int]:
        """Make missing pictures, and yield the number made so far after each chunk.

        Raises:
            InputError: A picture cannot be read.
        """
        self._captions_file.write_text("".join(json.dumps(text) + "\n" for text in self._done))
        starts = range(len(self._done), self.count, CHUNK)
        chunks = [range(start, min(start + CHUNK, self.count)) for start in starts]
        with self._captions_file.open("a") as journal:
            for chunk, made in zip(chunks, self._made(chunks, processes), strict=True):
                for index, picture in zip(chunk, made, strict=True):
                    self.pixels[index] = picture.pixels
                # Pixels first, as a caption says that its picture is there.
                self.pixels.flush()  # type: ignore[attr-defined]
                journal.write("".join(json.dumps(picture.caption) + "\n" for picture in made))
                journal.flush()
                self._done.extend(picture.caption for picture in made)
                yield len(self._done)

    def _made(self, chunks: list[range], processes: int) -> Iterator[list[Picture]]:
        if processes == 1:
            yield from ([self.pictures.picture(i) for i in chunk] for chunk in chunks)
        elif chunks:
            # Forking a process in which torch runs threads is unsafe; spawning is not.
            context = multiprocessing.get_context("spawn")
            pool = ProcessPoolExecutor(processes, context, _begin_worker, (self.pictures,))
            try:
                yield from pool.map(_make_chunk, chunks)
            finally:
                pool.shutdown(cancel_futures=True)


_pictures: Pictures


def _begin_worker(pictures: Pictures) -> None:
    global _pictures
    _pictures = pictures
    # Ctrl-C reaches the whole group of processes; only the parent answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _make_chunk(indices: range) -> list[Picture]:
    return [_pictures.picture(index) for index in indices]


def _complete_lines(path: Path) -> list[str]:
    if not path.exists():
        return []
    *lines, _cut_short = path.read_text().split("\n")
    return [json.loads(line) for line in lines]
