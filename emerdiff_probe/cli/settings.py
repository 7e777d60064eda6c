"""Give a command an option for each setting of the method.

The settings stand here once more, because the class that holds them needs torch, and `--help` must
not. A test compares both.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, NamedTuple

import typer

from emerdiff_probe.cli.grouped import with_options

__all__ = ["SETTINGS", "with_settings"]


class Setting(NamedTuple):
    """Describe one setting: its type on the command line, what it is, and its least value."""

    type: Any
    help: str
    least: float | None = None


SETTINGS: Final = {
    "steps": Setting(int, "Steps of the sampling grid.", 1),
    "guidance": Setting(float, "Classifier-free guidance of prompts.", 1),
    "condition": Setting(
        Literal["prompt", "empty"],
        "What a prompt's run follows: the drawing itself, or its image inverted like a photograph.",
    ),
    "inversion": Setting(
        Literal["edit_friendly", "ddim", "noising"], "How images become trajectories."
    ),
    "start": Setting(int, "Timestep from which 'ddim' and 'noising' denoise.", 0),
    "feature_site": Setting(str, "Site whose features are clustered into masks."),
    "feature_timestep": Setting(float, "Timestep of the features.", 0),
    "normalise": Setting(
        Literal["none", "l2", "standard"], "What is done to features before they are clustered."
    ),
    "restarts": Setting(int, "Starts of k-means, the best of which counts.", 1),
    "modulation_site": Setting(str, "Site that is shifted."),
    "modulation_timestep": Setting(float, "Timestep of the shift.", 0),
    "strength": Setting(float, "Size of the shift, lambda, in units of the site.", 0),
    "injection": Setting(bool, "Modulated runs attend as the unmodulated one does."),
    "sigma": Setting(float, "Gaussian filter of difference maps, in pixels of the model.", 0),
    "balance": Setting(
        Literal["none", "root", "mean"], "What a difference map is divided by: a power of its mean."
    ),
    "elsewhere": Setting(float, "Weight of differences outside a mask, from 0 to 1.", 0),
    "sides": Setting(Literal["both", "one"], "Shift up and down, or up alone for half the time."),
    "space": Setting(
        Literal["picture", "latent"], "Where differences are taken: decoded images, or latents."
    ),
    "short_steps": Setting(int, "Steps after the shift with the engine 'short'.", 1),
    "batch": Setting(int, "Modulated runs in a call of the model; changes speed alone.", 1),
}
"""By the name in `emerdiff_probe.EmerDiffConfig`."""


def with_settings(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command with an option for each setting.

    Args:
        command: Function whose argument ``settings`` gets what was given on the command line, by
            name.
    """
    return with_options("settings", [_option(name, setting) for name, setting in SETTINGS.items()])(
        command
    )


def _option(name: str, setting: Setting) -> inspect.Parameter:
    option = typer.Option(
        help=setting.help,
        min=setting.least,
        show_default=False,
        rich_help_panel="Settings of the method, by default those that fit the model",
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[setting.type | None, option],
    )
