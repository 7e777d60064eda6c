"""How hard the scenes are: what colour, position and a network without training make of them."""

from __future__ import annotations

from emerdiff_probe import analysis
from emerdiff_probe.evaluation import rivals
from emerdiff_probe.evaluation.runs import SEGMENTS, Segmentor
from emerdiff_probe.evaluation.scoring import Segments
from emerdiff_probe.models import StableDiffusion
from emerdiff_probe.modulation import EmerDiffConfig, observe
from emerdiff_probe.scenes import Scene
from emerdiff_probe.schema import pixel_centres
from emerdiff_probe.sources import Photo

__all__ = ["world"]


def world(model: StableDiffusion) -> Segmentor:
    """How far colour, position, superpixels and an untrained network get.

    Colour and position, and superpixels, are each tried with several weights of position, so that
    the best of them is known. The features are those of `EmerDiffConfig.playground()`,
    interpolated bilinearly: of the model, and of the same network before any training.
    """
    config = EmerDiffConfig.playground()
    # Nothing is modulated here: the trajectory need not begin before the features' timestep.
    config = config.replace(modulation_timestep=config.feature_timestep)
    networks = {"trained": model, "untrained": rivals.untrained(model)}

    def segmentor(subject: Scene) -> dict[str, Segments]:
        found = {}
        for weight in (0.0, 0.5, 1.0, 2.0):
            found[f"k-means, colour + {weight:g} position"] = Segments(
                rivals.colour_and_position(subject.image, SEGMENTS, weight=weight)
            )
        for compactness in (3.0, 10.0, 30.0):
            found[f"SLIC, compactness {compactness:g}"] = Segments(
                rivals.superpixels(subject.image, SEGMENTS, compactness=compactness)
            )
        for name, network in networks.items():
            found[f"bilinear features, {name}"] = _bilinear_features(network, subject, config)
        return found

    return segmentor


def _bilinear_features(model: StableDiffusion, subject: Scene, config: EmerDiffConfig) -> Segments:
    features = observe(model, Photo(subject.image), config).features
    features = analysis.normalised(features, config.normalise)
    low_res = analysis.cluster(features, SEGMENTS, restarts=config.restarts, seed=config.seed)
    centroids = analysis.embeddings(features, analysis.one_hot(low_res, SEGMENTS))
    y, x = (pixel_centres(size, size) for size in subject.parts.shape)
    return Segments(analysis.bilinear_features(features, centroids, y, x).values, centroids)
