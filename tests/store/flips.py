"""Flips bits all over a store: what is damaged is said, and nothing is silently another."""

import warnings

import numpy as np
import xarray as xr

from emerdiff_probe.errors import ProbeError


def flipped(folder, everywhere, seed=0, each=3):
    """Yield, for some bits of every file, what comes of opening and reading the store.

    Args:
        folder: Of the store, which is as it was in between.
        everywhere: Reads all: gives a dictionary of arrays, or of errors.
        seed: Of the positions.
        each: Bits of each file; and each file is lost once.
    """
    random = np.random.default_rng(seed)
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        whole = file.read_bytes()
        for _ in range(each):
            data = bytearray(whole)
            data[random.integers(len(data))] ^= 1 << random.integers(8)
            file.write_bytes(data)
            yield f"{file.relative_to(folder)} flipped", everywhere(folder)
        file.unlink()
        yield f"{file.relative_to(folder)} lost", everywhere(folder)
        file.write_bytes(whole)


def read(open_store):
    """Return a function that reads all of a store, array by array."""

    def everywhere(folder):
        with warnings.catch_warnings():
            # A table of positions that is damaged costs nothing but its own check.
            warnings.filterwarnings("ignore", message=".*where (they|it) belong")
            return _everywhere(folder)

    def _everywhere(folder):
        try:
            opened = open_store(folder)
        except ProbeError as error:
            return {"": error}
        tree = opened if isinstance(opened, xr.DataTree) else xr.DataTree(opened)
        found = {"attributes": repr(tree.attrs)}
        for node in tree.subtree:
            for name, values in node.to_dataset(inherit=False).variables.items():
                try:
                    found[f"{node.path}/{name}"] = values.values
                except ProbeError as error:
                    found[f"{node.path}/{name}"] = error
        return found

    return everywhere


def silent(found, whole):
    """Return the names of what is another than it was, without an error and not missing."""
    wrong = []
    if "" in found:
        return wrong
    for name in whole.keys() | found.keys():
        here, there = found.get(name), whole.get(name)
        node = name.rpartition("/")[0]
        if isinstance(here, ProbeError) or isinstance(found.get(f"{node}/value"), ProbeError):
            continue
        if not (isinstance(here, np.ndarray) and isinstance(there, np.ndarray)):
            wrong += [name] if here != there else []
            continue
        same = here.shape == there.shape and here.dtype == there.dtype
        if same and here.dtype.kind == "f":  # what is missing is NaN, which nobody takes for data
            same = bool(((here == there) | np.isnan(here)).all())
        elif same:
            same = np.array_equal(here, there)
        wrong += [name] * (not same)
    return wrong
