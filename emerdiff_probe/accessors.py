"""Add ``.ep`` to the package's datasets: functions for recordings, segmentations and responses.

Each method passes its dataset to a standalone function, which has the full documentation. Importing
`emerdiff_probe` registers the accessors as soon as xarray is imported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import xarray as xr

from emerdiff_probe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go
    from numpy.typing import ArrayLike, NDArray

    from emerdiff_probe.layers import Samples

# A module that is itself half imported may import xarray, so import everything else on first use.

__all__ = [
    "RecordingAccessor",
    "ResponsesAccessor",
    "SegmentationAccessor",
    "Sites",
    "SweepAccessor",
    "register",
]


class WrongKindError(InputError, AttributeError):
    """A method of another kind of dataset was called; `hasattr` reports it as missing."""


class Accessor:
    """The methods that all datasets have, including those of no kind."""

    kind: ClassVar[str | None] = None

    def __init__(self, data: Any) -> None:
        self._data = data

    def info(self) -> pd.Series:
        """Return a table of what a dataset describes and how it was made."""
        import pandas as pd

        from emerdiff_probe.kinds import described

        about = {"kind": described(self._data), "MiB": round(self._data.nbytes / 2**20, 1)}
        return pd.Series({**about, **self._facts()}, dtype=object)

    def _facts(self) -> dict[str, Any]:
        names = ("model", "source", "engine", "fit")
        return {name: self._data.attrs[name] for name in names if name in self._data.attrs}

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("_")]

    def __repr__(self) -> str:
        from emerdiff_probe.kinds import described

        return f".ep of {described(self._data)}: {', '.join(dir(self))}"

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            from emerdiff_probe.errors import closest
            from emerdiff_probe.kinds import KINDS, described

            if name.startswith("_"):
                raise AttributeError(name)
            here = described(self._data)
            for other in _ACCESSORS.values():
                if hasattr(other, name):
                    words, made = KINDS[other.kind]
                    raise WrongKindError(
                        f".ep.{name} belongs to {words}, and this is {here}; {made}"
                    )
            raise AttributeError(f"{here} has no .ep.{name}; {closest(name, dir(self))}")


class Sites(Mapping[str, xr.DataArray]):
    """The sites of a recording by name, with tab completion: ``recording.ep.sites["up_<tab>``.

    Values are read lazily.
    """

    def __init__(self, run: xr.DataTree) -> None:
        from emerdiff_probe.store import sites_of

        self._run = run
        self._names = [str(site) for site in sites_of(run)]

    def __getitem__(self, name: str) -> xr.DataArray:
        from emerdiff_probe.store import site

        return site(self._run, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        from emerdiff_probe.sites import Site

        return isinstance(name, str) and str(Site.parse(name)) in self._names

    def _ipython_key_completions_(self) -> list[str]:
        return self._names

    def __repr__(self) -> str:
        return "\n".join([f"{len(self)} sites:", *self._names])


class RecordingAccessor(Accessor):
    """The methods of a recording."""

    kind = "recording"

    @property
    def sites(self) -> Sites:
        """Return the sites by name."""
        return Sites(self._data)

    def site(self, name: str) -> xr.DataArray:
        """Return the values of a site; see `emerdiff_probe.store.site`."""
        from emerdiff_probe.store import site

        return site(self._data, name)

    def gather(self, sites: Any = "*", *, y: float, x: float) -> dict[str, xr.DataArray]:
        """Return the values of layers at one place; see `emerdiff_probe.store.gather`."""
        from emerdiff_probe.store import gather

        return gather(self._data, sites, y=y, x=x)

    def attention(self, name: str | None = None, **options: Any) -> xr.DataArray:
        """Return attention probabilities; see `emerdiff_probe.layers.attention.attention`."""
        from emerdiff_probe.layers.attention import attention

        return attention(self._data, name, **options)

    def features(self, site: str, timestep: float | None = None, **options: Any) -> xr.DataArray:
        """Return a site's values as features of locations; see `emerdiff_probe.layers.features`."""
        from emerdiff_probe.layers import features

        return features(self._data, site, timestep, **options)

    def samples(self, site: str, *, batch: int, **options: Any) -> Samples:
        """Return locations in random order for training; see `emerdiff_probe.layers.samples`."""
        from emerdiff_probe.layers import samples

        return samples(self._data, site, batch=batch, **options)

    def atlas(self, measures: Any = None, **options: Any) -> xr.Dataset:
        """Return measures of all layers at all timesteps; see `emerdiff_probe.layers.atlas`."""
        from emerdiff_probe.layers import atlas

        return atlas(self._data, **({} if measures is None else {"measures": measures}), **options)

    def plot(self, sites: Any = "*", timesteps: Any = None, **options: Any) -> go.Figure:
        """Draw sites by timesteps; see `emerdiff_probe.views.layers`."""
        from emerdiff_probe.views import layers

        return layers(self._data, sites, timesteps, **options)

    def similarity(self, sites: Any, timestep: float, **options: Any) -> go.Figure:
        """Draw the similarity of a place to all others; see `emerdiff_probe.views.similarity`."""
        from emerdiff_probe.views import similarity

        return similarity(self._data, sites, timestep, **options)

    def trajectory(self, timesteps: Any = None, **options: Any) -> go.Figure:
        """Draw the latents from noise to the image; see `emerdiff_probe.views.trajectory`."""
        from emerdiff_probe.views import trajectory

        return trajectory(self._data, timesteps, **options)

    def explore(self, **state: Any) -> Any:
        """Return a widget to browse the recording; see `emerdiff_probe.widgets.Inspector`."""
        from emerdiff_probe.widgets import Inspector

        return Inspector(self._data, **state)

    def save(self, path: str | Path, layout: Any = "steps") -> Path:
        """Write the recording to a new folder; see `emerdiff_probe.store.rechunk`."""
        from emerdiff_probe.store import rechunk

        return rechunk(self._data, layout, path)

    def _facts(self) -> dict[str, Any]:
        import json

        from emerdiff_probe.schema import SAMPLE, TIMESTEP
        from emerdiff_probe.store import with_samples

        run = with_samples(self._data)
        first = next(iter(run.leaves))["value"]
        model = json.loads(run.attrs.get("model", "{}"))
        return {
            "model": model.get("name") or "model",
            "samples": first.sizes[SAMPLE],
            "timesteps": run.sizes[TIMESTEP],
            "sites": len(self.sites),
        }


class SegmentationAccessor(Accessor):
    """The methods of a segmentation."""

    kind = "segmentation"

    def plot(self) -> go.Figure:
        """Draw image, segments and masks; see `emerdiff_probe.views.overview`."""
        from emerdiff_probe.views import overview

        return overview(self._data)

    def overlay(self, *, alpha: float = 0.5) -> NDArray[Any]:
        """Return the image with its segments; see `emerdiff_probe.views.overlay_image`."""
        from emerdiff_probe.views import overlay_image

        return overlay_image(self._data, alpha=alpha)

    def dendrogram(self, by: Any = "embeddings") -> go.Figure:
        """Draw which masks are alike; see `emerdiff_probe.views.dendrogram`."""
        from emerdiff_probe.views import dendrogram

        return dendrogram(self._data, by)

    def explore(self, **state: Any) -> Any:
        """Return a widget to edit segments; see `emerdiff_probe.widgets.SegmentationExplorer`."""
        from emerdiff_probe.widgets import SegmentationExplorer

        return SegmentationExplorer(self._data, **state)

    def save(self, path: str | Path) -> Path:
        """Write segments as PNG, COCO JSON or Zarr; see `emerdiff_probe.exports.write_masks`."""
        from emerdiff_probe.exports import write_masks

        return write_masks(self._data, path)

    def _facts(self) -> dict[str, Any]:
        return {**super()._facts(), "masks": int(self._data["labels"].max()) + 1}


class ResponsesAccessor(Accessor):
    """The methods of responses, full or compressed."""

    kind = "responses"

    def movers(self, y: float, x: float) -> xr.DataArray:
        """Return how much locations change a pixel; see `emerdiff_probe.responses.movers`."""
        from emerdiff_probe.responses import movers

        return movers(self._data, y, x)

    def pixels_moved(self, source_y: float, source_x: float) -> xr.DataArray:
        """Return what a location changes; see `emerdiff_probe.responses.pixels_moved`."""
        from emerdiff_probe.responses import pixels_moved

        return pixels_moved(self._data, source_y, source_x)

    def response_of(self, masks: ArrayLike) -> xr.DataArray:
        """Return the responses of masks; see `emerdiff_probe.responses.response_of`."""
        from emerdiff_probe.responses import response_of

        return response_of(self._data, masks)

    def segment(self, masks: int | ArrayLike, **options: Any) -> xr.Dataset:
        """Return segments for other masks; see `emerdiff_probe.responses.segment_from`."""
        from emerdiff_probe.responses import segment_from

        return segment_from(self._data, masks, **options)

    def compress(self, **options: Any) -> xr.Dataset:
        """Return the responses in fewer bytes; see `emerdiff_probe.responses.compress`."""
        from emerdiff_probe.responses import compress

        return compress(self._data, **options)

    def plot(self, **options: Any) -> go.Figure:
        """Draw both directions at a place; see `emerdiff_probe.views.correspondence`."""
        from emerdiff_probe.views import correspondence

        return correspondence(self._data, **options)

    def explore(self, **state: Any) -> Any:
        """Return a clickable widget; see `emerdiff_probe.widgets.CorrespondenceExplorer`."""
        from emerdiff_probe.widgets import CorrespondenceExplorer

        return CorrespondenceExplorer(self._data, **state)

    def save_page(self, path: str | Path) -> Path:
        """Write a clickable page; see `emerdiff_probe.views.correspondence_page`."""
        from emerdiff_probe.views import correspondence_page

        return correspondence_page(self._data, path)


class SweepAccessor(Accessor):
    """The methods of a sweep."""

    kind = "sweep"


_ACCESSORS: dict[str, type[Accessor]] = {
    str(each.kind): each
    for each in (RecordingAccessor, SegmentationAccessor, ResponsesAccessor, SweepAccessor)
}


def _accessor(data: Any) -> Accessor:
    from emerdiff_probe.kinds import kind_of

    return _ACCESSORS.get(kind_of(data) or "", Accessor)(data)


def register() -> None:
    """Register ``.ep`` for datasets and trees."""
    registering: tuple[Any, ...] = (xr.register_dataset_accessor, xr.register_datatree_accessor)
    for each in registering:
        each("ep")(_accessor)
