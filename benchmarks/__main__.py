"""Make the tables and pictures of docs/results: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from joblib import cpu_count

from benchmarks import (
    atlas,
    card,
    estimates,
    families,
    gpu,
    modulation,
    pictures,
    quality,
    recording,
    scenes,
    settings,
)
from benchmarks.task import Task
from emerdiff_probe.evaluation.rivals import of_unet
from emerdiff_probe.models import load

BENCHMARKS: Final = {
    "pictures": pictures.benchmark,
    "scenes": scenes.benchmark,
    "settings": settings.benchmark,
    "quality": quality.benchmark,
    "modulation": modulation.benchmark,
    "atlas": atlas.benchmark,
    "card": card.benchmark,
    "recording": recording.benchmark,
    "families": families.benchmark,
    "full-size": estimates.benchmark,
    "gpu": gpu.benchmark,
}


def main() -> None:
    """Run a benchmark, or resume one that was interrupted."""
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", choices=list(BENCHMARKS))
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="where tables go")
    parser.add_argument("--kept", type=Path, default=Path("build/benchmarks"), help="rows so far")
    parser.add_argument("--count", type=int, default=100, help="scenes; of recordings, steps")
    parser.add_argument("--model", default="playground")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--full-size", action="store_true", help="engines at Stable Diffusion v1's size too"
    )
    arguments = parser.parse_args()
    model = of_unet(load(arguments.model, dtype=arguments.dtype))
    processes = cpu_count() if model.device.type == "cpu" else 1
    BENCHMARKS[arguments.benchmark](
        Task(
            model,
            arguments.out,
            arguments.kept,
            arguments.count,
            processes,
            arguments.full_size,
        )
    )


if __name__ == "__main__":
    main()
