"""Define what a run starts from: a prompt, an image or latents; and resize images to fit."""

import hashlib
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from emerdiff_probe.checks import integer
from emerdiff_probe.errors import InputError, ProbeError, closest, first_line
from emerdiff_probe.paths import local
from emerdiff_probe.thumbnails import thumbnail

__all__ = [
    "ENDINGS",
    "Fitted",
    "Input",
    "Latents",
    "Photo",
    "Prompt",
    "as_input",
    "cropped",
    "damage_told",
    "fit",
    "input_name",
    "open_image",
    "unique_names",
]

MOST_PIXELS = 64_000_000
LEAST_SIDE = 16


@dataclass(frozen=True)
class Prompt:
    """A text to generate from. The empty text is valid: it conditions on nothing.

    Args:
        text: The text to generate from; with `prompt_embeds`, only a name for them.
        seed: The seed of the noise, at least 0 and below 2**63.
        negative_prompt: The text that guidance leads away from; by default the empty text. It needs
            a guidance above 1.
        height: The height of the image in pixels; by default that of the model's training.
        width: The width of the image in pixels; by default that of the model's training.
        clip_skip: The number of the text encoder's last layers to skip, as diffusers counts them;
            None reads the layer that the model was trained on.
        prompt_embeds: The encoded text, from NumPy or torch, shape (token, channel) or (1, token,
            channel).
        pooled_prompt_embeds: The text encoded as one vector, shape (channel,) or (1, channel), for
            models that read it, such as Stable Diffusion XL.

    Raises:
        InputError: An argument has another type, or is out of range.

    >>> Prompt("a red house", negative_prompt="blurry", height=128, width=192).described
    "prompt, negative 'blurry', 128 x 192 (height x width)"
    """

    text: str
    seed: int = 0
    negative_prompt: str = field(default="", kw_only=True)
    height: int | None = field(default=None, kw_only=True)
    width: int | None = field(default=None, kw_only=True)
    clip_skip: int | None = field(default=None, kw_only=True)
    prompt_embeds: Any = field(default=None, kw_only=True, repr=False, compare=False)
    pooled_prompt_embeds: Any = field(default=None, kw_only=True, repr=False, compare=False)
    embedded: str = field(default="", init=False)
    """A hash of the given embeddings, which represents them when prompts are compared."""

    def __post_init__(self) -> None:
        for name in ("text", "negative_prompt"):
            if not isinstance(value := getattr(self, name), str):
                raise InputError(
                    f"a prompt is a text, not {value!r}; use Prompt('') to condition on nothing"
                )
        object.__setattr__(self, "seed", integer("seed", self.seed, 0, 2**63 - 1, InputError))
        for name, least in (("height", 1), ("width", 1), ("clip_skip", 0)):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, integer(name, value, least, error=InputError))
        digest = hashlib.blake2b(digest_size=8)
        for name, ndim in (("prompt_embeds", 2), ("pooled_prompt_embeds", 1)):
            if (value := getattr(self, name)) is not None:
                array = _embedded(value, name, ndim)
                object.__setattr__(self, name, array)
                digest.update(array.tobytes())
        if self.prompt_embeds is not None:
            object.__setattr__(self, "embedded", digest.hexdigest())
        elif self.pooled_prompt_embeds is not None:
            raise InputError("pooled_prompt_embeds come with prompt_embeds; give both or the text")
        if self.embedded and self.clip_skip is not None:
            raise InputError(
                "clip_skip is for a text that is still to be encoded, and prompt_embeds are "
                "encoded already; give one of the two"
            )

    @property
    def described(self) -> str:
        """Return the settings besides text and seed as text, for provenance."""
        parts = ["prompt"]
        if self.negative_prompt:
            parts.append(f"negative {self.negative_prompt!r}")
        if self.height is not None or self.width is not None:
            parts.append(f"{self.height or 'usual'} x {self.width or 'usual'} (height x width)")
        if self.clip_skip is not None:
            parts.append(f"clip_skip {self.clip_skip}")
        if self.embedded:
            parts.append(f"embeddings {self.embedded}")
        return ", ".join(parts)


def _embedded(values: Any, name: str, ndim: int) -> NDArray[np.float32]:
    """Return the encoded text of one prompt as float32.

    Raises:
        InputError: The array has another shape, or values that are not finite.
    """
    array = _float32(values)
    array = array[0] if array.ndim == ndim + 1 and len(array) == 1 else array
    if array.ndim != ndim or not array.size or not np.isfinite(array).all():
        raise InputError(
            f"{name} has shape {array.shape}; give finite values of one prompt, with {ndim} axes "
            "(or one more of length 1 before them)"
        )
    return np.ascontiguousarray(array)


def _float32(values: Any) -> NDArray[np.float32]:
    if hasattr(values, "detach"):  # a torch tensor, possibly on a GPU and in bfloat16
        values = values.detach().cpu().float().numpy()
    return np.array(values, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Photo:
    """An image to start from, drawn or photographed.

    The file is read when :meth:`rgb` is called. Its orientation tag is applied; transparent areas
    become white; greyscale (8 and 16 bit), palette and CMYK become RGB; of several frames the first
    is used; colour profiles are ignored.

    Args:
        image: A file that Pillow can read, a Pillow image, or an array: uint8, or floats in [0, 1],
            of shape (height, width), (height, width, 3) or (height, width, 4), where the fourth
            channel is opacity.
    """

    image: str | os.PathLike[str] | Image.Image | NDArray[np.generic]

    @property
    def name(self) -> str:
        """Return the file's name without its suffix, or "picture"."""
        return Path(self.file).stem if self.file else "picture"

    @property
    def file(self) -> str:
        """Return the file's name with its suffix; empty if there is no file."""
        return Path(self.image).name if isinstance(self.image, str | os.PathLike) else ""

    def rgb(self) -> NDArray[np.uint8]:
        """Return the image as uint8 (height, width, 3).

        Raises:
            InputError: There is no such file, or it is not an image, damaged, larger than 64
                megapixels (refused before it is decoded) or smaller than 16 pixels on a side; or
                the array has another type, shape or range than those above.
        """
        if isinstance(self.image, np.ndarray):
            return _to_rgb(_from_array(self.image))
        if isinstance(self.image, Image.Image):
            return _decode(self.image, "the picture")
        if not isinstance(self.image, str | os.PathLike):
            raise InputError(
                f"a photo is a path, a Pillow image or a NumPy array, not {type(self.image)}"
            )
        return _read(local(self.image))

    def _repr_html_(self) -> str | None:
        try:
            pixels = self.rgb()
        except ProbeError:  # what shows itself in a notebook does not fail there
            return None
        height, width = pixels.shape[:2]
        return thumbnail(pixels, f"{self.file or 'image'}, {height} x {width} (height x width)")


@dataclass(frozen=True, eq=False)
class Latents:
    """Clean latents x_0 to start from, instead of a photograph for the model to encode.

    Args:
        values: The latents, shape (channel, y, x) or (1, channel, y, x), from NumPy or torch,
            scaled as by `Denoiser.encode`; or a labelled array with the dims channel, y and x in
            any order.
        name: A name for them, part of a recording's provenance.
    """

    values: Any
    name: str = "latents"

    def array(self) -> NDArray[np.float32]:
        """Return the latents as float32 (channel, y, x).

        Raises:
            InputError: They have another shape, or values that are not finite.
        """
        values = self.values
        if hasattr(values, "detach"):  # a torch tensor, possibly on a GPU and in bfloat16
            values = values.detach().cpu().float().numpy()
        dims = getattr(values, "dims", None)
        if dims is not None:
            values = values.squeeze()
            if set(values.dims) != {"channel", "y", "x"}:
                raise InputError(
                    f"latents have dims {dims}; select one sample and one timestep with .isel(), "
                    "so that channel, y and x remain"
                )
            values = values.transpose("channel", "y", "x")
        array = np.asarray(values, dtype=np.float32)
        array = array[0] if array.ndim == 4 and len(array) == 1 else array
        if array.ndim != 3:
            raise InputError(
                f"latents have shape {array.shape}; choose (channel, y, x) or (1, channel, y, x)"
            )
        if not np.isfinite(array).all():
            raise InputError(
                "latents have values that are not finite; check how they were computed"
            )
        return np.ascontiguousarray(array)


Input: TypeAlias = Prompt | Photo | Latents
"""The possible starting points of a run."""

ENDINGS: Final = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
"""The suffixes of image files."""


def as_input(given: Any, seed: int = 0) -> Input:
    """Return an argument as an input, if its meaning is unambiguous.

    Args:
        given: A `Prompt`, `Photo` or `Latents`; a path; a text, which is an image if a file of that
            name exists or it has the suffix of one, and otherwise a prompt; a Pillow image; or a
            uint8 array.
        seed: The seed for a text that is a prompt.

    Raises:
        InputError: The argument is something else.

    >>> as_input("a red house").text, as_input("cat.jpg").file
    ('a red house', 'cat.jpg')
    """
    if isinstance(given, Prompt | Photo | Latents):
        return given
    if isinstance(given, str):
        return Photo(given) if _names_image(given) else Prompt(given, seed)
    if isinstance(given, os.PathLike | Image.Image):
        return Photo(given)
    if isinstance(given, np.ndarray) and given.dtype == np.uint8:
        return Photo(given)
    kind = type(given).__name__
    if isinstance(given, list | tuple):
        raise InputError(
            f"this takes one input, not a {kind} of {len(given)}; call it for each, record them "
            "together with ep.record(model, [...]), or name the type: ep.Latents(values)"
        )
    if isinstance(given, np.ndarray):
        kind = f"{given.dtype} array"
    raise InputError(
        f"an input is a text, a path, a Pillow image or a uint8 array, not {kind}; else name "
        "its type: ep.Prompt(text), ep.Photo(image), ep.Latents(values)"
    )


def _names_image(text: str) -> bool:
    if text.lower().endswith(ENDINGS):
        return True
    try:
        return local(text).is_file()
    except (OSError, InputError):  # a prompt can be longer than the name of a file
        return False


def input_name(source: Input) -> str:
    """Return a name for an input: its text, the name of its file, or its own name.

    >>> input_name(Photo("pictures/cat.jpg")), input_name(Prompt("a red house"))
    ('cat.jpg', 'a red house')
    """
    if isinstance(source, Prompt):
        return source.text or "empty prompt"
    return getattr(source, "file", "") or source.name


def unique_names(names: Iterable[str]) -> list[str]:
    """Return names without duplicates: repeated names are numbered.

    >>> unique_names(["cat.jpg", "cat.jpg", "dog.jpg"])
    ['cat.jpg', 'cat.jpg (2)', 'dog.jpg']
    """
    found: dict[str, None] = {}  # in order; looked up as fast for many as for few
    for name in names:
        unique, number = name, 1
        while unique in found:
            number += 1
            unique = f"{name} ({number})"
        found[unique] = None
    return list(found)


def cropped(photos: Sequence[Photo]) -> list[Photo]:
    """Return images cropped to one size: the smallest height and the smallest width among them.

    The largest central part of each image with that aspect ratio is resized to it (Lanczos
    resampling, antialiased).
    """
    pictures = [photo.rgb() for photo in photos]
    height, width = (min(each.shape[axis] for each in pictures) for axis in (0, 1))
    return [
        Photo(
            np.asarray(
                ImageOps.fit(Image.fromarray(each), (width, height), Image.Resampling.LANCZOS)
            )
        )
        for each in pictures
    ]


def _read(path: Path) -> NDArray[np.uint8]:
    with damage_told(f"'{path}'"):
        _check_file(path)
        with open_image(path) as opened:
            return _decode(opened, f"'{path}'")


def _check_file(path: Path) -> None:
    if path.is_dir():
        inside = closest("", (entry.name for entry in sorted(path.iterdir()) if entry.is_file()))
        raise InputError(f"'{path}' is a folder, not an image; {inside}. Name a file in it")
    if not path.exists():
        parent = path.parent
        names = [entry.name for entry in sorted(parent.iterdir())] if parent.is_dir() else []
        raise InputError(f"no file '{path}'; in '{parent}': {closest(path.name, names)}")


def open_image(path: Path) -> Image.Image:
    """Return an opened image whose pixels have not been read yet.

    Raises:
        InputError: The path is not a regular file: reading from a pipe or device can block forever.
    """
    if not path.is_file():
        raise InputError(f"'{path}' is not a file; save the image as one and name it")
    with warnings.catch_warnings():
        # Our limit is stricter, and _check_size enforces it.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(path)


@contextmanager
def damage_told(what: str) -> Iterator[None]:
    """Turn any error in reading an image file into one that names the file.

    Damaged files make Pillow's decoders raise exceptions of any kind.

    Args:
        what: The file, for messages.

    Raises:
        InputError: The file cannot be read, is too large, or is not an image.
    """
    try:
        yield
    except ProbeError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{what} is too large ({error}); {_LIMITS}") from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{what} is not an image that Pillow can read; convert it to PNG or JPEG"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:  # errors of the file system
            raise InputError(f"{what} cannot be read: {error}") from error
        raise InputError(
            f"{what} cannot be decoded ({first_line(error)}); it may be truncated or damaged. "
            "Save it again as PNG or JPEG"
        ) from error


_LIMITS = (
    f"a side has at least {LEAST_SIDE} pixels and a picture at most "
    f"{MOST_PIXELS // 10**6} million. Resize it first"
)


def _check_size(width: int, height: int, what: str) -> None:
    if min(width, height) < LEAST_SIDE or width * height > MOST_PIXELS:
        raise InputError(f"{what} has {width} x {height} pixels (width x height); {_LIMITS}")


def _decode(image: Image.Image, what: str) -> NDArray[np.uint8]:
    _check_size(*image.size, what)
    with damage_told(what):
        return _to_rgb(ImageOps.exif_transpose(image))


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit grey values at 255 instead of scaling them.
        grey = np.asarray(image).astype(np.int32)
        if grey.min() < 0 or grey.max() > 65535:
            raise InputError(
                f"a greyscale image with values from {grey.min()} to {grey.max()}; "
                "at most 16 bit (0 to 65535) is supported. Rescale it first"
            )
        grey += 128  # round in place: 64 megapixels as floats would take a gigabyte
        grey //= 257
        image = Image.fromarray(grey.astype(np.uint8))
    elif image.mode == "F":
        image = _from_array(np.asarray(image))
    if image.has_transparency_data:
        if image.mode == "La":  # Pillow cannot convert these to RGBA directly
            image = image.convert("LA")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def _from_array(array: NDArray[np.generic]) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise InputError(
            f"an array of shape {array.shape} is not an image; choose (height, width), "
            "(height, width, 3) or (height, width, 4)"
        )
    _check_size(array.shape[1], array.shape[0], "the array")
    if np.issubdtype(array.dtype, np.floating):
        low, high = array.min(), array.max()
        if not (low >= 0 and high <= 1):  # false for NaN as well
            raise InputError(
                f"an image of floats has values in [0, 1], not from {low} to {high}; "
                "rescale it, or give uint8"
            )
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise InputError(
            f"an image of {array.dtype}; choose uint8 from 0 to 255 or floats from 0 to 1"
        )
    return Image.fromarray(np.ascontiguousarray(array))


@dataclass(frozen=True, eq=False)
class Fitted:
    """An image at the size that a model sees.

    Args:
        pixels: The image, float32 (height, width, 3) in [0, 1].
        method: The way it was resized, as text.
        height: The original height in pixels.
        width: The original width in pixels.
    """

    pixels: NDArray[np.float32]
    method: str
    height: int
    width: int


def fit(rgb: NDArray[np.uint8], *, side: int, multiple: int) -> Fitted:
    """Resize an image to about ``side * side`` pixels, its sides multiples of ``multiple``.

    Nothing is cropped. Of the sizes next to the ideal one, the size with the nearest aspect ratio
    is chosen. The shorter side is at least half of ``side`` (rounded to ``multiple``): an image
    longer than about 4 to 1 is stretched to that. Uses Lanczos resampling, antialiased. An image
    that already has the right size keeps its exact pixels.

    Args:
        rgb: The image, uint8 (height, width, 3).
        side: The side of the square that the model was trained on, in pixels.
        multiple: The number that both sides must be divisible by.

    >>> fit(np.zeros((480, 640, 3), np.uint8), side=512, multiple=8).pixels.shape
    (440, 584, 3)
    """
    height, width = rgb.shape[:2]
    new_height, new_width = _fitted_size(height, width, side, multiple)
    if (new_height, new_width) == (height, width):
        method = f"unchanged, {height} x {width} (height x width)"
        pixels = rgb
    else:
        stretch = (new_width / new_height) / (width / height)
        method = (
            f"Lanczos from {height} x {width} to {new_height} x {new_width} (height x width), "
            f"aspect ratio times {stretch:.3f}"
        )
        resized = Image.fromarray(rgb).resize((new_width, new_height), Image.Resampling.LANCZOS)
        pixels = np.asarray(resized)
    return Fitted(pixels.astype(np.float32) / np.float32(255), method, height, width)


def _fitted_size(height: int, width: int, side: int, multiple: int) -> tuple[int, int]:
    least = max(1, round(side / 2 / multiple)) * multiple
    most = max(1, round(side * side / least / multiple)) * multiple
    aspect = width / height

    def neighbours(ideal: float) -> set[int]:
        below, above = math.floor(ideal / multiple), math.ceil(ideal / multiple)
        return {min(max(cells * multiple, least), most) for cells in (below, above)}

    def misfit(size: tuple[int, int]) -> tuple[float, float]:
        new_height, new_width = size
        shape = abs(math.log(new_width / new_height / aspect))
        area = abs(math.log(new_height * new_width / side**2))
        return round(shape, 9), area

    root = math.sqrt(aspect)
    return min(product(neighbours(side / root), neighbours(side * root)), key=misfit)
