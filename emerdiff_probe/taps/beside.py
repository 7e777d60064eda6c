"""Hooks at sites of text encoders and autoencoders, which are called beside the denoiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from emerdiff_probe.models.beside import TEXT, module_beside, parts_beside, role_of
from emerdiff_probe.models.layouts import network_of
from emerdiff_probe.models.locks import Wrap, around, of_this_thread, tapping
from emerdiff_probe.sites import Site
from emerdiff_probe.taps.products import Edit

__all__ = ["BesideCapture", "capture_beside", "hooked_beside"]


@contextmanager
def hooked_beside(model: Any, edits: Mapping[Site, Edit]) -> Iterator[None]:
    """Show the tensors at sites beside the denoiser to functions, which may replace them.

    Args:
        model: Model or pipeline.
        edits: Function for each site.

    Raises:
        SiteError: A site does not exist; nothing is installed then.
    """
    modules = {site: module_beside(model, site) for site in edits}
    # Whoever has the denoiser has the parts beside it: one lock cannot be waited for crosswise.
    with tapping(network_of(model)) as stack:
        for site, edit in edits.items():
            # Before all hooks: transformers collects hidden states by hooks of its own, which stay.
            stack.enter_context(around(modules[site], "forward", _showing(edit)))
        yield


def _showing(edit: Edit) -> Wrap:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*arguments: Any, **named: Any) -> Any:
            output = original(*arguments, **named)
            # Layers of some text encoders give their weights of attention, too.
            whole = (output,) if isinstance(output, Tensor) else tuple(output)
            edited = edit(whole[0])
            if edited is None:
                return output
            return edited if isinstance(output, Tensor) else (edited, *whole[1:])

        return forward

    return wrap


@dataclass(frozen=True, eq=False)
class BesideCapture:
    """Hold what parts beside the denoiser gave and read while they were watched.

    Attributes:
        tensors: Tensors of each site, one for each call.
        tokens: Ids of the tokens that each text encoder read, one array for each call.
    """

    tensors: dict[Site, list[Tensor]] = field(default_factory=dict)
    tokens: dict[str, list[Tensor]] = field(default_factory=dict)


@contextmanager
def capture_beside(model: Any, sites: Iterable[Site]) -> Iterator[BesideCapture]:
    """Keep the tensors at sites beside the denoiser, and the tokens that text encoders read.

    Args:
        model: Model or pipeline.
        sites: Sites to keep.
    """
    kept = BesideCapture({site: [] for site in sites})

    def keeping(tensors: list[Tensor]) -> Edit:
        # A copy, since what comes after may change the tensor in place.
        return lambda tensor: tensors.append(tensor.detach().clone())

    def reading(ids: list[Tensor]) -> Callable[..., None]:
        def note(_: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
            ids.append(named["input_ids"] if "input_ids" in named else inputs[0])

        return note

    with (
        hooked_beside(model, {site: keeping(own) for site, own in kept.tensors.items()}),
        tapping(network_of(model)) as stack,
    ):
        names = {site.path.partition(".")[0] for site in kept.tensors if role_of(site) == TEXT}
        for name in names:
            note = of_this_thread(reading(kept.tokens.setdefault(name, [])))
            part = parts_beside(model)[name]
            stack.callback(part.register_forward_pre_hook(note, with_kwargs=True).remove)
        yield kept
