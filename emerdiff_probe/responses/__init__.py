"""Read answers from measured responses, without a model."""

from emerdiff_probe.responses.reading import (
    additivity_error,
    compress,
    latent_grid,
    movers,
    pixels_moved,
    response_of,
    segment_from,
)

__all__ = [
    "additivity_error",
    "compress",
    "latent_grid",
    "movers",
    "pixels_moved",
    "response_of",
    "segment_from",
]
