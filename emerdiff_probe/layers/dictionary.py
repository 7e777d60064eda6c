"""Write a layer's channels as few features of a learned dictionary, a sparse autoencoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Final

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from emerdiff_probe import checks
from emerdiff_probe.errors import InputError
from emerdiff_probe.layers.dictionary_files import read_dictionary
from emerdiff_probe.layers.features import as_points, blocks
from emerdiff_probe.locations import joined_heads, one_array
from emerdiff_probe.schema import CHANNEL, TIMESTEP

__all__ = ["FEATURE", "Dictionary", "DictionaryFit"]

FEATURE: Final = "feature"
_RANK: Final = "rank"

_ROWS: Final = 4096
"""Number of locations to encode at once."""

_Matrix = NDArray[np.float32]
_Vector = NDArray[np.float32] | float


@dataclass(frozen=True)
class DictionaryFit:
    """Report how well a dictionary reconstructs a layer.

    Attributes:
        explained_variance: Share of the variance over locations, all channels together; 1 is a
            perfect reconstruction, 0 no better than the mean, and it can be negative.
        l0: Mean number of active features at a location.
        silent: Share of features that are active at no location, from 0 to 1.
        locations: Number of locations.
    """

    explained_variance: float
    l0: float
    silent: float
    locations: int


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Hold a sparse autoencoder of one site: features, and the direction of each.

    A location x has activations ``a = (x - input_bias) @ encoder + encoder_bias`` where they are
    above the threshold, else 0; with ``k`` only the k largest of them. The location is
    reconstructed as ``a @ decoder + decoder_bias``. `Dictionary.load` reads one from a file.

    Attributes:
        encoder: Weights of the encoder (channel, feature).
        decoder: Weights of the decoder (feature, channel).
        encoder_bias: Bias of the encoder (feature,); by default 0.
        decoder_bias: Bias of the decoder (channel,); by default 0.
        input_bias: Values subtracted before encoding (channel,); by default 0.
        threshold: Threshold of each feature (feature,), or one number, 0 or more; 0 is a ReLU,
            other values are a JumpReLU.
        k: Largest number of active features at a location (TopK); by default any number.

    Raises:
        InputError: Shapes do not fit each other, or values are not finite.

    >>> dictionary = Dictionary(np.eye(3), np.eye(3))
    >>> dictionary.encode([[2.0, -1.0, 0.5]])
    array([[2. , 0. , 0.5]], dtype=float32)
    """

    encoder: _Matrix = field(repr=False)
    decoder: _Matrix = field(repr=False)
    encoder_bias: _Vector = field(default=0.0, repr=False)
    decoder_bias: _Vector = field(default=0.0, repr=False)
    input_bias: _Vector = field(default=0.0, repr=False)
    threshold: _Vector = field(default=0.0, repr=False)
    k: int | None = None

    def __post_init__(self) -> None:
        encoder = np.asarray(self.encoder, np.float32)
        if encoder.ndim != 2:
            raise InputError(f"encoder has shape {encoder.shape}; give (channel, feature)")
        channels, features = encoder.shape
        shapes = {
            "encoder": (channels, features),
            "decoder": (features, channels),
            "encoder_bias": (features,),
            "decoder_bias": (channels,),
            "input_bias": (channels,),
            "threshold": (features,),
        }
        for name, shape in shapes.items():
            values = np.asarray(getattr(self, name), np.float32)
            values = np.full(shape, values) if values.size == 1 and len(shape) == 1 else values
            if values.shape != shape or not np.isfinite(values).all():
                raise InputError(
                    f"{name} has shape {values.shape}; for an encoder of {channels} channels "
                    f"and {features} features give {shape}, all of it finite"
                )
            object.__setattr__(self, name, values)
        if np.min(self.threshold) < 0:
            raise InputError(f"threshold is {np.min(self.threshold)}; choose 0 or more")
        if self.k is not None:
            object.__setattr__(self, "k", checks.integer("k", self.k, 1, features))

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        k: int | None = None,
        subtract_bias: bool | None = None,
    ) -> Dictionary:
        """Read a sparse autoencoder from a safetensors file, or the folder that has one.

        Known layouts are those of SAELens (standard, topk, jumprelu), dictionary_learning,
        EleutherAI's sparsify, and OpenAI, which the autoencoders of SDXL Turbo and Flux share.
        Settings are read from ``cfg.json`` or ``config.json`` beside the file, if there is one.

        Args:
            path: File, or its folder.
            k: Largest number of active features at a location, if the file does not say.
            subtract_bias: Whether the decoder's bias is subtracted before encoding, if the file
                does not say.

        Raises:
            InputError: The file does not exist, or has tensors or settings of an unknown kind.
            ConfigError: The file leaves a setting open that an argument must give.
        """
        return cls(**read_dictionary(path, k, subtract_bias))

    @property
    def channels(self) -> int:
        """Return the number of channels of its site."""
        return self.encoder.shape[0]

    def __len__(self) -> int:
        """Return the number of features."""
        return self.encoder.shape[1]

    def encode(self, points: ArrayLike) -> _Matrix:
        """Return the activations of features.

        Args:
            points: Values at locations (..., channel).

        Returns:
            Activations (..., feature), 0 or more.
        """
        inputs: _Matrix = np.asarray(points, np.float32) - self.input_bias
        found: _Matrix = np.asarray(inputs @ self.encoder + self.encoder_bias, np.float32)
        found[found <= self.threshold] = 0
        if self.k is not None:
            rest = np.argpartition(found, -self.k, axis=-1)[..., : -self.k]
            np.put_along_axis(found, rest, 0, axis=-1)
        return found

    def decode(self, activations: ArrayLike) -> _Matrix:
        """Return the values that activations stand for (..., channel).

        Args:
            activations: Activations of features (..., feature).
        """
        decoded: _Matrix = np.asarray(activations, np.float32) @ self.decoder + self.decoder_bias
        return decoded

    def features(self, values: xr.DataArray) -> xr.DataArray:
        """Return the activation of every feature at every location.

        Args:
            values: Values of the site that the dictionary was trained on, with channel as a dim; a
                head dim is joined with it.

        Returns:
            ``activation``, with the dims of values, but feature in place of channel; lazy where
            values are.

        Raises:
            InputError: Values have another number of channels.
        """
        found = self._applied(self.encode, values, (FEATURE,), (len(self),))
        return found.assign_coords({FEATURE: np.arange(len(self))}).rename("activation")

    def strongest(self, values: xr.DataArray, count: int = 8) -> xr.Dataset:
        """Return the features that are most active at each location.

        Args:
            values: Values as `features` takes them.
            count: Number of features for each location.

        Returns:
            ``feature`` and ``activation``, with the dims of values, but rank in place of channel,
            the most active first; feature is -1 where fewer are active.

        Raises:
            InputError: Values have another number of channels.
            ConfigError: The dictionary has fewer features.
        """
        count = checks.integer("count", count, 1, len(self))

        def ranked(points: ArrayLike) -> NDArray[np.float64]:
            found = self.encode(points)
            order = np.argsort(-found, axis=-1, kind="stable")[..., :count]
            largest = np.take_along_axis(found, order, axis=-1)
            # float64 holds every number of a feature, so that both travel in one array.
            return np.stack([np.where(largest > 0, order, -1), largest], axis=-2, dtype=np.float64)

        found = self._applied(ranked, values, ("what", _RANK), (2, count), np.float64)
        number, activation = (found.isel(what=each) for each in (0, 1))
        return xr.Dataset(
            {FEATURE: number.astype(np.int64), "activation": activation.astype(np.float32)},
            coords={_RANK: np.arange(count)},
        )

    def reconstruct(self, values: xr.DataArray) -> xr.DataArray:
        """Return values as the dictionary reconstructs them, with the same dims.

        Heads are joined into one channel axis.
        """
        return self._applied(
            lambda points: self.decode(self.encode(points)), values, (CHANNEL,), (self.channels,)
        )

    def fit(self, values: xr.DataArray) -> DictionaryFit:
        """Return how well the dictionary reconstructs values, block by block.

        Args:
            values: Values with y, x, channel, and perhaps sample, timestep, head and guidance; of
                the last, the half with the prompt is taken.

        Raises:
            InputError: Values have another number of channels, or are not finite.
        """
        self._check(joined_heads(one_array(values)))
        count, active = 0, np.zeros(len(self), np.int64)
        squares, sums, errors = 0.0, np.zeros(self.channels), 0.0
        for block in blocks(values):
            points, _ = as_points(block)
            for start in range(0, len(points), _ROWS):
                rows = points[start : start + _ROWS]
                found = self.encode(rows)
                count += len(rows)
                active += (found > 0).sum(0)
                sums += rows.sum(0)
                squares += float((rows**2).sum())
                errors += float(((rows - self.decode(found)) ** 2).sum())
        variance = squares - float((sums**2).sum()) / count
        return DictionaryFit(
            explained_variance=1 - errors / variance if variance > 0 else float("nan"),
            l0=float(active.sum() / count),
            silent=float((active == 0).mean()),
            locations=count,
        )

    def direction(self, feature: int) -> xr.DataArray:
        """Return what one unit of a feature adds to a location (channel,), such as for `Steer`.

        Raises:
            ConfigError: The feature does not exist.
        """
        number = checks.integer("feature", feature, 0, len(self) - 1)
        return xr.DataArray(self.decoder[number], dims=CHANNEL, attrs={FEATURE: number})

    def _check(self, values: xr.DataArray) -> None:
        if values.sizes.get(CHANNEL) != self.channels:
            raise InputError(
                f"values have sizes {dict(values.sizes)}, and the dictionary has {self.channels} "
                "channels; give the site that it was trained on"
            )

    def _applied(
        self,
        function: Any,
        values: xr.DataArray,
        dims: tuple[str, ...],
        sizes: tuple[int, ...],
        dtype: Any = np.float32,
    ) -> xr.DataArray:
        """Apply a function of locations, lazily where values are lazy."""
        values = joined_heads(one_array(values))
        self._check(values)
        if values.chunks:  # one timestep at a time: there are more features than channels
            whole = {CHANNEL: -1} | ({TIMESTEP: 1} if TIMESTEP in values.dims else {})
            values = values.chunk(whole)
        return xr.apply_ufunc(
            function,
            values.drop_vars(CHANNEL, errors="ignore"),
            input_core_dims=[[CHANNEL]],
            output_core_dims=[list(dims)],
            exclude_dims={CHANNEL},
            dask="parallelized",
            output_dtypes=[dtype],
            dask_gufunc_kwargs={"output_sizes": dict(zip(dims, sizes, strict=True))},
        )
