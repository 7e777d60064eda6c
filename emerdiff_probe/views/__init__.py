"""Labelled arrays in, plotly figures out."""

from emerdiff_probe.views.colours import overlay_image, palette
from emerdiff_probe.views.figures import low_resolution, overview, segments
from emerdiff_probe.views.page import page

__all__ = ["low_resolution", "overlay_image", "overview", "page", "palette", "segments"]
