"""Read and write the arguments of a denoising network's calls, as its layout describes them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from emerdiff_probe.errors import CaptureError
from emerdiff_probe.models.layouts import Layout, layout_of, unwrapped

__all__ = [
    "Given",
    "Reading",
    "default_latents",
    "given",
    "image_tokens",
    "latents_given",
    "network_arguments",
    "network_output",
    "timestep_given",
]


@dataclass(frozen=True, eq=False)
class Given:
    """The arguments of a network call.

    Attributes:
        latents: The unpacked latents, shape (row, channel, y, x).
        timestep: The timestep in the scheduler's unit, from 0 to 1000, not necessarily whole.
        text: The encoded text, shape (row, token, channel), with zeros for the network's own
            tokens; without tokens if the network reads none.
        masks: The masks of attention, by the name of the argument.
    """

    latents: Tensor
    timestep: float
    text: Tensor
    masks: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Reading:
    """The inputs of a transformer besides latents and timestep.

    Attributes:
        text: The encoded text, shape (row, token, channel).
        pooled: The prompt as one vector, (row, channel), or None.
        mask: The mask of the tokens that count, (row, token), or None.
        guidance: The guidance scale, for networks that read it.
    """

    text: Tensor
    pooled: Tensor | None = None
    mask: Tensor | None = None
    guidance: float = 1.0


def given(network: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> Given:
    """Read the arguments of a network call.

    Args:
        network: A network whose class has a layout.
        arguments: The positional arguments.
        named: The named arguments.

    Raises:
        CaptureError: The rows are at several timesteps, or the latents belong to several images.
    """
    own, layout = unwrapped(network), layout_of(network)
    call = _by_name(own, arguments, named)
    latents = call[layout.latents].detach()
    text = latents.new_zeros(len(latents), 0, 1)
    if layout.text is not None and call.get(layout.text) is not None:
        text = F.pad(call[layout.text].detach(), (0, 0, layout.registers, 0))
    return Given(
        _unpacked(latents, call, layout) if layout.packed else latents,
        _timestep(own, call),
        text,
        {name: call[name].detach() for name in layout.masks if call.get(name) is not None},
    )


def latents_given(
    network: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> Tensor:
    """Return the latents of a call as they were passed, packed or not, rows first."""
    call = _by_name(unwrapped(network), arguments, named)
    latents: Tensor = call[layout_of(network).latents]
    return latents


def timestep_given(
    network: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> float:
    """Return the timestep of a call in the scheduler's unit.

    Raises:
        CaptureError: The rows are at several timesteps.
    """
    own = unwrapped(network)
    return _timestep(own, _by_name(own, arguments, named))


def image_tokens(network: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> int:
    """Return the number of a call's image tokens."""
    own: Any = unwrapped(network)
    layout, latents = layout_of(own), latents_given(own, arguments, named)
    if layout.packed:
        return latents.shape[1]
    cells = layout.cells(own.config)
    return (latents.shape[-2] // cells) * (latents.shape[-1] // cells)


def default_latents(network: nn.Module) -> tuple[int, int, int, int]:
    """Return the shape (1, channel, y, x) of default latents for a network.

    The size is that of its configuration, or 64 cells.
    """
    own: Any = unwrapped(network)
    side = own.config.get("sample_size") or 64
    height, width = (side, side) if isinstance(side, int) else side
    return 1, layout_of(own).latent_channels(own.config), height, width


def _by_name(
    own: nn.Module, arguments: tuple[Any, ...], named: Mapping[str, Any]
) -> dict[str, Any]:
    return dict(zip(_names(type(own).forward), arguments, strict=False)) | dict(named)


@functools.cache
def _names(forward: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a method's arguments, cached because every call needs them."""
    return tuple(inspect.signature(forward).parameters)[1:]


def _timestep(own: Any, call: Mapping[str, Any]) -> float:
    layout = layout_of(own)
    values = torch.as_tensor(call[layout.time]).flatten()
    if not (values == values[0]).all():
        raise CaptureError(
            f"the rows of one call are at several timesteps {values.tolist()}, and only one is "
            "supported; call the network once for each"
        )
    return layout.timestep(values[0].item(), own.config)


def _unpacked(latents: Tensor, call: Mapping[str, Any], layout: Layout) -> Tensor:
    """Return the latents with the cells of each token separated again.

    Raises:
        CaptureError: The tokens do not form the grid, because the call has further images.
    """
    places = call["img_ids"]
    places = places[0] if places.ndim == 3 else places
    rows, columns = (int(places[:, axis].max()) + 1 for axis in (1, 2))
    if rows * columns != latents.shape[1]:
        raise CaptureError(
            f"a call has {latents.shape[1]} image tokens, which are not a grid of {rows} x "
            f"{columns}: it has further images besides its latents, as with Flux Kontext and "
            "Fill, which are not supported"
        )
    return _on_grid(latents, rows, columns, layout.cells({}))


def network_arguments(
    network: nn.Module, latents: Tensor, timestep: float, reading: Reading
) -> dict[str, Any]:
    """Return the named arguments of a transformer call.

    Args:
        network: A network whose class has a layout.
        latents: The latents as the network reads them, in its dtype, (row, channel, y, x), not
            packed.
        timestep: The timestep in the scheduler's unit.
        reading: The text and guidance, with as many rows.
    """
    own: Any = unwrapped(network)
    layout = layout_of(own)
    read = layout.as_read(timestep, own.config)
    call = {
        layout.latents: latents,
        layout.time: torch.full((len(latents),), read, device=latents.device),
        "return_dict": False,
    }
    if layout.text is not None:
        call[layout.text] = reading.text
    further = _FURTHER.get(layout.name)
    return call if further is None else call | further(own.config, latents, reading)


def network_output(network: nn.Module, output: Tensor, like: Tensor) -> Tensor:
    """Return the prediction of a transformer in the shape of its input latents, not packed.

    Args:
        network: The transformer.
        output: The output of the transformer.
        like: The latents.
    """
    layout = layout_of(network)
    if layout.packed:
        rows, columns = (side // layout.cells({}) for side in like.shape[-2:])
        output = _on_grid(output, rows, columns, layout.cells({}))
    # The other channels are a learned variance.
    return output[:, : like.shape[1]]


def _on_grid(packed: Tensor, rows: int, columns: int, side: int) -> Tensor:
    return rearrange(
        packed, "n (y x) (c p q) -> n c (y p) (x q)", y=rows, x=columns, p=side, q=side
    )


def _pixart(config: Any, latents: Tensor, reading: Reading) -> dict[str, Any]:
    sizes: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    asked = config.use_additional_conditions
    if config.sample_size == 128 if asked is None else asked:
        height, width = (8 * side for side in latents.shape[-2:])
        rows = len(latents)
        sizes = {
            "resolution": latents.new_tensor([[height, width]]).repeat(rows, 1),
            "aspect_ratio": latents.new_tensor([[height / width]]).repeat(rows, 1),
        }
    return {"encoder_attention_mask": reading.mask, "added_cond_kwargs": sizes}


def _stable_diffusion_3(config: Any, latents: Tensor, reading: Reading) -> dict[str, Any]:
    return {"pooled_projections": reading.pooled}


def _flux(config: Any, latents: Tensor, reading: Reading) -> dict[str, Any]:
    rows, columns = (side // 2 for side in latents.shape[-2:])
    places = torch.zeros(rows, columns, 3, device=latents.device, dtype=latents.dtype)
    places[..., 1] += torch.arange(rows, device=latents.device)[:, None]
    places[..., 2] += torch.arange(columns, device=latents.device)
    scale = None
    if config.guidance_embeds:
        scale = torch.full((len(latents),), reading.guidance, device=latents.device)
    return {
        "hidden_states": rearrange(latents, "n c (y p) (x q) -> n (y x) (c p q)", p=2, q=2),
        "pooled_projections": reading.pooled,
        "img_ids": places.flatten(0, 1),
        "txt_ids": latents.new_zeros(reading.text.shape[1], 3),
        "guidance": scale,
    }


def _dit(config: Any, latents: Tensor, reading: Reading) -> dict[str, Any]:
    # The class after the last stands for none.
    none = torch.full((len(latents),), config.num_embeds_ada_norm, device=latents.device)
    return {"class_labels": none}


def _sana(config: Any, latents: Tensor, reading: Reading) -> dict[str, Any]:
    scale = None
    if config.guidance_embeds:
        scale = latents.new_full((len(latents),), reading.guidance * config.guidance_embeds_scale)
    return {"encoder_attention_mask": reading.mask, "guidance": scale}


_FURTHER: Final[Mapping[str, Callable[[Any, Tensor, Reading], dict[str, Any]]]] = {
    "pixart": _pixart,
    "stable-diffusion-3": _stable_diffusion_3,
    "flux": _flux,
    "dit": _dit,
    "sana": _sana,
}
"""Further arguments of a family's calls, by the name of the layout; other families have none."""
