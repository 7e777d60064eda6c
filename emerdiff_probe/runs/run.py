"""The run: one image in one model, and all that can be asked of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from emerdiff_probe.models import Condition, Denoiser
from emerdiff_probe.models.identity import identity
from emerdiff_probe.runs.features import feature_grid, labelled_features
from emerdiff_probe.runs.preparation import Prepared
from emerdiff_probe.runs.settings import RunSettings
from emerdiff_probe.runs.showing import run_html, run_text
from emerdiff_probe.runs.trajectory import Trajectory
from emerdiff_probe.schema import package_versions
from emerdiff_probe.sites import Site
from emerdiff_probe.store.identity import check_model
from emerdiff_probe.taps import capture

if TYPE_CHECKING:
    import os

    from emerdiff_probe.emerdiff import EmerDiffConfig, Responder
    from emerdiff_probe.emerdiff.masks import Masks
    from emerdiff_probe.interventions import Intervention
    from emerdiff_probe.recording.casting import Sites, ValueType
    from emerdiff_probe.recording.reducer_chains import Reducers
    from emerdiff_probe.store import Plan

__all__ = ["Run"]


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """One image in one model: a prompt's drawing, or an image that was inverted.

    Made by `emerdiff_probe.generate` or `emerdiff_probe.invert`. Whatever is asked of a run is
    about the same noise and the same pixels: its methods answer with labelled arrays whose ``y``
    and ``x`` are pixel centres of `picture`. It is inverted once, when it is made.

    Attributes:
        prepared: What it was made of.
        picture: The image, uint8 (height, width, 3), in its own size.
        pixels: The image as the model sees it, float32 in [0, 1], (height, width, 3).
        reconstruction: The image that the unmodulated run ends with, float32 in [0, 1],
            (height, width, 3), in the size that the model sees.
        trajectory: Start, timesteps, noises and latents of the unmodulated run.
        diagnostics: How good the inversion is, fit for JSON: error of the latents that the run
            ends with, decibels of the reconstruction and of what the autoencoder alone reaches,
            and how much the run's noise is like true noise (root mean squares of 1, correlation
            of neighbours of 0).
        about: What the model was when the run was made, as `emerdiff_probe.models.identity` says.
        interventions: Under which it was replayed.
    """

    prepared: Prepared
    picture: NDArray[np.uint8]
    pixels: NDArray[np.float32]
    reconstruction: NDArray[np.float32]
    trajectory: Trajectory
    diagnostics: Mapping[str, object]
    about: Mapping[str, Any]
    interventions: tuple[Intervention, ...] = ()
    _features: dict[tuple[Site, float], xr.DataArray] = field(default_factory=dict)

    @property
    def model(self) -> Denoiser:
        """The model."""
        return self.prepared.model

    @property
    def settings(self) -> RunSettings:
        """What was decided when the run was made."""
        return self.prepared.settings

    @property
    def seed(self) -> int:
        """The seed of its noise."""
        return self.prepared.seed

    @property
    def condition(self) -> Condition:
        """The text of its predictions, encoded."""
        return self.trajectory.condition

    @property
    def fit(self) -> str:
        """How the image was fitted to the model's size, in words."""
        return self.prepared.fit

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of the image in its own size."""
        return self.prepared.own_size

    @property
    def model_size(self) -> tuple[int, int]:
        """Height and width in pixels of the image as the model sees it."""
        return self.prepared.size

    def unchanged(self) -> dict[str, Any]:
        """Return what the model is, which is what it was when the run was made.

        Whatever the run is asked starts from latents that it has computed, so that under other
        weights, or within `emerdiff_probe.intervene`, the answer would be of no model.

        Raises:
            ConfigError: The model is another by now.
        """
        model = identity(self.model)
        instead = "make another run with the model as it is; for interventions run.replay(...)"
        check_model(self.about, model, repr(self), instead)
        return model

    @property
    def provenance(self) -> dict[str, str]:
        """Attributes that say where a dataset comes from: texts, or JSON.

        Raises:
            ConfigError: The model is not any more what it was when the run was made.
        """
        model = self.unchanged()
        weights = model["weights"]
        about = {
            "model": model["name"],
            "weights": weights["unet"] if "unet" in weights else weights["transformer"],
            "source": self.prepared.about,
            "file": getattr(self.prepared.source, "file", ""),
            "fit": self.fit,
            "model_size": json.dumps(self.model_size),
            "model_description": json.dumps(model),
            "inversion": json.dumps(dict(self.diagnostics)),
            "versions": json.dumps(package_versions()),
        }
        if self.interventions:
            about["interventions"] = json.dumps(list(map(repr, self.interventions)))
        return about

    @contextmanager
    def intervened(self, timesteps: Iterable[float] | None = None) -> Iterator[None]:
        """Have the model under the run's interventions.

        Args:
            timesteps: At which it is called; by default at all of the run's, where each
                intervention has to take effect.
        """
        from emerdiff_probe.interventions import acting_at, intervene

        active = self.interventions
        if timesteps is not None:
            active = acting_at(active, timesteps)
        if not active:
            yield
            return
        with intervene(self.model, active):
            yield

    def features(self, site: str | Site, timestep: int) -> xr.DataArray:
        """Return what a site holds at a timestep of the unmodulated run.

        The model is called the first time only.

        Args:
            site: Its name, as in ``model.sites()``; one that is laid out over the image.
            timestep: One of the run's.

        Returns:
            (source_y, source_x, channel), float32; of two guidance halves the conditional one.

        Raises:
            SiteError: There is no such site, or it is not laid out over the image.
        """
        site = Site.parse(str(site))
        if (site, timestep) not in self._features:
            self.unchanged()
            grid = feature_grid(self.model, site, self.model_size)
            latents = self.trajectory.since(timestep).start
            with self.intervened([timestep]), capture(self.model.unet, [site]) as taps:
                self.model.predict(latents, timestep, self.condition)
            found = labelled_features(taps.take()[site], site, grid, self.size)
            self._features[site, timestep] = found
        return self._features[site, timestep]

    def record(
        self,
        sites: Sites = "blocks",
        *,
        timesteps: Sequence[int] | None = None,
        dtype: ValueType = "float16",
        reduce: Reducers = (),
        store: str | os.PathLike[str] | None = None,
        plan: bool = False,
        progress: bool = True,
    ) -> xr.DataTree | Plan:
        """Record the tensors at sites during the run; see `emerdiff_probe.record`."""
        from emerdiff_probe.recording.recording import record_runs

        return record_runs(
            [self],
            sites,
            timesteps=timesteps,
            dtype=dtype,
            reduce=reduce,
            store=store,
            plan=plan,
            progress=progress,
        )

    def segment(
        self,
        masks: Masks = 20,
        *,
        engine: str | None = None,
        config: EmerDiffConfig | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> xr.Dataset:
        """Segment the image as EmerDiff does; see `emerdiff_probe.segment`."""
        from emerdiff_probe.emerdiff.segmentation import segment_run

        return segment_run(self, masks, engine=engine, config=config, progress=progress, **settings)

    def respond(
        self,
        masks: Masks = "locations",
        *,
        engine: str | None = None,
        config: EmerDiffConfig | None = None,
        dtype: ValueType = "float16",
        store: str | os.PathLike[str] | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> xr.Dataset:
        """Shift locations or masks, keep what the image answers; see `emerdiff_probe.respond`."""
        from emerdiff_probe.emerdiff.responses import respond_run

        return respond_run(
            self,
            masks,
            engine=engine,
            config=config,
            dtype=dtype,
            store=store,
            progress=progress,
            **settings,
        )

    def responder(
        self, *, engine: str | None = None, config: EmerDiffConfig | None = None, **settings: Any
    ) -> Responder:
        """Return what computes responses of single locations when they are asked for.

        Args:
            engine: How modulated runs are computed; see `emerdiff_probe.emerdiff.ENGINES`. By
                default "shared", and "literal" for a run that was replayed under interventions.
            config: All settings; by default those that fit the model.
            **settings: Single settings, as attributes of `emerdiff_probe.EmerDiffConfig`.
        """
        from emerdiff_probe.emerdiff import Responder

        return Responder(self, engine=engine, config=config, **settings)

    def sweep(
        self,
        masks: Masks = 20,
        *,
        engine: str | None = None,
        config: EmerDiffConfig | None = None,
        store: str | os.PathLike[str] | None = None,
        progress: bool = True,
        **over: Any,
    ) -> xr.Dataset:
        """Segment under every combination of settings, from the same masks.

        Only what differs is computed: three widths of the filter cost what one segmentation costs.

        For example::

            run.sweep(sigma=[0, 1, 2], strength=[20, 40], masks=12)

        Args:
            masks: As `segment` takes them; clustered once.
            engine: How modulated runs are computed; see `emerdiff_probe.emerdiff.ENGINES`. By
                default "shared", and "literal" for a run that was replayed under interventions.
            config: The other settings; by default those that fit the model.
            store: A folder to stream difference maps to. The same call resumes one that was
                interrupted.
            progress: Shows a bar with the time left.
            **over: Settings by name: a list of values is swept, a single value is kept.

        Returns:
            A dataset with a dimension for each setting that is swept: ``difference`` (settings,
            mask, model_y, model_x), float32; ``labels`` (settings, y, x), int16; and ``masks``,
            ``low_res`` and ``picture``.

        Raises:
            ConfigError: Nothing is swept, there is no such setting or it cannot have a value, or
                the store was begun with other settings.
        """
        from emerdiff_probe.emerdiff.sweeps import sweep_run

        return sweep_run(
            self, masks, engine=engine, config=config, store=store, progress=progress, **over
        )

    def sensitivity(
        self,
        targets: ArrayLike,
        *,
        config: EmerDiffConfig | None = None,
        progress: bool = True,
        **settings: Any,
    ) -> xr.DataArray:
        """Differentiate chosen numbers of the image by the shift of every latent location.

        A number is a weighted sum of the image's values: one pixel's channel, or a segment's mean
        along a colour direction. To first order it is ``(weights * response).sum()`` of the
        location's response, as `respond` would find it.

        Args:
            targets: Pixels, a list of (y, x) positions, each of which stands for the mean of its
                three channels; or weights, shape (target, rgb, y, x), in the size that the model
                sees.
            config: All settings, with injection; by default those that fit the model.
            progress: Shows a bar with the time left.
            **settings: Single settings, as attributes of `emerdiff_probe.EmerDiffConfig`.

        Returns:
            ``sensitivity`` (target, source_y, source_x), float32.

        Raises:
            InputError: The targets do not fit the image.
            ConfigError: Settings without injection, or with another fault.
        """
        from emerdiff_probe.emerdiff.sensitivities import sensitivity_run

        return sensitivity_run(self, targets, config=config, progress=progress, **settings)

    def replay(self, *interventions: Intervention, progress: bool = True) -> Run:
        """Run the same noise again under interventions.

        Args:
            *interventions: Such as ``ep.Ablate("mid_block")``, in order; after those that the run
                is already under.
            progress: Shows a bar with the time left.

        Returns:
            A run whose `picture` is what comes out, in the size of this run's picture.
        """
        from emerdiff_probe.runs.making import replayed

        return replayed(self, interventions, progress=progress)

    def __repr__(self) -> str:
        return run_text(self)

    def _repr_html_(self) -> str:
        return run_html(self)
