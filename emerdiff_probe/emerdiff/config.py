"""Define the settings of EmerDiff, each with the source of its value."""

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
"""The widest filter in pixels: a wider one leaves nothing of a difference map but its mean."""

_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "normalise": get_args(Normalisation),
    "balance": get_args(Balance),
    "sides": ("both", "one"),
    "space": ("picture", "latent"),
}


@dataclass(frozen=True, kw_only=True)
class EmerDiffConfig(RunSettings):
    """All settings of a segmentation; the defaults are as close to the paper as is known.

    NumPy numbers are accepted. A value of another type or out of range raises `ConfigError`.

    ``EmerDiffConfig.table()`` states for each setting whether it is given in the paper, inferred
    from it, or our choice because the paper does not give it. The settings of `RunSettings` are
    fixed when a run is made; the others belong to a question to a run.

    Attributes:
        feature_site: The site whose features are clustered into low-resolution masks.
        feature_timestep: The timestep t_f at which features are read.
        normalise: The normalisation of features before k-means.
        restarts: The number of starts of k-means, of which the best is used.
        modulation_site: The site that is shifted.
        modulation_timestep: The timestep t_m of the shift.
        strength: The size lambda of the shift, in units of the site's output.
        injection: Whether modulated runs use the attention products of the unmodulated one.
        sigma: The standard deviation of the Gaussian filter on difference maps, in pixels of the
            model's image.
        balance: The divisor of each difference map before maps are compared; see
            `emerdiff_probe.segments.balanced`.
        elsewhere: The weight of differences outside a mask's own pixels, in [0, 1].
        seed: The seed of k-means; by default the run's own.
        sides: "both" for responses I+ minus I-; "one" for twice I+ minus the unmodulated image,
            which needs half the runs.
        space: Whether difference maps compare decoded images ("picture") or latents ("latent"),
            which decodes nothing.
        short_steps: The number of steps from t_m to the end, for the "short" engine.
        family: The family of models that the settings were made for.
        batch: The number of modulated runs that share a network call, halved if memory runs out;
            affects only speed and memory.
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
        """Return the paper's settings for Stable Diffusion v1.4, as far as they are known."""
        return cls(family="stable-diffusion")

    @classmethod
    def playground(cls) -> Self:
        """Return the settings chosen for the bundled model on validation scenes (decision 0007).

        Features are read at the least noise, as in the paper, but in the block's third transformer,
        at the queries of its self-attention, whose clusters match the scenes' parts best. The
        block's third cross-attention moves pixels most sharply; it needs a larger shift, at more
        noise, and a narrow filter. Half the steps take half the time and score as high.
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
        at its first attention to the text, and the third such attention is shifted, or the last if
        there are fewer. In Stable Diffusion v1 these are the paper's sites; in XL they are those of
        32 x 32 locations at 1024 pixels, where each transformer has ten layers, of which the first
        is used. The settings of diffusion transformers follow a rule and are untested on published
        weights: the middle block and its attention, at the timesteps nearest to the paper's.

        Args:
            model: A model from `emerdiff_probe.load`, or a diffusers pipeline.
            **changes: Single settings.

        Raises:
            ModelError: The model has no upward block with cross-attention.
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
                "start from; pass a config with your own feature_site and modulation_site"
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
        """Return the settings to start from with a transformer, untested on published weights.

        All its blocks have one grid, so the middle block of the image's stream stands for the
        paper's. The output of its attention is shifted, because its gate differs between channels.
        At a site without a gate, such as a block's output or PixArt's cross-attention, the next
        normalisation would remove a shift of all channels alike. Timesteps are the nearest to the
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
            timesteps: The timesteps of the run.
        """
        nearest = {
            name: min(timesteps, key=lambda each: abs(each - getattr(self, name)))
            for name in ("feature_timestep", "modulation_timestep")
        }
        return self.replace(**nearest)

    def of_run(self) -> RunSettings:
        """Return the settings that are fixed when a run is made."""
        return RunSettings(**{name: getattr(self, name) for name in RunSettings.names()})

    def to_json(self) -> str:
        """Return all settings as JSON, for provenance."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def table(cls) -> pd.DataFrame:
        """Return each setting's default, its source (paper, inferred, ours), and a note."""
        rows = [
            {"setting": each.name, "default": each.default, **each.metadata}
            for each in dataclasses.fields(cls)
        ]
        return pd.DataFrame(rows).set_index("setting")
