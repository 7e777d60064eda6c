"""Identify a model by everything that determines its answers, and by trying it out.

A store is resumed, and a stored result returned, only for a model of the same identity;
`emerdiff_probe.store.check_model` compares two. For the reasons for these parts see
docs/decisions/0014.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emerdiff_probe.errors import ModelError
from emerdiff_probe.models.active import active
from emerdiff_probe.models.catalogue import unwrapped
from emerdiff_probe.models.denoiser import Denoiser
from emerdiff_probe.models.locks import eagerly, exclusively, silenced
from emerdiff_probe.models.weights import content_hash, stored_tensors
from emerdiff_probe.schema import package_versions

__all__ = ["identity", "parts_identity", "unet_weights"]

_PROMPT: Final = "a red house"
_NUMBERS: Final = 8
"""The number of values kept of each answer."""

_FREEU: Final = ("s1", "s2", "b1", "b2")

_EXACT: Final = frozenset(
    {
        "AttnProcessor",
        "AttnProcessor2_0",
        "AttnAddedKVProcessor",
        "AttnAddedKVProcessor2_0",
        "FusedAttnProcessor2_0",
        "SlicedAttnProcessor",
        "XFormersAttnProcessor",
    }
)
"""Attention processors that compute plain attention and differ only in rounding."""


def identity(model: Denoiser) -> dict[str, Any]:
    """Return what determines a model's answers, as provenance for datasets.

    This takes a pass over the weights and one small call each of the text encoder, the network and
    the autoencoder. Taps and interventions do not see these calls; active interventions are named.

    Args:
        model: A model from `emerdiff_probe.load`.

    Returns:
        Nested dictionaries, fit for JSON: ``weights`` (hashes by part), active ``adapters`` (with
        scale and weights), ``dtype``, ``image_size``, ``schedule``, ``freeu``, ``attention``
        (processors that are not plain attention), ``interventions``, ``tiling`` of the autoencoder;
        ``answers``, numbers from small fixed calls; and ``name``, ``device`` and ``versions``,
        which may differ.

    Raises:
        ModelError: The weights are offloaded layer by layer, so they cannot be read; or a part of
            the model's pipeline was replaced after loading.
    """
    _check_parts(model)
    schedule = model.schedule
    places = np.linspace(0, schedule.length - 1, _NUMBERS).round().astype(int)
    with exclusively(model.unet):
        return {
            "name": model.name,
            "dtype": str(model.dtype).removeprefix("torch."),
            "device": _device_name(model.device),
            "versions": package_versions(),
            "image_size": model.image_size,
            "schedule": {
                "prediction": schedule.prediction,
                "length": schedule.length,
                "alpha_bar": [_rounded(schedule.alpha_bar[place]) for place in places],
            },
            **parts_identity(model.parts),
            "answers": _answers(model),
        }


def _check_parts(model: Any) -> None:
    """Refuse a model whose pipeline was given another network after it was loaded.

    Raises:
        ModelError: A part was replaced.
    """
    for name, part in model.parts.items():
        # A decoder of your own is not part of the pipeline.
        if name != "decoder" and unwrapped(getattr(model.pipeline, name)) is not unwrapped(part):
            raise ModelError(
                f"the pipeline of {model.name!r} was given another {name} after it was loaded; "
                "load it again: ep.load(pipeline)"
            )


def parts_identity(parts: Mapping[str, nn.Module]) -> dict[str, Any]:
    """Return the parts of `identity` that can be read from modules without calling them.

    Args:
        parts: The modules by name; the denoising network is called "unet" or "transformer".

    Raises:
        ModelError: Weights are offloaded layer by layer.
    """
    unet = unwrapped(parts["unet"] if "unet" in parts else parts["transformer"])
    found: dict[str, Any] = {"weights": {}, "adapters": {}}
    for name, part in parts.items():
        base, adapters = _weights(part, name)
        found["weights"][name] = content_hash(base)
        if adapters:
            found["adapters"][name] = adapters
    return found | {
        "freeu": _freeu(unet),
        "attention": _processors(unet),
        "interventions": active(unet),
        "tiling": [name for name, part in parts.items() if getattr(part, "use_tiling", False)],
    }


def unet_weights(unet: nn.Module) -> str:
    """Return a hash of a network's weights, without those of adapters.

    Raises:
        ModelError: The weights are offloaded layer by layer.
    """
    return content_hash(_weights(unet, "unet")[0])


def _weights(part: nn.Module, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a part's own tensors, named as without adapters, and its active adapters."""
    module = unwrapped(part)
    # PEFT wraps a layer like this: its own weights are in `base_layer`, those of adapters beside it
    # by name.
    tuners: dict[str, Any] = {
        path: each
        for path, each in module.named_modules()
        if hasattr(each, "base_layer") and hasattr(each, "active_adapters")
    }
    base: dict[str, Tensor] = {}
    added: dict[str, dict[str, Tensor]] = {}
    for key, tensor in stored_tensors(module).items():
        if tensor.is_meta:
            raise ModelError(
                f"the weights of the {name} are offloaded layer by layer, so they cannot be "
                "identified; use enable_model_cpu_offload() on the pipeline instead, or "
                "probe(pipe) your own call of it"
            )
        path = next((each for each in _above(key) if each in tuners), None)
        rest = key if path is None else key.removeprefix(f"{path}.")
        if path is None or rest.startswith("base_layer."):
            base[key.replace(".base_layer.", ".")] = tensor
        else:
            added.setdefault(rest.split(".")[1], {})[key] = tensor
    scales: dict[str, set[float]] = {}
    for each in tuners.values():
        # Fused adapters are part of the weights.
        if not each.disable_adapters and not each.merged_adapters:
            for adapter in each.active_adapters:
                if adapter in each.scaling:
                    scales.setdefault(adapter, set()).add(_rounded(each.scaling[adapter]))
    adapters = {
        adapter: {"scale": sorted(own), "weights": content_hash(added[adapter])}
        for adapter, own in scales.items()
        if own != {0.0}
    }
    return base, adapters


def _above(key: str) -> Iterator[str]:
    """Yield the paths of the modules around a tensor."""
    while key := key.rpartition(".")[0]:
        yield key


def _freeu(unet: nn.Module) -> dict[str, float]:
    blocks = getattr(unet, "up_blocks", ())
    factors = {name: getattr(block, name, None) for block in blocks for name in _FREEU}
    return {name: factor for name, factor in factors.items() if factor is not None}


def _processors(unet: Any) -> dict[str, int]:
    """Return the number of each attention processor that is not plain attention."""
    found: Counter[str] = Counter()
    for processor in getattr(unet, "attn_processors", {}).values():
        kind = type(processor).__name__
        if kind not in _EXACT:
            settings = {
                name: value
                for name, value in vars(processor).items()
                if not name.startswith("_") and isinstance(value, str | bool | int | float | list)
            }
            found[f"{kind}({', '.join(f'{name}={each}' for name, each in settings.items())})"] += 1
    return dict(found)


def _answers(model: Denoiser) -> dict[str, list[float]]:
    """Return numbers from a small call of each part."""
    # Reflection padding needs more than one cell on the coarsest level.
    side = 2 * model.size_multiple
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(model.latent_shape(side, side), generator=generator).to(model.device)
    pixels = torch.rand((1, 3, side, side), generator=generator)
    # A compiled network would be compiled again for this size.
    with silenced(), eagerly(), torch.no_grad():
        text, empty = model.condition(_PROMPT), model.condition("")
        read = [each for one in (text, empty) for each in (one.embeddings, one.pooled)]
        answers = {
            "condition": torch.cat([each.flatten() for each in read if each is not None]),
            # Call the class's function: one wrapped around an object watches the calls of its
            # users.
            "predict": type(model).predict(model, latents, model.schedule.length // 2, text),
            "encode": model.encode(pixels),
            "decode": model.decode(latents),
        }
        return {name: _summarised(answer) for name, answer in answers.items()}


def _summarised(answer: Tensor) -> list[float]:
    """Return a few numbers to which all values contribute, in the magnitude of a single value."""
    values = answer.float().cpu().numpy().ravel()
    return [_rounded(each) for each in _mixture(len(values)) @ values]


@functools.lru_cache(maxsize=8)
def _mixture(length: int) -> NDArray[np.float32]:
    """Return signs, shape (number, value), over the root of their count; equal in all versions."""
    drawn = np.random.PCG64(0).random_raw(length)
    bits = drawn[None] >> np.arange(_NUMBERS, dtype=np.uint64)[:, None]
    return ((bits & np.uint64(1)).astype(np.float32) * 2 - 1) / np.float32(length) ** 0.5


def _device_name(device: torch.device) -> str:
    model = f", {torch.cuda.get_device_name(device)}" if device.type == "cuda" else ""
    return f"{device}{model}"


def _rounded(value: Any) -> float:
    """Return a value with six significant digits, which float32 can hold."""
    return float(f"{float(value):.6g}")
