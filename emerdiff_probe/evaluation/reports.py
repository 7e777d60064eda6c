"""Write tables as files: Markdown to read, the scores behind it, and a figure of both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from emerdiff_probe.paths import made_at_once

__all__ = ["bullets", "draw", "to_markdown", "write"]


def to_markdown(table: pd.DataFrame) -> str:
    """Return a table in Markdown, with its index as the first column."""
    # As texts, so that numbers stay as they were rounded.
    return table.map(str).to_markdown(disable_numparse=True)


def bullets(sentences: Sequence[str]) -> str:
    """Return sentences as a list in Markdown."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def write(folder: Path, name: str, text: str, scores: pd.DataFrame, figure: go.Figure) -> None:
    """Write NAME.md, NAME.csv and NAME.png, each whole or not at all."""
    with made_at_once(folder / f"{name}.md", replace=True) as new:
        new.write_text(text)
    with made_at_once(folder / f"{name}.csv", replace=True) as new:
        scores.round(4).to_csv(new, index=False)
    draw(folder / f"{name}.png", figure)


def draw(path: Path, figure: go.Figure) -> None:
    """Draw a figure into a PNG file, whole or not at all."""
    with made_at_once(path, replace=True) as new:
        figure.write_image(new, scale=1.5)
