"""Install forward hooks at sites and on whole network calls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from emerdiff_probe.errors import CaptureError, SiteError, closest
from emerdiff_probe.models.arguments import latents_given, timestep_given
from emerdiff_probe.models.beside import Text
from emerdiff_probe.models.caches import refuse_caching
from emerdiff_probe.models.layouts import layout_of, unwrapped
from emerdiff_probe.models.locks import of_this_thread, tapping
from emerdiff_probe.models.normed import on_normed
from emerdiff_probe.sites import ATTENTION_PORTS, Site
from emerdiff_probe.taps.attention import adapted, refuse_fused
from emerdiff_probe.taps.products import Edit, multiplied
from emerdiff_probe.taps.streams import Stream, Tokens, is_multiplied, stream_at

__all__ = [
    "Call",
    "Capture",
    "capture",
    "check_rows",
    "current_call",
    "hooked",
    "modules_at",
    "watched",
]

_PROJECTED = set(ATTENTION_PORTS) - {"mix", "out"}

Keep = Callable[[Site, Tensor], Tensor]
"""A function that returns what to keep of the tensor at a site."""


def modules_at(unet: nn.Module, sites: Iterable[Site]) -> dict[Site, nn.Module]:
    """Return the modules that hold, or multiply, the tensors of sites.

    Raises:
        SiteError: The network has no such module; the message names the closest.
        ModelError: The projections are fused, so that the module would never be called.
    """
    modules = dict(unwrapped(unet).named_modules())
    found = {}
    for site in sites:
        name = site.path if is_multiplied(unet, site) else site.module
        if name not in modules or site.path not in modules:
            raise SiteError(f"no site '{site}' in this UNet; {closest(name, modules)}")
        if site.port in _PROJECTED:
            refuse_fused(site.path, modules[site.path])
        found[site] = modules[name]
    return found


@contextmanager
def watched(
    unet: nn.Module, before: Callable[..., None], after: Callable[..., None]
) -> Iterator[None]:
    """Report every call of a network: its arguments to `before`, its completion to `after`.

    Args:
        unet: The network.
        before: Called with the module, its positional arguments and its named arguments.
        after: Called with the same and with the output.
    """
    with tapping(unet) as stack:
        for handle in (
            unet.register_forward_pre_hook(of_this_thread(before), with_kwargs=True),
            unet.register_forward_hook(of_this_thread(after), with_kwargs=True),
        ):
            stack.callback(handle.remove)
        yield


@contextmanager
def hooked(unet: nn.Module, edits: Mapping[Site, Edit]) -> Iterator[None]:
    """Pass the tensors at sites to functions, which may replace them.

    Args:
        unet: The network.
        edits: A function for each site. If the module returns several tensors, the function sees
            the one that the network's layout names.

    Raises:
        SiteError: A site does not exist; no hook is installed then.
    """
    refuse_caching(unet)
    modules, tokens = modules_at(unet, edits), Tokens()
    streams = {site: stream_at(unet, site, tokens) for site in edits}
    with tapping(unet) as stack:
        if any(stream.joint for stream in streams.values()):
            noting = of_this_thread(tokens.note)
            stack.callback(unet.register_forward_pre_hook(noting, with_kwargs=True).remove)
        for site, edit in edits.items():
            if is_multiplied(unet, site):
                port, own = site.port.removeprefix("text_"), _in_stream(edit, streams[site])
                masked = bool(layout_of(unet).masks)
                product = multiplied(modules[site], site.path, {port: own}, masked=masked)
                stack.enter_context(product)
                continue
            if site.port == "normed":
                see = of_this_thread(_in_stream(edit, streams[site]))
                handle = on_normed(unwrapped(unet), layout_of(unet), site.path, see)
            elif site.port == "skip":
                skip = of_this_thread(_skip_hook(edit, site.skip_index))
                handle = modules[site].register_forward_pre_hook(skip, with_kwargs=True)
            elif site.port == "mix" and (attention := adapted(unet, site)) is not None:
                stack.enter_context(multiplied(attention, site.path, {"mix": edit}))
                continue
            elif site.port == "mix":
                mix = of_this_thread(_mix_hook(edit))
                handle = modules[site].register_forward_pre_hook(mix)
            else:
                hook = of_this_thread(_hook(edit, streams[site]))
                handle = modules[site].register_forward_hook(hook)
            stack.callback(handle.remove)
        yield


def _in_stream(edit: Edit, stream: Stream) -> Edit:
    """Return an edit of a whole tensor that changes only one of its streams."""

    def of_all(tensor: Tensor) -> Tensor | None:
        edited = edit(stream.of(tensor))
        whole: Tensor | None = None if edited is None else stream.put(tensor, edited)
        return whole

    return of_all


def _hook(edit: Edit, stream: Stream) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        edited = edit(stream.of(output))
        return None if edited is None else stream.put(output, edited)

    return hook


def _mix_hook(edit: Edit) -> Callable[[nn.Module, Any], Any]:
    def hook(module: nn.Module, inputs: Any) -> Any:
        edited = edit(inputs[0])
        return None if edited is None else (edited, *inputs[1:])

    return hook


def _skip_hook(edit: Edit, index: int) -> Callable[[nn.Module, Any, Any], Any]:
    def hook(module: nn.Module, inputs: Any, named: dict[str, Any]) -> Any:
        name = "res_hidden_states_tuple"
        skips = list(named[name] if name in named else inputs[1])
        edited = edit(skips[index])
        if edited is None:
            return None
        skips[index] = edited
        if name in named:
            return inputs, {**named, name: tuple(skips)}
        return (inputs[0], tuple(skips), *inputs[2:]), named

    return hook


@dataclass
class Call:
    """The network call in progress.

    Attributes:
        timestep: The timestep in the scheduler's unit, not necessarily whole; None before the first
            call.
        visit: The number of calls at the same timestep directly before this one: some schedulers
            call twice per timestep.
        rows: The number of rows of its latents.
        halves: The number of guidance halves among its rows, 1 or 2; None if unknown.
        order: The order of guidance halves in calls that have both.
        seen: The timesteps of all calls so far.
        text: In a call of a text encoder, the text of guidance that it reads; None if unknown.
    """

    timestep: float | None = None
    visit: int = 0
    rows: int = 0
    halves: int | None = 1
    order: tuple[str, ...] = ("uncond", "cond")
    seen: set[float] = field(default_factory=set)
    text: Text | None = None


@contextmanager
def current_call(
    unet: nn.Module, halves: Callable[[Tensor], int | None] = lambda latents: 1
) -> Iterator[Call]:
    """Track the timesteps at which a network is called.

    Args:
        unet: The network.
        halves: Returns the number of guidance halves among the rows of a call's latents.
    """
    call = Call()
    if layout_of(unet).guidance == "turned halves":
        call.order = call.order[::-1]

    def note(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        latents = latents_given(module, inputs, named)
        call.rows, call.halves = len(latents), halves(latents)
        now = timestep_given(module, inputs, named)
        call.visit = call.visit + 1 if call.timestep == now else 0
        call.timestep = now
        call.seen.add(call.timestep)

    with tapping(unet) as stack:
        handle = unet.register_forward_pre_hook(of_this_thread(note), with_kwargs=True)
        stack.callback(handle.remove)
        yield call


def check_rows(site: Site, tensor: Tensor, rows: int) -> None:
    """Refuse a site's tensor that lacks rows of the network call.

    Args:
        site: The site.
        tensor: The tensor at the site, rows first.
        rows: The number of rows of the call's latents.

    Raises:
        CaptureError: The tensor has fewer or more rows.
    """
    if len(tensor) != rows:
        raise CaptureError(
            f"'{site}' gives {len(tensor)} rows in a UNet call of {rows}: perturbed attention "
            "guidance (PAG) computes no attention for the perturbed rows. Choose its port 'out', "
            f"leave it out (as with '!{site}' in a pattern), or call the pipeline with pag_scale=0"
        )


class Capture:
    """Collect the tensors at sites, one network call at a time.

    Args:
        sites: The sites to watch.
        keep: Returns what to keep of a tensor; the result must not share its memory.
    """

    def __init__(self, sites: Iterable[Site], keep: Keep) -> None:
        self._fired: dict[Site, list[Tensor]] = {site: [] for site in sites}
        self._keep = keep
        self._rows: int | None = None

    def begin(self, rows: int) -> None:
        """Note the number of rows of the network call that begins; all tensors must match it."""
        self._rows = rows

    @property
    def edits(self) -> dict[Site, Edit]:
        """The function at each site that keeps its tensor."""
        return {site: self._keeping(site, tensors) for site, tensors in self._fired.items()}

    def _keeping(self, site: Site, tensors: list[Tensor]) -> Edit:
        def keep(tensor: Tensor) -> None:
            if self._rows is not None:
                check_rows(site, tensor, self._rows)
            tensors.append(self._keep(site, tensor))

        return keep

    def clear(self) -> None:
        """Discard what was kept, for example after a call that failed."""
        for tensors in self._fired.values():
            tensors.clear()

    def take(self) -> dict[Site, Tensor]:
        """Return the tensors of the one call since the last `take`.

        Raises:
            CaptureError: A site fired not at all, or more than once.
        """
        wrong = {
            str(site): len(tensors) for site, tensors in self._fired.items() if len(tensors) != 1
        }
        if wrong:
            raise CaptureError(
                f"these sites should fire once per UNet call but fired this often: {wrong}; "
                "check whether a part of the UNet is skipped, cached or called on its own"
            )
        return {site: tensors.pop() for site, tensors in self._fired.items()}


def _copied(_: Site, tensor: Tensor) -> Tensor:
    """Return a copy, since later modules may change the tensor in place, as FreeU does."""
    return tensor.clone()


@contextmanager
def capture(unet: nn.Module, sites: Iterable[Site], keep: Keep = _copied) -> Iterator[Capture]:
    """Capture the tensors at sites; call ``take()`` after each network call.

    Args:
        unet: The network.
        sites: The sites to watch.
        keep: Returns what to keep of a tensor; see `Capture`.

    Raises:
        CaptureError: Within a call: a site's tensor lacks rows of the call.
    """
    kept = Capture(sites, keep)

    def begin(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        kept.begin(len(latents_given(module, inputs, named)))

    with hooked(unet, kept.edits), tapping(unet) as stack:
        handle = unet.register_forward_pre_hook(of_this_thread(begin), with_kwargs=True)
        stack.callback(handle.remove)
        yield kept
