"""Define the run: one image in one model, and all that can be asked of it."""

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
    """Hold one image in one model: a drawn prompt, or an inverted image.

    `emerdiff_probe.generate` and `emerdiff_probe.invert` make runs. All questions to a run concern
    the same noise and the same pixels; its methods answer with labelled arrays whose ``y`` and
    ``x`` are pixel centres of `picture`. An image is inverted once, when the run is made.

    Attributes:
        prepared: Input that it was made from.
        picture: Image, uint8 (height, width, 3), in its own size.
        pixels: Image as the model sees it, float32 in [0, 1], (height, width, 3).
        reconstruction: Image that the unmodulated run ends with, float32 in [0, 1], (height, width,
            3), in the size that the model sees.
        trajectory: Start, timesteps, noises and latents of the unmodulated run.
        diagnostics: Quality of the inversion, as JSON values: the error of the latents that the run
            ends with, decibels of the reconstruction and of what the autoencoder alone reaches, and
            how similar the run's noise is to true noise (root mean square 1, correlation of
            neighbours 0).
        about: Identity of the model when the run was made, as `emerdiff_probe.models.identity`
            returns it.
        interventions: Interventions under which it was replayed.
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
        """Return the model."""
        return self.prepared.model

    @property
    def settings(self) -> RunSettings:
        """Return the settings with which the run was made."""
        return self.prepared.settings

    @property
    def seed(self) -> int:
        """Return the seed of its noise."""
        return self.prepared.seed

    @property
    def condition(self) -> Condition:
        """Return the encoded text of its predictions."""
        return self.trajectory.condition

    @property
    def fit(self) -> str:
        """Return how the image was fitted to the model's size, in words."""
        return self.prepared.fit

    @property
    def size(self) -> tuple[int, int]:
        """Return height and width in pixels of the image in its own size."""
        return self.prepared.own_size

    @property
    def model_size(self) -> tuple[int, int]:
        """Return height and width in pixels of the image as the model sees it."""
        return self.prepared.size

    def unchanged(self) -> dict[str, Any]:
        """Check that the model is what it was when the run was made, and return its identity.

        All answers start from latents that the run has computed. With other weights, or within
        `emerdiff_probe.intervene`, an answer would mix two models.

        Raises:
            ConfigError: The model is no longer the same.
        """
        model = identity(self.model)
        instead = "make another run with the model as it is; for interventions run.replay(...)"
        check_model(self.about, model, repr(self), instead)
        return model

    @property
    def provenance(self) -> dict[str, str]:
        """Return attributes that say where a dataset comes from, as texts or JSON.

        Raises:
            ConfigError: The model is no longer what it was when the run was made.
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
    def intervened(
        self, timesteps: Iterable[float] | None = None, *, whole: bool = False
    ) -> Iterator[None]:
        """Keep the model under the run's interventions while the context lasts.

        Args:
            timesteps: Timesteps at which the model is called; by default all those of the run,
                where each intervention must take effect.
            whole: Whether the text is encoded and the image decoded in it, too, so that
                interventions on text encoders and the autoencoder must take effect.
        """
        from emerdiff_probe.interventions import acting_at, intervened

        active = self.interventions
        if timesteps is not None:
            active = acting_at(active, timesteps)
        if not active:
            yield
            return
        with intervened(self.model, active, whole=whole):
            yield

    def features(self, site: str | Site, timestep: int) -> xr.DataArray:
        """Return what a site holds at a timestep of the unmodulated run.

        The model is called only the first time.

        Args:
            site: Name of a site that is laid out over the image, as in ``model.sites()``.
            timestep: Timestep, one of those of the run.

        Returns:
            Features (source_y, source_x, channel), float32; of two guidance halves the conditional
            one.

        Raises:
            SiteError: The site does not exist, or is not laid out over the image.
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
        """Measure how the image answers shifts; see `emerdiff_probe.respond`."""
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
        """Return an object that computes responses of single locations when they are asked for.

        Args:
            engine: Way to compute modulated runs; see `emerdiff_probe.emerdiff.ENGINES`. By
                default "shared", and "literal" for a run that was replayed under interventions.
            config: Complete settings; by default those that fit the model.
            **settings: Single settings, by names of attributes of `emerdiff_probe.EmerDiffConfig`.
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

        Only what differs is computed: three widths of the filter cost as much as one segmentation.

        For example::

            run.sweep(sigma=[0, 1, 2], strength=[20, 40], masks=12)

        Args:
            masks: Number of masks, or masks, as `segment` takes them; clustered once.
            engine: Way to compute modulated runs; see `emerdiff_probe.emerdiff.ENGINES`. By
                default "shared", and "literal" for a run that was replayed under interventions.
            config: Other settings; by default those that fit the model.
            store: Folder to stream difference maps to. The same call resumes an interrupted sweep.
            progress: Whether to show a bar with the time left.
            **over: Settings by name: a list of values is swept, a single value is kept.

        Returns:
            Dataset with a dimension for each setting that is swept: ``difference`` (settings, mask,
            model_y, model_x), float32; ``labels`` (settings, y, x), int16; and ``masks``,
            ``low_res`` and ``picture``.

        Raises:
            ConfigError: Nothing is swept, a setting does not exist or cannot have a value, or the
                store was started with other settings.
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

        Such a number is a weighted sum of the image's values: one pixel's channel, or a segment's
        mean along a colour direction. To first order the derivative is ``(weights *
        response).sum()``, with the location's response as `respond` would find it.

        Args:
            targets: Pixels as a list of (y, x) positions, each of which stands for the mean of its
                three channels; or weights (target, rgb, y, x), in the size that the model sees.
            config: Complete settings, with injection; by default those that fit the model.
            progress: Whether to show a bar with the time left.
            **settings: Single settings, by names of attributes of `emerdiff_probe.EmerDiffConfig`.

        Returns:
            ``sensitivity`` (target, source_y, source_x), float32.

        Raises:
            InputError: The targets do not fit the image.
            ConfigError: The settings are without injection, or have another fault.
        """
        from emerdiff_probe.emerdiff.sensitivities import sensitivity_run

        return sensitivity_run(self, targets, config=config, progress=progress, **settings)

    def replay(self, *interventions: Intervention, progress: bool = True) -> Run:
        """Run the same noise again under interventions.

        Args:
            *interventions: Interventions in order, such as ``ep.Ablate("mid_block")``; they follow
            those that the run is already under.
            progress: Whether to show a bar with the time left.

        Returns:
            Run whose `picture` is the result, in the size of this run's picture.
        """
        from emerdiff_probe.runs.making import replayed

        return replayed(self, interventions, progress=progress)

    def __repr__(self) -> str:
        return run_text(self)

    def _repr_html_(self) -> str:
        return run_html(self)
