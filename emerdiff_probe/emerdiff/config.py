"""The settings of EmerDiff, each with where its value comes from."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self, get_args

import pandas as pd

from emerdiff_probe import checks
from emerdiff_probe.errors import ConfigError, ModelError
from emerdiff_probe.layers import Normalisation
from emerdiff_probe.models import Model, as_model
from emerdiff_probe.models.denoiser import Denoiser, Family
from emerdiff_probe.models.layouts import layout_of
from emerdiff_probe.runs import RunSettings
from emerdiff_probe.runs.settings import from_ as _from
from emerdiff_probe.segments import Balance
from emerdiff_probe.sites import Site, reading_block

__all__ = ["EmerDiffConfig"]

_FIRST = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
_THIRD = "up_blocks.1.attentions.2.transformer_blocks.0.attn2"


_WIDEST: Final = 1000
"""Pixels: a wider filter leaves nothing of a difference map but its mean."""

_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "normalise": get_args(Normalisation),
    "balance": get_args(Balance),
    "sides": ("both", "one"),
    "space": ("picture", "latent"),
}


@dataclass(frozen=True, kw_only=True)
class EmerDiffConfig(RunSettings):
    """All settings of a segmentation; the defaults are the closest to the paper that is known.

    Numbers of NumPy are taken. A value of another type or out of range raises `ConfigError` here.

    ``EmerDiffConfig.table()`` says of each whether it is read in the paper, inferred from it, or
    our choice because the paper could not be read on it. Those of `RunSettings` are decided when a
    run is made; the others are asked of a run. Attributes by stage:

    Attributes:
        feature_site: Where features for the low-resolution masks are read.
        feature_timestep: t_f.
        normalise: What is done to features before k-means.
        restarts: How often k-means starts anew; the best run counts.
        modulation_site: Whose output is shifted.
        modulation_timestep: t_m.
        strength: lambda, in units of the site's output.
        injection: Whether modulated runs use the attention products of the unmodulated one.
        sigma: Of the Gaussian filter on difference maps, in pixels of the model's picture.
        balance: What a difference map is divided by before maps are compared; see
            `emerdiff_probe.segments.balanced`.
        elsewhere: How much a difference counts outside its mask's own pixels, in [0, 1].
        seed: Of k-means; by default the run's own.
        sides: "both": a response is I+ minus I-; "one": twice I+ minus the unmodulated image, for
            half the runs.
        space: Where difference maps are taken: of decoded pictures, or of latents, which decodes
            nothing.
        short_steps: From t_m to the end, for the "short" engine.
        family: The family of models that the settings were made for.
        batch: Modulated runs that share a UNet call, halved where memory runs out; changes speed
            and memory alone.
    """

    feature_site: str = field(
        default=f"{_FIRST}:query",
        metadata=_from("paper", "first cross-attention of the upward 16x16 block, queries"),
    )
    feature_timestep: int = field(default=1, metadata=_from("paper", "the least noise"))
    normalise: Normalisation = field(
        default="none", metadata=_from("ours", "not given in the paper")
    )
    restarts: int = field(
        default=10, metadata=_from("ours", "initialisation is not given in the paper")
    )
    modulation_site: str = field(
        default=f"{_THIRD}:out",
        metadata=_from("ours", "which of the block's three cross-attentions is uncertain"),
    )
    modulation_timestep: int = field(default=281, metadata=_from("paper", "281 to 481 were best"))
    strength: float = field(default=10.0, metadata=_from("paper", "lambda"))
    injection: bool = field(
        default=True, metadata=_from("paper", "from t_m to the end is the natural reading")
    )
    sigma: float = field(
        default=1.0, metadata=_from("ours", "a Gaussian filter is used; its width is not given")
    )
    balance: Balance = field(
        default="none", metadata=_from("paper", "the largest difference wins as it is")
    )
    elsewhere: float = field(
        default=1.0, metadata=_from("paper", "differences count alike in the whole picture")
    )
    sides: Literal["both", "one"] = field(
        default="both", metadata=_from("paper", "-lambda and +lambda")
    )
    space: Literal["picture", "latent"] = field(
        default="picture", metadata=_from("paper", "distance over RGB")
    )
    short_steps: int = field(
        default=8, metadata=_from("ours", "the paper takes every step of its grid")
    )
    seed: int = field(default=0, metadata=_from("ours", ""))
    family: Family | None = field(
        default=None, metadata=_from("ours", "others than these models are warned of")
    )
    batch: int = field(
        default=16, metadata=_from("ours", "does not change the result beyond rounding")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("restarts", 1), ("short_steps", 1), ("batch", 1)):
            self._set(name, checks.integer(name, getattr(self, name), least))
        self._set("seed", checks.integer("seed", self.seed, 0, checks.MOST_SEED))
        for name in ("feature_timestep", "modulation_timestep"):
            self._set(name, checks.timestep(name, getattr(self, name)))
        self._set("strength", checks.number("strength", self.strength, above=0))
        self._set("sigma", checks.number("sigma", self.sigma, 0, _WIDEST))
        self._set("elsewhere", checks.number("elsewhere", self.elsewhere, 0, 1))
        self._set("injection", checks.flag("injection", self.injection))
        for name, choices in _CHOICES.items():
            self._choose(name, choices)
        for name in ("feature_site", "modulation_site"):
            self._set(name, str(Site.parse(getattr(self, name))))
        if not self.modulation_site.endswith((":out", ":mix")):
            raise ConfigError(
                f"modulation_site is {self.modulation_site!r}; choose a site's output, or the mix "
                "of an attention"
            )

    @classmethod
    def closest_to_paper(cls) -> Self:
        """The paper's settings for Stable Diffusion v1.4, as far as they are known."""
        return cls(family="stable-diffusion")

    @classmethod
    def playground(cls) -> Self:
        """Return what was chosen for the bundled model on validation scenes (docs/decisions/0007).

        Features are read at the least noise, as in the paper, but in the block's third transformer,
        at the queries of its self-attention, whose clusters match the scenes' parts best. The third
        of the block's cross-attentions moves pixels most sharply; it wants a larger shift, at more
        noise, and a narrow filter. Half the steps take half the time, and score as high.
        """
        return cls.for_family(
            "playground",
            family="playground",
            feature_site="up_blocks.1.attentions.2.transformer_blocks.0.attn1:query",
            feature_timestep=1,
            modulation_timestep=481,
            strength=40.0,
            sigma=0.5,
        )

    @classmethod
    def for_model(cls, model: Model, /, **changes: Any) -> Self:
        """Return the settings to start from with a model.

        Sites follow its layout: features are read in the first upward block with cross-attention,
        at its first attention to the text, and the third is shifted, or the last where there are
        fewer. In Stable Diffusion v1 these are the paper's, in XL those of 32 x 32 locations at
        1024 pixels, where each transformer has ten layers, of which the first is taken. Those of
        diffusion transformers follow a rule and are untried on published weights: the block in the
        middle and its attention, at the timesteps nearest to the paper's.

        Args:
            model: From `emerdiff_probe.load`, or a diffusers pipeline.
            **changes: Single settings.

        Raises:
            ModelError: It has no upward block with cross-attention.
        """
        model = as_model(model)
        if model.family == "playground":
            return cls.playground().replace(**changes)
        if not layout_of(model.unet).is_unet:
            return cls._for_transformer(model).replace(**changes)
        sites = [Site.parse(name) for name in model.sites().index]
        block = reading_block(sites)
        if block is None:
            raise ModelError(
                f"{model.name} has no upward block with cross-attention, so there is no site to "
                "start from; give a config with a feature_site and a modulation_site of your own"
            )
        first, *more = (
            site.path
            for site in sites
            if site.port == "query"
            and re.fullmatch(rf"{block}\.attentions\.\d+\.transformer_blocks\.0\.attn2", site.path)
        )
        shifted = [first, *more][:3][-1]
        fitting = cls(
            family=model.family, feature_site=f"{first}:query", modulation_site=f"{shifted}:out"
        )
        return fitting.replace(**changes)

    @classmethod
    def _for_transformer(cls, model: Denoiser) -> Self:
        """The settings to start from with a transformer, untried on published weights.

        All its blocks have one grid, so the block in the middle of the image's stream stands for
        the paper's. What is shifted is the output of its attention, whose gate differs between
        channels: of what has no gate, as a block's output or PixArt's cross-attention, a shift of
        all channels alike would be lost in the next normalisation. Timesteps are the nearest to the
        paper's; see `on_grid`.
        """
        sites = model.sites("blocks").index
        middle = sites[len(sites) // 2]
        block, known = Site.parse(middle).path, set(model.sites().index)
        outputs = (f"{block}.{attention}:out" for attention in ("attn", "attn1"))
        shifted = next((each for each in outputs if each in known), middle)
        fitting = cls.for_family(
            model.family,
            family=model.family,
            feature_site=middle,
            modulation_site=shifted,
        )
        size = (model.image_size, model.image_size)
        return fitting.on_grid(model.timesteps(fitting.steps, size))

    def on_grid(self, timesteps: Sequence[int]) -> Self:
        """Return the settings with t_f and t_m moved to the nearest of a run's timesteps.

        Args:
            timesteps: Timesteps of the run.
        """
        nearest = {
            name: min(timesteps, key=lambda each: abs(each - getattr(self, name)))
            for name in ("feature_timestep", "modulation_timestep")
        }
        return self.replace(**nearest)

    def of_run(self) -> RunSettings:
        """Return the settings that are decided when a run is made."""
        return RunSettings(**{name: getattr(self, name) for name in RunSettings.names()})

    def to_json(self) -> str:
        """All settings, for provenance."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def table(cls) -> pd.DataFrame:
        """Each setting's default, where it comes from (paper, inferred, ours), and a note."""
        rows = [
            {"setting": each.name, "default": each.default, **each.metadata}
            for each in dataclasses.fields(cls)
        ]
        return pd.DataFrame(rows).set_index("setting")
