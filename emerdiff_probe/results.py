"""The files of one segmentation: written whole or not at all."""

import re
import shutil
import tempfile
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
import xarray as xr
from PIL import Image

from emerdiff_probe import schema, views
from emerdiff_probe.errors import StoreError

__all__ = ["FILES", "check_free", "check_writable", "names", "write"]

FILES: Final = ("overlay.png", "labels.png", "dataset.zarr", "index.html")
"""What a result's folder holds."""

_LONGEST_NAME = 60


def names(texts: Iterable[str], otherwise: str = "picture") -> list[str]:
    """Folder names of lower-case letters, digits and hyphens, no two alike.

    Args:
        texts: Prompts or names of files.
        otherwise: Name of a text in which nothing can be kept.

    >>> names(["A red house!", "a/../red house", "été", "家"])
    ['a-red-house', 'a-red-house-2', 'ete', 'picture']
    """
    taken: list[str] = []
    for text in texts:
        plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
        # An accent becomes a mark after its letter and is dropped; other signs part words.
        words = re.findall(r"[a-z0-9]+", plain)
        base = "-".join(words)[:_LONGEST_NAME].strip("-") or otherwise
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.append(name)
    return taken


def check_free(folder: Path, *, overwrite: bool = False) -> None:
    """See that a result can go to a folder.

    Args:
        folder: Where it is to be.
        overwrite: Allows an older result there, but nothing else.

    Raises:
        StoreError: Something is there already.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not overwrite:
        raise StoreError(f"'{folder}' exists; choose another --out, or --overwrite to replace it")
    strange = (
        sorted({entry.name for entry in folder.iterdir()} - set(FILES))
        if folder.is_dir() and not folder.is_symlink()
        else ["no folder"]
    )
    if strange:
        raise StoreError(
            f"'{folder}' is not only a result ({', '.join(strange[:3])}) and is not replaced; "
            "choose another --out, or move it away"
        )


def check_writable(folder: Path) -> None:
    """See that a folder can be made, and written to; leaves no trace.

    Raises:
        StoreError: It cannot.
    """
    with _made(folder), tempfile.TemporaryDirectory(dir=folder):
        pass


def write(ds: xr.Dataset, folder: Path, *, overwrite: bool = False) -> None:
    """Write a segmentation as pictures, dataset and page.

    ``overlay.png`` is the picture with its segments, ``labels.png`` has a pixel's segment as its
    value (in a palette of the same colours; with more than 256 masks 16-bit greys),
    ``dataset.zarr`` is the dataset (Zarr v3, ``xarray.open_zarr`` reads it), ``index.html`` the
    page that shows it. All is written to a hidden folder beside and moved at the end.

    Args:
        ds: A segmentation, as `emerdiff_probe.segment` makes it.
        folder: Where to.
        overwrite: Replaces an older result.

    Raises:
        StoreError: The folder exists or cannot be written, or the dataset is not of its form.
    """
    schema.check(ds)
    check_free(folder, overwrite=overwrite)
    with _made(folder.parent):
        hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            new, old = hidden / "new", hidden / "old"
            new.mkdir()
            Image.fromarray(views.overlay_image(ds)).save(new / "overlay.png")
            _labels_image(ds).save(new / "labels.png")
            _write_dataset(ds, new / "dataset.zarr")
            # A file's name can hold bytes that are no text.
            (new / "index.html").write_text(views.page(ds), "utf-8", errors="replace")
            if overwrite and folder.exists():
                folder.rename(old)
            try:
                new.rename(folder)
            except BaseException:
                if old.exists():
                    old.rename(folder)
                raise
        finally:
            shutil.rmtree(hidden, ignore_errors=True)


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder that is there; those made for it go again where they are empty at the end."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write to '{folder}': {error.strerror or error}; choose another --out"
        ) from error
    finally:
        for each in missing:
            if each.is_dir() and not any(each.iterdir()):
                each.rmdir()


def _labels_image(ds: xr.Dataset) -> Image.Image:
    labels = ds["labels"].transpose(schema.Y, schema.X).values
    if ds.sizes[schema.MASK] > 256:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(views.palette(ds.sizes[schema.MASK]).tobytes())
    return image


def _write_dataset(ds: xr.Dataset, path: Path) -> None:
    """Zarr v3 without data types of NumPy's own, so that other libraries read it too."""
    texts = {
        name: coord.astype(object) for name, coord in ds.coords.items() if coord.dtype.kind == "U"
    }
    with warnings.catch_warnings():
        # Consolidated metadata are outside the specification; readers that do not know them
        # pass over them, and xarray misses them.
        warnings.filterwarnings("ignore", "Consolidated metadata")
        ds.assign_coords(texts).to_zarr(path, zarr_format=3, consolidated=True)
