"""Edit one feature of a sparse autoencoder at a site."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from emerdiff_probe import checks
from emerdiff_probe.errors import ConfigError, SiteError
from emerdiff_probe.interventions.site_edits import SiteEdit
from emerdiff_probe.layers.dictionary import Dictionary
from emerdiff_probe.taps import Call

__all__ = ["EditFeature"]


@dataclass(frozen=True, eq=False)
class EditFeature(SiteEdit):
    """Change the activation of one feature and leave the rest of a location as it is.

    A location x where the feature's activation a becomes b turns into x + (b - a) d, where d is the
    feature's direction. What the dictionary does not reconstruct stays. Give exactly one of ``to``,
    ``times`` and ``add``.

    Attributes:
        dictionary: The dictionary, trained on this site.
        feature: The index of the feature, from 0.
        to: The new activation at every location; 0 removes the feature.
        times: A factor for the activation, so that only locations that have the feature change.
        add: A number, possibly negative, added at every location, whatever the activation.
    """

    dictionary: Dictionary = field(repr=False)
    feature: int
    to: float | None = field(default=None, kw_only=True)
    times: float | None = field(default=None, kw_only=True)
    add: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set("feature", checks.integer("feature", self.feature, 0, len(self.dictionary) - 1))
        said = {name: value for name in ("to", "times", "add")
                if (value := getattr(self, name)) is not None}  # fmt: skip
        if len(said) != 1:
            raise ConfigError(
                f"{self} sets {', '.join(said) or 'nothing'}; set one of to=, times= and add="
            )
        for name, value in said.items():
            self._set(name, checks.number(name, value))

    def edited(self, tensor: Tensor, call: Call) -> Tensor:
        """Return the tensor with the feature's activation changed.

        Raises:
            SiteError: The site has another number of channels than the dictionary.
        """
        rows = tensor.movedim(1, -1) if tensor.ndim == 4 else tensor
        if rows.shape[-1] != self.dictionary.channels:
            raise SiteError(
                f"'{self.site}' has {rows.shape[-1]} channels, and the dictionary has "
                f"{self.dictionary.channels}; choose the site that it was trained on"
            )
        if self.add is not None:
            change = torch.full_like(rows[..., :1], self.add, dtype=torch.float32)
        else:
            known = self._activation(rows.float())[..., None]
            change = (self.to or 0) - known + (self.times or 0) * known
        direction = torch.as_tensor(self.dictionary.decoder[self.feature]).to(change)
        changed = (rows + change * direction).to(rows)
        return changed.movedim(-1, 1) if tensor.ndim == 4 else changed

    def _activation(self, rows: Tensor) -> Tensor:
        """Return the activation as `Dictionary.encode` does; without TopK, only this one."""

        def here(values: object) -> Tensor:
            return torch.as_tensor(np.asarray(values)).to(rows)

        one, book = self.feature, self.dictionary
        inputs = rows - here(book.input_bias)
        only = slice(None) if book.k is not None else slice(one, one + 1)
        bias, threshold = (np.asarray(each) for each in (book.encoder_bias, book.threshold))
        found = inputs @ here(book.encoder[:, only]) + here(bias[only])
        own = found[..., one if book.k is not None else 0]
        active = own > float(threshold[one])
        if book.k is not None:
            active &= own >= found.topk(book.k).values[..., -1]
        return own * active
