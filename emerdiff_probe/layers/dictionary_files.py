"""Read files of sparse autoencoders, in the layouts of the libraries that train them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize

from emerdiff_probe import checks
from emerdiff_probe.errors import ConfigError, InputError, closest, first_line

__all__ = ["read_dictionary"]

_Array = NDArray[np.float32]
_Settings = Mapping[str, Any]

# Names of each tensor; those of torch's Linear are the transpose of the others.
_ENCODER: Final = ("W_enc", "encoder.weight")
_DECODER: Final = ("W_dec", "decoder.weight")
_ENCODER_BIAS: Final = ("b_enc", "encoder.bias", "latent_bias")
_DECODER_BIAS: Final = ("b_dec", "bias", "pre_bias", "decoder.bias")
_THRESHOLD: Final = ("threshold", "log_threshold")
_STATISTICS: Final = (
    "stats_last_nonzero",
    "latents_activation_frequency",
    "latents_mean_square",
    "num_batches_not_active",
    "n_forward_passes_since_fired",
)
"""Settings of the training, which change no answer."""
_KNOWN: Final = {
    *_ENCODER, *_DECODER, *_ENCODER_BIAS, *_DECODER_BIAS, *_THRESHOLD, *_STATISTICS, "k",
}  # fmt: skip

_CONFIGS: Final = ("cfg.json", "config.json")
_ALLOWED: Final[dict[str, tuple[Any, ...]]] = {
    "architecture": ("standard", "topk", "jumprelu"),
    "activation_fn_str": ("relu", "topk", "jumprelu"),
    "activation": ("topk", "relu", "jumprelu"),
    # SAELens folds scales into the weights when it saves, and says "none" then.
    "normalize_activations": ("none", None, False),
    "finetuning_scaling_factor": (False, None),
    "transcode": (False, None),
    "skip_connection": (False, None),
}
"""Settings that change answers, and the values that are supported."""
_DTYPES: Final[dict[str, Any]] = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8, "U8": np.uint8,
}  # fmt: skip


def read_dictionary(
    path: str | os.PathLike[str], k: int | None, subtract_bias: bool | None
) -> dict[str, Any]:
    """Return the attributes of `emerdiff_probe.layers.Dictionary`; see its ``load``."""
    file = _file(Path(path).expanduser())
    tensors = dict(_tensors(file))
    settings = _settings(file.parent)
    if unknown := sorted(set(tensors) - _KNOWN):
        raise InputError(
            f"'{file}' has tensors {', '.join(unknown)}, which no supported autoencoder with a "
            "ReLU, TopK or JumpReLU has; give its arrays to ep.Dictionary yourself"
        )
    encoder, decoder = _matrix(tensors, _ENCODER, file), _matrix(tensors, _DECODER, file).T
    # W_enc is (channel, feature) and W_dec (feature, channel), unlike the weights of Linear.
    encoder = encoder if "W_enc" in tensors else encoder.T
    decoder = decoder.T if "W_dec" in tensors else decoder
    bias, decoder_bias = (
        np.zeros(size, np.float32) if (there := _one_of(tensors, names, file)) is None else there
        for names, size in zip((_ENCODER_BIAS, _DECODER_BIAS), encoder.shape[::-1], strict=True)
    )
    found = {"encoder": encoder, "decoder": decoder, "encoder_bias": bias}
    if settings.get("rescale_acts_by_decoder_norm"):
        norms = np.linalg.norm(decoder, axis=-1)
        found = {
            "encoder": encoder * norms, "decoder": decoder / norms[:, None],
            "encoder_bias": bias * norms,
        }  # fmt: skip
    subtracted = _subtracted(tensors, settings, subtract_bias)
    if subtracted is None and decoder_bias.any():
        raise ConfigError(
            f"'{file}' does not say whether the decoder's bias is subtracted before encoding; "
            "choose subtract_bias=True or False, as its training had it (apply_b_dec_to_input in "
            "SAELens)"
        )
    return found | {
        "decoder_bias": decoder_bias,
        "input_bias": decoder_bias if subtracted else 0.0,
        **_activation(tensors, settings, k, file),
    }


def _file(path: Path) -> Path:
    """Return the safetensors file that a path names."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if len(files) != 1:
        names = ", ".join(each.name for each in files) or "none"
        raise InputError(f"'{path}' has {names}; give the path of one .safetensors file")
    if not files[0].is_file():
        there = [each.name for each in path.parent.glob("*.safetensors")]
        raise InputError(f"no file '{files[0]}'; {closest(path.name, there)}")
    return files[0]


def _tensors(file: Path) -> Iterator[tuple[str, _Array]]:
    """Yield name and values of each tensor; bfloat16, which NumPy lacks, becomes float32."""
    try:
        entries = deserialize(file.read_bytes())  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise InputError(
            f"'{file}' is not a safetensors file ({first_line(error)}); save the autoencoder's "
            "state_dict with safetensors.torch.save_file"
        ) from error
    for name, entry in entries:
        dtype, data = entry["dtype"], bytes(entry["data"])
        if dtype == "BF16":
            values = (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif dtype in _DTYPES:
            values = np.frombuffer(data, _DTYPES[dtype])
        else:
            raise InputError(f"'{file}' keeps {name} as {dtype}; save it in float32")
        yield name, values.reshape(entry["shape"]).astype(np.float32)


def _settings(folder: Path) -> _Settings:
    """Read the settings beside the file; dictionary_learning nests those of its trainer."""
    path = next((folder / name for name in _CONFIGS if (folder / name).is_file()), None)
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text())
        settings = {**found, **(found.get("trainer") or {})}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"'{path}' does not hold settings in JSON: {first_line(error)}") from error
    for name, allowed in _ALLOWED.items():
        if name in settings and settings[name] not in allowed:
            choices = ", ".join(str(each) for each in allowed if each)
            raise InputError(
                f"'{path}' says {name}={settings[name]!r}, but supported autoencoders have "
                f"{choices or 'none'}; give your own arrays to ep.Dictionary"
            )
    return settings


def _matrix(tensors: Mapping[str, _Array], names: tuple[str, ...], file: Path) -> _Array:
    found = _one_of(tensors, names, file)
    if found is None or found.ndim != 2:
        raise InputError(
            f"'{file}' has no matrix {' or '.join(names)}; it has {', '.join(sorted(tensors))}"
        )
    return found


def _one_of(tensors: Mapping[str, _Array], names: tuple[str, ...], file: Path) -> Any:
    """Return the tensor that has one of several names; None where there is none."""
    there = [name for name in names if name in tensors]
    if len(there) > 1:
        raise InputError(f"'{file}' has {' and '.join(there)}, which mean the same; keep one")
    return tensors[there[0]] if there else None


def _subtracted(
    tensors: Mapping[str, _Array], settings: _Settings, asked: bool | None
) -> bool | None:
    """Return whether the decoder's bias is subtracted before encoding; None where nothing says."""
    if asked is not None:
        return checks.flag("subtract_bias", asked)
    if "apply_b_dec_to_input" in settings:
        return bool(settings["apply_b_dec_to_input"])
    if "pre_bias" in tensors or "bias" in tensors:
        return True
    if "decoder.bias" in tensors or settings.get("dict_class") == "JumpReluAutoEncoder":
        return False
    # dictionary_learning subtracts; SAELens and sparsify have done both.
    return True if "decoder.weight" in tensors else None


def _activation(
    tensors: Mapping[str, _Array], settings: _Settings, asked: int | None, file: Path
) -> dict[str, Any]:
    """Return the threshold and k of an autoencoder."""
    arguments = settings.get("activation_fn_kwargs") or {}
    told = [
        tensors["k"].item() if "k" in tensors else None,
        settings.get("k"),
        arguments.get("k"),
    ]
    number = asked if asked is not None else next((each for each in told if each is not None), None)
    kinds = {str(settings.get(name, "")) for name in ("architecture", "activation_fn_str")}
    if number is None and ("topk" in kinds or "latent_bias" in tensors):
        raise ConfigError(f"'{file}' is a TopK autoencoder and does not say its k; give k=")
    threshold = tensors.get("threshold")
    if "log_threshold" in tensors:
        threshold = np.exp(tensors["log_threshold"])
    # BatchTopK is trained with k and used with the threshold that it learned, TopK with its k.
    batch = "BatchTopK" in str(settings.get("dict_class", ""))
    if number is not None and not (batch and threshold is not None and asked is None):
        return {"k": int(number)}
    return {} if threshold is None else {"threshold": np.maximum(threshold, 0)}
