"""Write the files of a segmentation, atomically."""

import json
import re
import tempfile
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
from PIL import Image
from pycocotools import mask as coco

from emerdiff_probe import schema, views
from emerdiff_probe.errors import InputError, StoreError
from emerdiff_probe.inputs import damage_told
from emerdiff_probe.kinds import expect
from emerdiff_probe.paths import is_free, local, made_at_once
from emerdiff_probe.store.texts import portable

__all__ = ["FILES", "check_free", "check_writable", "names", "write", "write_masks", "write_sheets"]

FILES: Final = ("overlay.png", "labels.png", "dataset.zarr", "index.html")
"""The files in a result's folder."""

_LONGEST_NAME = 60


def names(texts: Iterable[str], otherwise: str = "picture") -> list[str]:
    """Return folder names of lower-case letters, digits and hyphens, no two alike.

    Args:
        texts: Prompts or file names.
        otherwise: The name for a text of which no character can be kept.

    >>> names(["A red house!", "a/../red house", "été", "家"])
    ['a-red-house', 'a-red-house-2', 'ete', 'picture']
    """
    taken: list[str] = []
    for text in texts:
        plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
        # An accent becomes a mark after its letter and is dropped; other characters separate words.
        words = re.findall(r"[a-z0-9]+", plain)
        base = "-".join(words)[:_LONGEST_NAME].strip("-") or otherwise
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.append(name)
    return taken


def check_free(folder: Path, *, overwrite: bool = False) -> None:
    """Check that a result can be written to a folder.

    Args:
        folder: The folder to write to.
        overwrite: Whether the folder may hold an older result, but nothing else.

    Raises:
        StoreError: The folder holds something else.
    """
    if is_free(folder):
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
            f"'{folder}' also holds other files ({', '.join(strange[:3])}) and is not replaced; "
            "choose another --out, or move it away"
        )


def check_writable(folder: Path) -> None:
    """Check that a folder can be created and written to, without leaving a trace.

    Raises:
        StoreError: It cannot.
    """
    with _made(local(folder)), tempfile.TemporaryDirectory(dir=folder):
        pass


def write(ds: xr.Dataset, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write a segmentation as images, dataset and page.

    ``overlay.png`` is the image with its segments. ``labels.png`` has the segment of each pixel as
    its value (in a palette of the same colours; 16-bit grey with more than 256 masks).
    ``dataset.zarr`` is the dataset (Zarr v3, which ``xarray.open_zarr`` reads), and ``index.html``
    the page that shows it.

    Args:
        ds: A segmentation from `emerdiff_probe.segment`.
        folder: The folder to write to.
        overwrite: Whether to replace an older result.

    Raises:
        StoreError: The folder exists or cannot be written, or the dataset is malformed.
    """
    expect(ds, schema.SEGMENTATION)
    schema.check(ds)
    folder = local(folder)
    check_free(folder, overwrite=overwrite)
    with _made(folder.parent), made_at_once(folder, replace=overwrite) as new:
        new.mkdir()
        Image.fromarray(views.overlay_image(ds)).save(new / "overlay.png")
        _labels_image(ds["labels"], ds.sizes[schema.MASK]).save(new / "labels.png")
        _write_dataset(ds, new / "dataset.zarr")
        # The name of a file can hold bytes that are not text.
        (new / "index.html").write_text(views.page(ds), "utf-8", errors="replace")


@contextmanager
def _made(folder: Path) -> Iterator[None]:
    """Create a folder for the block; remove the folders created for it if they end up empty.

    Raises:
        StoreError: It cannot be written.
    """
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


def write_sheets(folder: str | Path) -> Path | None:
    """Write all results of a folder on one sheet, ``contact-sheet.png``, and one page of links.

    Args:
        folder: Where `write` made a folder for each result.

    Returns:
        The page, ``contact-sheet.html``; None, and nothing written, where fewer than two results
        are.

    Raises:
        StoreError: It cannot be written there.
    """
    folder = local(folder)
    found = {
        each.parent.name: each
        for each in sorted(folder.glob("*/overlay.png"))
        if (each.parent / "index.html").is_file()
    }
    if len(found) < 2:
        return None

    def overlays() -> Iterator[tuple[str, Image.Image]]:
        for name, path in found.items():
            with damage_told(f"'{path}'"), Image.open(path) as overlay:
                yield name, overlay.convert("RGB")

    page = folder / "contact-sheet.html"
    with made_at_once(page, replace=True) as new:
        links = {name: f"{name}/index.html" for name in found}
        heading = f"{len(found)} results in {folder.absolute().name}"
        html = views.contact_page(overlays(), heading=heading, links=links)
        new.write_text(html, "utf-8", errors="replace")
    with made_at_once(page.with_suffix(".png"), replace=True) as new:
        views.contact_sheet(overlays()).save(new)
    return page


def write_masks(segments: xr.Dataset, path: str | Path) -> Path:
    """Write segments to a file for other tools, in the format that its suffix names.

    ``.png``: the segment of each pixel as its value (in a palette of the segments' colours; 16-bit
    grey with more than 256 of them). ``.json``: annotations in COCO's format, each mask as
    compressed run lengths. ``.zarr``: the dataset, Zarr v3.

    Args:
        segments: A dataset with ``labels`` (y, x), from 0 up, and optionally ``own`` (own_mask, y,
            x), bool: further masks, which may overlap, and which PNG cannot store.
        path: The file to write. An existing file is replaced, a folder is not.

    Returns:
        The path.

    Raises:
        InputError: The path has another suffix.
        StoreError: The file cannot be written.

    Source: https://cocodataset.org/#format-data (object detection). "iscrowd" is 0, because objects
    with 1 are ignored in scoring and training.
    """
    path = local(path)
    expect(segments, schema.SEGMENTATION)
    labels = segments["labels"].transpose(schema.Y, schema.X)
    if path.suffix not in (".png", ".json", ".zarr"):
        raise InputError(f"'{path}' has an unknown suffix; choose .png, .json or .zarr")
    if path.is_dir():
        raise StoreError(f"'{path}' is a folder and is not replaced; choose another name")
    with _made(path.absolute().parent), made_at_once(path, replace=True) as new:
        if path.suffix == ".png":
            _labels_image(labels, int(labels.max()) + 1).save(new)
        elif path.suffix == ".json":
            new.write_text(json.dumps(_coco(segments)))
        else:
            _write_dataset(segments, new)
    return path


def _coco(segments: xr.Dataset) -> dict[str, Any]:
    labels = segments["labels"].transpose(schema.Y, schema.X).values
    masks = [(1, labels == number) for number in range(int(labels.max()) + 1)]
    if "own" in segments:
        masks += [(2, each) for each in segments["own"].transpose("own_mask", ...).values]
    height, width = labels.shape
    annotations = []
    for number, (category, mask) in enumerate(masks, start=1):
        if not mask.any():
            continue
        lengths = coco.encode(np.asfortranarray(mask, np.uint8))
        annotations.append(
            {
                "id": number,
                "image_id": 1,
                "category_id": category,
                "iscrowd": 0,
                "area": int(coco.area(lengths)),
                "bbox": coco.toBbox(lengths).tolist(),
                "segmentation": lengths | {"counts": lengths["counts"].decode()},
            }
        )
    # An image generated from a prompt has no file yet.
    file = segments.attrs.get("file") or f"{names([segments.attrs.get('source', '')])[0]}.png"
    return {
        "images": [{"id": 1, "height": height, "width": width, "file_name": file}],
        "categories": [{"id": 1, "name": "segment"}, {"id": 2, "name": "own mask"}],
        "annotations": annotations,
    }


def _labels_image(labels: xr.DataArray, count: int) -> Image.Image:
    values = labels.transpose(schema.Y, schema.X).values
    if count > 256:
        return Image.fromarray(values.astype(np.uint16))
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(views.palette(count).tobytes())
    return image


def _write_dataset(ds: xr.Dataset, path: Path) -> None:
    with warnings.catch_warnings():
        # Consolidated metadata are outside the specification; other readers ignore them, and xarray
        # warns without them.
        warnings.filterwarnings("ignore", "Consolidated metadata")
        portable(ds).to_zarr(path, zarr_format=3, consolidated=True)
