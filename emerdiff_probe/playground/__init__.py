"""The bundled model: a small latent diffusion model in the form of a Stable Diffusion pipeline.

It draws pictures of 128 x 128 pixels, was trained on the scenes of :mod:`emerdiff_probe.scenes`,
and loads with ``StableDiffusionPipeline.from_pretrained`` like any other. How it is built is in
:mod:`~emerdiff_probe.playground.architecture`, how it learns in
:mod:`~emerdiff_probe.playground.train`.
"""

from pathlib import Path

from emerdiff_probe.errors import ModelError

__all__ = ["folder"]


def folder() -> Path:
    """Where the bundled weights lie: a folder that diffusers can load.

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
