"""Taps: the one place that installs forward hooks and replaces functions of a model.

A tap lives as long as its ``with`` block and leaves the model as it was found, whatever happens
inside. Taps may overlap, and end in any order. While one is open a compiled UNet runs eagerly,
since hooks added after ``torch.compile``'s first call would silently not fire. A tap sees and
changes the calls of its own thread alone; other threads that ask for their turn wait for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline
from diffusers.models.attention_processor import Attention, IPAdapterAttnProcessor2_0
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from emerdiff_probe.errors import CaptureError, ModelError, SiteError, closest
from emerdiff_probe.models.caches import refuse_caching
from emerdiff_probe.models.catalogue import unwrapped
from emerdiff_probe.models.locks import around, eagerly, exclusively, of_this_thread
from emerdiff_probe.sites import ATTENTION_PORTS, Site

__all__ = [
    "Call",
    "Capture",
    "attentions",
    "capture",
    "current_call",
    "given",
    "hooked",
    "modules_at",
    "prefix",
    "restored_after_errors",
    "watched",
    "with_processors",
]

_PROJECTED = set(ATTENTION_PORTS) - {"mix", "out"}

Edit = Callable[[Tensor], Tensor | None]
"""Given a site's tensor: a tensor in its place, or None to leave it."""

Keep = Callable[[Site, Tensor], Tensor]
"""Given a site and its tensor: what is kept of it."""


def modules_at(unet: nn.Module, sites: Iterable[Site]) -> dict[Site, nn.Module]:
    """The modules that have the tensors of sites, as `Site.module` names them.

    Raises:
        SiteError: The UNet has no such module; names the closest that it has.
        ModelError: The projections are fused, so that the module would never be called.
    """
    modules = dict(unwrapped(unet).named_modules())
    found = {}
    for site in sites:
        if site.module not in modules or site.path not in modules:
            raise SiteError(f"no site '{site}' in this UNet; {closest(site.module, modules)}")
        if site.port in _PROJECTED:
            _refuse_fused(site.path, modules[site.path])
        found[site] = modules[site.module]
    return found


def _attentions(unet: nn.Module) -> dict[str, Attention]:
    modules = unwrapped(unet).named_modules()
    return {path: module for path, module in modules if isinstance(module, Attention)}


def attentions(unet: nn.Module) -> dict[str, Attention]:
    """All attention modules of a UNet by path.

    Raises:
        ModelError: One of them computes something else than plain attention over to_q, to_k and
            to_v, so that recording and injecting its queries and keys would not be exact.
    """
    found = _attentions(unet)
    for path, attention in found.items():
        _refuse_fused(path, attention)
        unusual = {
            "added keys and values": attention.add_k_proj is not None,
            "normalised queries": attention.norm_q is not None or attention.norm_k is not None,
            "a norm of its own": attention.group_norm is not None
            or attention.spatial_norm is not None
            or bool(attention.norm_cross),
            "a residual connection": attention.residual_connection,
            "a rescaled output": attention.rescale_output_factor != 1,
        }
        reasons = [what for what, there in unusual.items() if there]
        if reasons:
            raise ModelError(
                f"attention {path!r} has {' and '.join(reasons)}, which is not supported; "
                "Stable Diffusion v1, v2 and XL layouts are"
            )
    return found


def _refuse_fused(path: str, module: nn.Module) -> None:
    # Unfusing puts the processors back and leaves `fused_projections` set, so these are asked.
    if "Fused" in type(getattr(module, "processor", None)).__name__:
        raise ModelError(
            f"the projections of {path!r} are fused, so to_q, to_k and to_v are not called; "
            "call unfuse_qkv_projections() on the pipeline or the UNet first"
        )


@contextmanager
def _tapping(unet: nn.Module) -> Iterator[ExitStack]:
    """Has the model for this thread alone, uncompiled; what is put on the stack is undone."""
    with exclusively(unet), eagerly(), ExitStack() as stack:
        yield stack


@contextmanager
def restored_after_errors(model: Any) -> Iterator[None]:
    """Puts attention processors back where a call of a pipeline ends in an error.

    Pipelines with perturbed attention swap in processors of their own for a call, and leave them
    there if it ends in an error, such as one that a tap raises.

    Args:
        model: A diffusers pipeline, or what has one; of anything else nothing is watched.
    """
    watched_one = getattr(model, "pipeline", model)

    def restoring(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def call(pipeline: Any, *arguments: Any, **named: Any) -> Any:
            if pipeline is not watched_one:
                return original(pipeline, *arguments, **named)
            found = {each: each.processor for each in _attentions(pipeline.unet).values()}
            try:
                return original(pipeline, *arguments, **named)
            except BaseException:
                for attention, processor in found.items():
                    if attention.processor is not processor:
                        attention.set_processor(processor)
                raise

        return call

    is_pipeline = isinstance(watched_one, DiffusionPipeline)
    kind = type(watched_one)
    with around(kind, "__call__", restoring) if is_pipeline else nullcontext():
        yield


@contextmanager
def watched(
    unet: nn.Module, before: Callable[..., None], after: Callable[..., None]
) -> Iterator[None]:
    """Tells functions of every call of a UNet: `before` its arguments, `after` that it is done.

    Args:
        unet: The model.
        before: Called with the module, its arguments and its named arguments.
        after: The same, and with the output.
    """
    with _tapping(unet) as stack:
        for handle in (
            unet.register_forward_pre_hook(of_this_thread(before), with_kwargs=True),
            unet.register_forward_hook(of_this_thread(after), with_kwargs=True),
        ):
            stack.callback(handle.remove)
        yield


@contextmanager
def hooked(unet: nn.Module, edits: Mapping[Site, Edit]) -> Iterator[None]:
    """Shows the tensors at sites to functions, which may replace them.

    Args:
        unet: The model.
        edits: A function for each site. Where a module gives a tuple it sees the first element.

    Raises:
        SiteError: A site does not exist; nothing is installed then.
    """
    refuse_caching(unet)
    modules = modules_at(unet, edits)
    with _tapping(unet) as stack:
        for site, edit in edits.items():
            if site.port == "skip":
                skip = of_this_thread(_skip_hook(edit, site.skip_index))
                handle = modules[site].register_forward_pre_hook(skip, with_kwargs=True)
            elif site.port == "mix" and (attention := _adapted(unet, site)) is not None:
                stack.enter_context(around(attention, "forward", _own_mix(edit)))
                continue
            elif site.port == "mix":
                mix = of_this_thread(_mix_hook(edit))
                handle = modules[site].register_forward_pre_hook(mix)
            else:
                handle = modules[site].register_forward_hook(of_this_thread(_hook(edit)))
            stack.callback(handle.remove)
        yield


def _hook(edit: Edit) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        if isinstance(output, Tensor):
            return edit(output)
        edited = edit(output[0])
        return None if edited is None else (edited, *output[1:])

    return hook


def _mix_hook(edit: Edit) -> Callable[[nn.Module, Any], Any]:
    def hook(module: nn.Module, inputs: Any) -> Any:
        edited = edit(inputs[0])
        return None if edited is None else (edited, *inputs[1:])

    return hook


def _adapted(unet: nn.Module, site: Site) -> Attention | None:
    """The attention at a site if an IP-Adapter adds to what it mixes."""
    attention: Any = unwrapped(unet).get_submodule(site.path)
    processor = attention.processor
    if not hasattr(processor, "to_k_ip"):
        return None
    if not isinstance(processor, IPAdapterAttnProcessor2_0):
        raise ModelError(
            f"'{site}' cannot be told from what the {type(processor).__name__} adds to it; leave "
            "it out (as in '*:mix' after a '!'), or call unload_ip_adapter() on the pipeline"
        )
    return attention


def _own_mix(edit: Edit) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*arguments: Any, **named: Any) -> Any:
            with _FirstProduct(edit):
                return original(*arguments, **named)

        return forward

    return wrap


class _FirstProduct(TorchFunctionMode):
    """Shows an edit what an attention mixes first: its own values, before those of adapters."""

    def __init__(self, edit: Edit) -> None:
        super().__init__()
        self._edit: Edit | None = edit

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is not F.scaled_dot_product_attention or self._edit is None:
            return result
        edit, self._edit = self._edit, None
        edited = edit(result.transpose(1, 2).flatten(2))
        if edited is None:
            return result
        return edited.unflatten(2, (result.shape[1], -1)).transpose(1, 2)


def _skip_hook(edit: Edit, index: int) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, inputs: Any, named: dict[str, Any]) -> Any:
        skips = list(named["res_hidden_states_tuple"])
        edited = edit(skips[index])
        if edited is None:
            return None
        skips[index] = edited
        return inputs, {**named, "res_hidden_states_tuple": tuple(skips)}

    return hook


@contextmanager
def with_processors(unet: nn.Module, processors: Mapping[str, Any]) -> Iterator[None]:
    """Has attention modules, given by path, computed by other processors than their own."""
    modules = attentions(unet)

    def instead(path: str) -> Callable[..., Any]:
        return lambda _: functools.partial(processors[path], modules[path])

    with _tapping(unet) as stack:
        for path in processors:
            # Not set_attn_processor, which every thread would see, and which empties its argument.
            stack.enter_context(around(modules[path], "forward", instead(path)))
        yield


@dataclass
class Call:
    """The UNet call in progress.

    Attributes:
        timestep: Its t, which need not be whole; None before the first.
        visit: How many calls at the same timestep came right before it: some schedulers call twice
            at one.
        halves: Guidance halves among its rows, 1 or 2; None where nobody knows.
        seen: Timesteps of all calls so far.
    """

    timestep: float | None = None
    visit: int = 0
    halves: int | None = 1
    seen: set[float] = field(default_factory=set)


@contextmanager
def current_call(
    unet: nn.Module, halves: Callable[[Tensor], int | None] = lambda latents: 1
) -> Iterator[Call]:
    """Follows the timesteps at which a UNet is called.

    Args:
        unet: The model.
        halves: Guidance halves among the rows of a call's latents.
    """
    call = Call()

    def note(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        call.halves = halves(named["sample"] if "sample" in named else inputs[0])
        timestep = torch.as_tensor(named["timestep"] if "timestep" in named else inputs[1])
        if timestep.numel() > 1 and not (timestep == timestep.flatten()[0]).all():
            raise CaptureError(
                f"one UNet call has several timesteps {timestep.tolist()}; give each its own call"
            )
        now = timestep.flatten()[0].item()
        call.visit = call.visit + 1 if call.timestep == now else 0
        call.timestep = now
        call.seen.add(call.timestep)

    with _tapping(unet) as stack:
        handle = unet.register_forward_pre_hook(of_this_thread(note), with_kwargs=True)
        stack.callback(handle.remove)
        yield call


@contextmanager
def prefix(unet: nn.Module, path: str) -> Iterator[dict[str, Any]]:
    """Keeps what a call computes before a module begins: all that is needed to begin there.

    Args:
        unet: The model.
        path: Of the module.

    Yields:
        Outputs by path, filled by a call: of the largest modules that are done when it begins.
    """
    outputs: dict[str, Any] = {}
    begun = False

    def begin(module: nn.Module, inputs: Any) -> None:
        nonlocal begun
        begun = True

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not begun:
                outputs[name] = output

        return hook

    modules = dict(unet.named_modules())
    with _tapping(unet) as stack:
        stack.callback(modules[path].register_forward_pre_hook(of_this_thread(begin)).remove)
        for name in _beside(unet, path):
            kept = of_this_thread(keep(name))
            stack.callback(modules[name].register_forward_hook(kept).remove)
        yield outputs


def _beside(unet: nn.Module, path: str) -> list[str]:
    """Children of all modules around one that are not around it; lists count as their members."""
    parts = path.split(".")
    around = {".".join(parts[:count]) for count in range(len(parts))}
    found = []
    for name, module in unet.named_modules():
        inside = name == "" or name in around or isinstance(module, nn.ModuleList)
        if not inside and name != path and _parent(name, unet) in around:
            found.append(name)
    return found


def _parent(name: str, unet: nn.Module) -> str:
    """Path of the module that calls a module: the nearest above that is no list."""
    above = name.rpartition(".")[0]
    while above and isinstance(unet.get_submodule(above), nn.ModuleList):
        above = above.rpartition(".")[0]
    return above


@contextmanager
def given(unet: nn.Module, outputs: Mapping[str, Any], repeats: int) -> Iterator[None]:
    """Gives known outputs in place of calling modules.

    Args:
        unet: The model.
        outputs: By path, from `prefix`.
        repeats: Rows of this call for each row of that one.
    """

    def instead(output: Any) -> Callable[..., Any]:
        return lambda _: lambda *_arguments, **_named: _repeated(output, repeats)

    with _tapping(unet) as stack:
        for path, output in outputs.items():
            stack.enter_context(around(unet.get_submodule(path), "forward", instead(output)))
        yield


def _repeated(output: Any, repeats: int) -> Any:
    if isinstance(output, Tensor):
        return output.repeat_interleave(repeats, dim=0)
    return type(output)(_repeated(each, repeats) for each in output)


class Capture:
    """The tensors at some sites, one UNet call after the other.

    Args:
        sites: Where.
        keep: Makes of a tensor what is kept; nothing that shares its memory.
    """

    def __init__(self, sites: Iterable[Site], keep: Keep) -> None:
        self._fired: dict[Site, list[Tensor]] = {site: [] for site in sites}
        self._keep = keep

    @property
    def edits(self) -> dict[Site, Edit]:
        """For each site the function that keeps what it gives."""
        return {site: self._keeping(site, tensors) for site, tensors in self._fired.items()}

    def _keeping(self, site: Site, tensors: list[Tensor]) -> Edit:
        def keep(tensor: Tensor) -> None:
            tensors.append(self._keep(site, tensor))

        return keep

    def clear(self) -> None:
        """Forgets what was kept, as after a call that ended in an error."""
        for tensors in self._fired.values():
            tensors.clear()

    def take(self) -> dict[Site, Tensor]:
        """The tensors of the one call since the last time.

        Raises:
            CaptureError: A site gave none, or more than one.
        """
        wrong = {
            str(site): len(tensors) for site, tensors in self._fired.items() if len(tensors) != 1
        }
        if wrong:
            raise CaptureError(
                f"these sites did not fire once in a UNet call, but so many times: {wrong}; "
                "is a part of the UNet skipped, cached or called on its own?"
            )
        return {site: tensors.pop() for site, tensors in self._fired.items()}


def _copied(_: Site, tensor: Tensor) -> Tensor:
    """A copy, since what comes after may change the tensor in place, as FreeU does."""
    return tensor.clone()


@contextmanager
def capture(unet: nn.Module, sites: Iterable[Site], keep: Keep = _copied) -> Iterator[Capture]:
    """Keeps the tensors at sites; call ``take()`` after each UNet call.

    Args:
        unet: The model.
        sites: Where.
        keep: See `Capture`.
    """
    kept = Capture(sites, keep)
    with hooked(unet, kept.edits):
        yield kept
