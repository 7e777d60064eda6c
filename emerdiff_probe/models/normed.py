"""Show what a transformer block reads: its input after its own adaptive normalisation.

The features between blocks are dominated by a few massive channels (Gan et al. 2025, arXiv
2505.18584). Each block normalises, scales and shifts them for the timestep before it reads them.
Some classes do so in a module of the block, others between a plain norm and the attention.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from emerdiff_probe.models.layouts import Layout

__all__ = ["on_normed"]

_GIVEN: Final = "hidden_states"
"""Argument of attentions with the tokens that they read."""


def on_normed(
    network: nn.Module, layout: Layout, block: str, see: Callable[[Tensor], Tensor | None]
) -> RemovableHandle:
    """Show a function what a block's adaptive normalisation gives; the function may replace it.

    Args:
        network: The network that has the block.
        layout: The layout of the network.
        block: The path of a block whose layout names the place.
        see: A function of the tensor (row, token, channel) that returns a replacement, or None to
            leave it unchanged.

    Returns:
        The handle that removes the hook.
    """
    own = layout.part(block)
    assert own is not None
    path = f"{block}.{own.normed}"
    module, part = network.get_submodule(path), layout.part(path)
    if part is not None and part.kind == "attention":

        def before(_: nn.Module, inputs: Any, named: dict[str, Any]) -> Any:
            edited = see(named[_GIVEN] if _GIVEN in named else inputs[0])
            if edited is None:
                return None
            if _GIVEN in named:
                return inputs, {**named, _GIVEN: edited}
            return (edited, *inputs[1:]), named

        return module.register_forward_pre_hook(before, with_kwargs=True)

    def after(_: nn.Module, inputs: Any, output: Any) -> Any:
        # Gates and scales for what follows come after it.
        whole = output if isinstance(output, tuple) else (output,)
        edited = see(whole[0])
        if edited is None:
            return None
        return (edited, *whole[1:]) if isinstance(output, tuple) else edited

    return module.register_forward_hook(after)
