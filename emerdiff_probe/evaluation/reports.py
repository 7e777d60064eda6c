"""Tables as files: Markdown to read, the scores behind it, and a figure of both."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

__all__ = ["bullets", "to_markdown", "write"]


def to_markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, its index as the first column."""
    header = [str(table.index.name or ""), *map(str, table.columns)]
    lines = [header, ["---"] * len(header)]
    # Not `table.values`, in which whole numbers beside fractions are fractions too.
    lines += [list(map(str, row)) for row in table.itertuples()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(sentences: Sequence[str]) -> str:
    """Sentences as a list in Markdown."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def write(folder: Path, name: str, text: str, scores: pd.DataFrame, figure: go.Figure) -> None:
    """Writes NAME.md, NAME.csv and NAME.png, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        f"{name}.md": text.encode(),
        f"{name}.csv": scores.round(4).to_csv(index=False).encode(),
        f"{name}.png": figure.to_image("png", scale=1.5),
    }
    for file, content in contents.items():
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as temporary:
            temporary.write(content)
        os.chmod(temporary.name, 0o644)
        os.replace(temporary.name, folder / file)
