"""Draw labelled arrays as plotly figures.

Every figure also works as a static web page, without a kernel.
"""

from emerdiff_probe.views.atlas import atlas
from emerdiff_probe.views.attention import attention
from emerdiff_probe.views.colours import overlay_image, palette
from emerdiff_probe.views.comparison import comparison, dendrogram, tradeoff
from emerdiff_probe.views.correspondence import correspondence, correspondence_page
from emerdiff_probe.views.effect import Replayed, effect
from emerdiff_probe.views.layers import layers, similarity
from emerdiff_probe.views.page import page
from emerdiff_probe.views.pictures import pictures
from emerdiff_probe.views.segments import low_resolution, overview, segments
from emerdiff_probe.views.sheets import contact_page, contact_sheet
from emerdiff_probe.views.tables import table
from emerdiff_probe.views.trajectory import trajectory

__all__ = [
    "Replayed",
    "atlas",
    "attention",
    "comparison",
    "contact_page",
    "contact_sheet",
    "correspondence",
    "correspondence_page",
    "dendrogram",
    "effect",
    "layers",
    "low_resolution",
    "overlay_image",
    "overview",
    "page",
    "palette",
    "pictures",
    "segments",
    "similarity",
    "table",
    "tradeoff",
    "trajectory",
]
