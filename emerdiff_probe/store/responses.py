"""Store responses on disk, one chunk for each location or mask, the unit of commit and resume."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import xarray as xr
import zarr
import zarr.codecs
from numpy.typing import NDArray

from emerdiff_probe.errors import StoreError, check_unchanged, first_line
from emerdiff_probe.paths import Held, free_bytes, is_free, made_at_once
from emerdiff_probe.schema import RESPONSES
from emerdiff_probe.store.address import as_it_claims, local_folder
from emerdiff_probe.store.bounds import check_nodes
from emerdiff_probe.store.chunks import FLAT, PARTIAL, chunk_name, chunks_of, write_chunk
from emerdiff_probe.store.identity import check_model, instead_of
from emerdiff_probe.store.making import new_array
from emerdiff_probe.store.plan import size_text
from emerdiff_probe.store.positions import number_of
from emerdiff_probe.store.sealing import (
    METADATA,
    check_whole,
    checked_labels,
    consolidate,
    unsealed,
    with_checksums,
)
from emerdiff_probe.store.texts import portable
from emerdiff_probe.store.values import dims_of, values_of

__all__ = ["ResponseStore", "open_responses", "responses_missing"]

_VALUES: Final = re.compile("response|difference")
"""The arrays that are read chunk by chunk; all others are labels here, and small."""

_NUMBERS: Final = "_positions"
"""Ending of the name of the array that has the `number_of` each response."""

_CHUNKED: Final = re.compile(f"({_VALUES.pattern})({_NUMBERS})?")


class ResponseStore:
    """Responses in a folder, possibly still incomplete.

    Args:
        path: The folder.
        model: The identity of the model, from `emerdiff_probe.models.identity`.
        settings: All other settings that determine the values, fit for JSON.
        name: The name of the variable; its last three dims are those of one response.
        schema: The schema of the dataset.

    Raises:
        StoreError: The folder holds something else.
        ConfigError: It was begun with another model or other settings; the message gives both
            values of each difference.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: Mapping[str, Any],
        settings: Mapping[str, Any],
        name: str = "response",
        schema: str = RESPONSES,
    ) -> None:
        self.path = local_folder(path)
        self._name, self._schema = name, schema
        self._identity = json.loads(json.dumps({"model": model, "settings": settings}))
        if not is_free(self.path):
            self._check()
        self._held: Held | None = None

    def _check(self) -> None:
        """Check that what exists was begun with the same model and settings.

        Raises:
            StoreError: The folder holds something else.
            ConfigError: The model or the settings differ.
        """
        metadata = _metadata(self.path, self._schema)
        with as_it_claims(self.path):
            begun, what = json.loads(metadata["attributes"]["identity"]), f"'{self.path}'"
            present = self._identity
            check_unchanged(begun["settings"], present["settings"], what, "another folder")
            check_model(begun["model"], present["model"], what, instead_of(self.path))

    def begin(self, rest: xr.Dataset, response: xr.DataArray) -> None:
        """Create the folder atomically if there is none, and lock it against other writers.

        Args:
            rest: Everything but the responses, with attributes.
            response: The dims, shape and dtype of the responses; its values are not used.

        Raises:
            StoreError: The disk has too little room, or another process writes there.
        """
        self._held = Held(self.path, store=True)
        try:
            if is_free(self.path):
                self._make(rest, response)
            else:  # another process may have created it since this object was made
                self._check()
                # Remove partial files of a writer that was killed.
                for left in self.path.rglob(f"*{PARTIAL}"):
                    left.unlink()
        except BaseException:
            self._held.close()
            raise

    def _make(self, rest: xr.Dataset, response: xr.DataArray) -> None:
        if response.nbytes > (free := free_bytes(self.path)):
            raise StoreError(
                f"the responses take {size_text(response.nbytes)} and '{self.path.parent}' has "
                f"{size_text(free)} free; choose another disk, or responses of masks"
            )
        single = response.ndim - 3
        with made_at_once(self.path, held=self._held) as making:
            rest = rest.assign_attrs(identity=json.dumps(self._identity))
            rest = portable(with_checksums(rest))
            rest.to_zarr(making, zarr_format=3, consolidated=False)
            root = zarr.open_group(making, mode="r+")
            root.create_array(
                self._name,
                shape=response.shape,
                chunks=(*[1] * single, *response.shape[single:]),
                dtype=response.dtype,
                dimension_names=[str(dim) for dim in response.dims],
                chunk_key_encoding=FLAT,
                fill_value=np.nan,
                # A checksum detects damage.
                compressors=[zarr.codecs.ZstdCodec(level=1), zarr.codecs.Crc32cCodec()],
                config={"write_empty_chunks": True},
            )
            leading = tuple(map(str, response.dims[:single]))
            cut = (1,) * single
            new_array(root, self._name + _NUMBERS, leading, response.shape[:single], cut, "uint32")
            consolidate(making)

    @property
    def committed(self) -> set[tuple[int, ...]]:
        """Return the indices of the locations or masks that are committed."""
        shape = zarr.open_array(self.path / self._name, mode="r").shape
        return {index[: len(shape) - 3] for index in chunks_of(self.path, self._name)}

    def write(self, index: tuple[int, ...], response: NDArray[Any]) -> None:
        """Commit one response, shape (rgb, y, x); its chunk's file appears complete or not at all.

        Raises:
            StoreError: The chunk could not be written.
        """
        try:
            array: Any = zarr.open_array(self.path / self._name, mode="r+")
            kept = np.asarray(response, array.dtype)
            number = number_of(self._name, (*index, 0, 0, 0), kept)
            # First: what has its chunk is whole.
            whole = np.full((1,) * len(index), number, np.uint32)
            write_chunk(self.path / (self._name + _NUMBERS), index, whole, whole.shape)
            array[index] = kept
        except OSError as error:
            raise StoreError(
                f"'{self.path}' could not be written: {error}. What was committed before can be "
                "read; the same call resumes from there"
            ) from error

    def __enter__(self) -> ResponseStore:
        return self

    def __exit__(self, *_: object) -> None:
        """Let others write there."""
        if self._held is not None:
            self._held.close()


def responses_missing(path: Path, name: str = "response") -> int | None:
    """Return how many responses a store still lacks; None if there is no store."""
    if not (path / METADATA).is_file():
        return None
    shape = zarr.open_array(path / name, mode="r").shape
    return math.prod(shape[:-3]) - len(chunks_of(path, name))


def open_responses(path: str | os.PathLike[str], schema: str = RESPONSES) -> xr.Dataset:
    """Open responses that were streamed to a folder; values are read lazily, as float32.

    Args:
        path: The folder. It may still be written to: values that are not there yet are NaN.
        schema: The schema of the dataset.

    Raises:
        StoreError: The folder holds no responses.
    """
    path = local_folder(path)
    _metadata(path, schema)
    with as_it_claims(path), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata")
        root = zarr.open_group(path, mode="r", use_consolidated=True)
        arrays = dict(root.arrays())
        values = {name: array for name, array in arrays.items() if _VALUES.fullmatch(name)}
        labels = {
            name: (dims_of(array), checked_labels(array, str(path)))
            for name, array in arrays.items()
            if not _CHUNKED.fullmatch(name)
        }
        ds = xr.Dataset(labels, attrs=dict(root.attrs))
        ds = ds.set_coords([name for name in labels if name in ds.dims])
        for name, array in values.items():
            number = functools.partial(_number, arrays[name + _NUMBERS])
            found = values_of(array, name, str(path), growing=True, number=number)
            ds[name] = (dims_of(array), found)
    return ds.drop_attrs(deep=False).assign_attrs(
        {name: value for name, value in ds.attrs.items() if name != "identity"}
    )


def _number(numbers: Any, chunk: tuple[int, ...]) -> int | None:
    """Return the number that a response had when it was written; None where it cannot be read."""
    index = chunk[: numbers.ndim]
    try:
        return int(numbers[index]) or None
    except Exception as error:  # every codec has kinds of its own
        warnings.warn(
            f"'{numbers.path}/{chunk_name(index)}' is damaged ({first_line(error)}), so that it is "
            "not seen whether that response lies where it belongs; its values are checked as ever",
            stacklevel=2,
        )
        return None


def _metadata(path: Path, schema: str) -> dict[str, Any]:
    try:
        metadata = unsealed((path / METADATA).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"'{path}' holds no responses: {error}") from error
    attributes = metadata["attributes"]
    if attributes.get("schema") != schema:
        raise StoreError(
            f"'{path}' holds no responses that this version reads: its schema is "
            f"{attributes.get('schema')!r}, not {schema!r}"
        )
    with as_it_claims(path):
        check_whole(metadata)
        check_nodes(metadata, _CHUNKED)
        if not any(
            name.endswith(_NUMBERS) for name in metadata["consolidated_metadata"]["metadata"]
        ):
            raise ValueError(
                "it does not say which chunk lies where, as stores of versions before this one; "
                "make it again with this version"
            )
    return metadata
