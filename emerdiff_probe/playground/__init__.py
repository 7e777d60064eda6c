"""Provide the bundled model, a small latent diffusion model as a Stable Diffusion pipeline.

It draws pictures of 128 x 128 pixels, was trained on the scenes of :mod:`emerdiff_probe.scenes`,
and loads with ``StableDiffusionPipeline.from_pretrained`` like any other.
:mod:`~emerdiff_probe.playground.architecture` builds it and
:mod:`~emerdiff_probe.playground.train` trains it.
"""

from pathlib import Path

from emerdiff_probe.errors import ModelError

__all__ = ["folder"]


def folder() -> Path:
    """Return the folder of the bundled weights, which diffusers can load.

    Raises:
        ModelError: This copy of the package has no weights.
    """
    place = Path(__file__).parent / "weights"
    if not (place / "model_index.json").is_file():
        raise ModelError(
            f"no bundled weights in '{place}'. Install the package from a wheel, which carries "
            "them, or train them with emerdiff_probe.playground.train.train(folder)"
        )
    return place
