"""Keep the first part of a network call and reuse it in calls that start identically.

The output of a module is kept if it has a row for each row of the call. Other modules, such as
those that compute rotation angles of positions, return the same for every row and run again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from emerdiff_probe.models.arguments import latents_given
from emerdiff_probe.models.layouts import unwrapped
from emerdiff_probe.models.locks import around, of_this_thread, tapping

__all__ = ["given", "prefix"]


@contextmanager
def prefix(unet: nn.Module, path: str, *, through: bool = False) -> Iterator[dict[str, Any]]:
    """Keep the outputs that a call needs to resume at a module.

    Args:
        unet: The network.
        path: The path of the module.
        through: Whether to keep the output of the module itself, too.

    Yields:
        The outputs by path, filled by a call: those of the largest modules that finish before the
        module begins.
    """
    outputs: dict[str, Any] = {}
    begun, rows = False, 0

    def count(module: nn.Module, inputs: Any, named: dict[str, Any]) -> None:
        nonlocal rows
        rows = len(latents_given(module, inputs, named))

    def begin(module: nn.Module, inputs: Any) -> None:
        nonlocal begun
        begun = True

    def keep(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if (name == path or not begun) and _has_rows(output, rows):
                outputs[name] = output

        return hook

    own = unwrapped(unet)
    modules = dict(own.named_modules())
    with tapping(unet) as stack:
        noting = of_this_thread(count)
        stack.callback(unet.register_forward_pre_hook(noting, with_kwargs=True).remove)
        stack.callback(modules[path].register_forward_pre_hook(of_this_thread(begin)).remove)
        for name in (*_beside(own, path), *([path] if through else [])):
            kept = of_this_thread(keep(name))
            stack.callback(modules[name].register_forward_hook(kept).remove)
        yield outputs


def _has_rows(output: Any, rows: int) -> bool:
    if isinstance(output, Tensor):
        return output.ndim > 0 and len(output) == rows
    if isinstance(output, tuple | list):
        return all(_has_rows(each, rows) for each in output)
    return output is None


def _beside(unet: nn.Module, path: str) -> list[str]:
    """Return the modules to keep: children of the module's ancestors that do not contain it.

    Members of a module list count as children of the module that holds the list.
    """
    parts = path.split(".")
    around = {".".join(parts[:count]) for count in range(len(parts))}
    found = []
    for name, module in unet.named_modules():
        inside = name == "" or name in around or isinstance(module, nn.ModuleList)
        if not inside and name != path and _parent(name, unet) in around:
            found.append(name)
    return found


def _parent(name: str, unet: nn.Module) -> str:
    """Return the path of the module that calls a module: the nearest ancestor that is no list."""
    above = name.rpartition(".")[0]
    while above and isinstance(unet.get_submodule(above), nn.ModuleList):
        above = above.rpartition(".")[0]
    return above


@contextmanager
def given(unet: nn.Module, outputs: Mapping[str, Any], repeats: int) -> Iterator[None]:
    """Return known outputs from modules instead of calling them.

    Args:
        unet: The network.
        outputs: The outputs by module path, from `prefix`.
        repeats: The number of rows of this call for each row of the earlier one.
    """

    def instead(output: Any) -> Callable[..., Any]:
        return lambda _: lambda *_arguments, **_named: _repeated(output, repeats)

    with tapping(unet) as stack:
        for path, output in outputs.items():
            stack.enter_context(around(unet.get_submodule(path), "forward", instead(output)))
        yield


def _repeated(output: Any, repeats: int) -> Any:
    if output is None:  # the last blocks of some models leave the text out
        return None
    if isinstance(output, Tensor):
        return output.repeat_interleave(repeats, dim=0)
    return type(output)(_repeated(each, repeats) for each in output)
